"""Judging runs in a real ledger: what is read, what is written, and that judging twice changes nothing."""

from __future__ import annotations

import datetime
import json
import threading
from collections.abc import Sequence

import pytest
from sqlalchemy import func, select

from blocks.canonical import digest_json
from blocks.catalog.models import Quarantined
from blocks.errors import LedgerError, StaleDriver, TrustError
from blocks.ledger import Ledger
from blocks.ledger.query import run_query
from blocks.ledger.schema import events, verdicts
from tasks.collect.driver import Seat
from tasks.collect.segments import cut_segments
from tasks.judge.judge import Judgement, judge_run
from tests.ledger_rows import BASE_TIME, Case, MadeUnit, add_part, made_unit, make_run, supersede

TODAY = datetime.date(2026, 11, 23)
DAY = 86_400.0


def judge(ledger: Ledger, run: str, *quarantine: Quarantined) -> Judgement:
    return judge_run(ledger, run, quarantine, TODAY)


def entry(test: str) -> Quarantined:
    return Quarantined(
        suite="libtorch", test=test, reason="rounds wrongly", owner="core", expires=datetime.date(2026, 12, 31)
    )


def api(*cases: Case, **fate: object) -> MadeUnit:
    return made_unit("test_api", cases, **fate)  # type: ignore[arg-type]


def rows(ledger: Ledger, run: str) -> Sequence[tuple[str, int, str, bool]]:
    with ledger.read() as connection:
        query = select(verdicts.c.test, verdicts.c.ordinal, verdicts.c.cause, verdicts.c.gates)
        ordered = query.where(verdicts.c.run == run).order_by(verdicts.c.test, verdicts.c.ordinal)
        return [tuple(row) for row in connection.execute(ordered)]


def event_count(ledger: Ledger) -> int:
    with ledger.read() as connection:
        return connection.scalar(select(func.count()).where(events.c.kind == "verdict.decided")) or 0


@pytest.mark.parametrize("cut", [False, True])
def test_a_night_with_every_kind_of_failure(ledger: Ledger, cut: bool):
    make_run(ledger, [api(Case("A.old", "failed", alone="failed"), Case("A.new"))], run="r-0", created=BASE_TIME)
    cases = [
        Case("A.good"),
        Case("A.new", "failed", alone="failed"),
        Case("A.old", "failed", alone="failed"),
        Case("A.order", "crashed", alone="passed"),
        Case("A.rounds", "failed", alone="failed"),
    ]
    make_run(ledger, [api(*cases)], run="r-1", created=BASE_TIME + DAY)
    if cut:
        cut_segments(ledger, everything=True)
    judged = judge(ledger, "r-1", entry("test_api::A.rounds"))
    assert judged.exit_code == 1
    assert judged.sentence == ("1 test newly broke (test_api::A.new) (1 quarantined, 1 failed before, 1 pass alone).")
    assert [v.test for v in judged.new_broken] == ["test_api::A.new"]
    assert [v.test for v in judged.known] == ["test_api::A.old"]
    assert [v.test for v in judged.quarantined] == ["test_api::A.rounds"]
    assert [v.test for v in judged.order_dependent] == ["test_api::A.order"]
    assert rows(ledger, "r-1") == [
        ("test_api::A.new", 1, "broke", True),
        ("test_api::A.old", 1, "broken_trunk", False),
        ("test_api::A.order", 1, "order_dependent", False),
        ("test_api::A.rounds", 1, "broke", False),
    ]
    assert run_query(ledger, "SELECT test FROM verdicts WHERE gates") == [{"test": "test_api::A.new"}]


def test_a_verdicts_evidence_names_the_attempts_and_the_run_before(ledger: Ledger):
    make_run(ledger, [api(Case("A.x"))], run="r-0", created=BASE_TIME)
    make_run(ledger, [api(Case("A.x", "failed", alone="failed"))], run="r-1", created=BASE_TIME + DAY)
    judge(ledger, "r-1")
    ((text,),) = [tuple(row.values()) for row in run_query(ledger, "SELECT evidence FROM verdicts")]
    evidence = json.loads(text)
    known = run_query(ledger, "SELECT attempt, mode, outcome FROM attempts WHERE run = 'r-1' ORDER BY ordinal")
    assert evidence["attempts"] == known
    assert (evidence["previous_run"], evidence["previous_outcome"]) == ("r-0", "passed")


def test_a_clean_first_run_ends_with_0(ledger: Ledger):
    make_run(ledger, [api(Case("A.x"), Case("A.order", "failed", alone="passed"))], run="r-1")
    judged = judge(ledger, "r-1")
    assert (judged.exit_code, judged.new_broken) == (0, ())


def test_only_a_complete_run_of_the_same_environment_says_what_is_known(ledger: Ledger):
    broken = Case("A.x", "failed", alone="failed")
    make_run(ledger, [api(broken, environment="cuda")], run="other-environment", created=BASE_TIME)
    make_run(ledger, [api(broken)], run="cancelled", created=BASE_TIME + 1, state="cancelled")
    make_run(ledger, [api(broken)], run="failed", created=BASE_TIME + 2, state="failed")
    make_run(ledger, [api(broken)], run="later", created=BASE_TIME + 9)
    make_run(ledger, [api(broken)], run="judged", created=BASE_TIME + 3)
    assert [v.cause for v in judge(ledger, "judged").new_broken] == ["broke"]


def test_what_passed_alone_in_the_run_before_did_not_fail_there(ledger: Ledger):
    make_run(ledger, [api(Case("A.x", "timed_out", alone="passed"))], run="r-0", created=BASE_TIME)
    make_run(ledger, [api(Case("A.x", "failed", alone="failed"))], run="r-1", created=BASE_TIME + DAY)
    assert len(judge(ledger, "r-1").new_broken) == 1


def test_judging_again_adds_nothing_while_nothing_changed(ledger: Ledger):
    make_run(ledger, [api(Case("A.x", "failed", alone="failed"), Case("A.y", "crashed"))], run="r-1")
    first = judge(ledger, "r-1")
    before, told = rows(ledger, "r-1"), event_count(ledger)
    cut_segments(ledger, everything=True)
    again = judge(ledger, "r-1")
    assert (first.written, again.written) == (2, 0)
    assert rows(ledger, "r-1") == before
    assert event_count(ledger) == told == 1
    assert again.sentence == first.sentence


def test_a_changed_verdict_supersedes_and_the_old_row_stays(ledger: Ledger):
    make_run(ledger, [api(Case("A.x", "failed", alone="failed"), Case("A.y", "crashed"))], run="r-1")
    judge(ledger, "r-1")
    assert judge(ledger, "r-1", entry("test_api::A.x")).written == 1
    assert rows(ledger, "r-1") == [
        ("test_api::A.x", 1, "broke", True),
        ("test_api::A.x", 2, "broke", False),
        ("test_api::A.y", 1, "broke", True),
    ]
    assert run_query(ledger, "SELECT test, gates FROM verdicts ORDER BY test") == [
        {"test": "test_api::A.x", "gates": False},
        {"test": "test_api::A.y", "gates": True},
    ]
    assert event_count(ledger) == 2


def test_one_event_carries_the_hash_of_the_rows_that_were_written(ledger: Ledger):
    make_run(ledger, [api(Case("A.x", "failed"), Case("A.y", "crashed"))], run="r-1")
    judge(ledger, "r-1")
    with ledger.read() as connection:
        (body,) = connection.scalars(select(events.c.body).where(events.c.kind == "verdict.decided"))
        written = connection.execute(select(verdicts).order_by(verdicts.c.test)).mappings().all()
    content = [{key: row[key] for key in row if key != "decided"} for row in written]
    told = json.loads(body)["body"]
    assert (told["verdicts"], told["gating"], told["digest"]) == (2, 2, digest_json(content))


def test_two_judges_at_once_write_each_verdict_once(ledger: Ledger):
    make_run(ledger, [api(*(Case(f"A.t{n}", "failed") for n in range(20)))], run="r-1")
    written: list[int] = []
    judges = [threading.Thread(target=lambda: written.append(judge(ledger, "r-1").written)) for _ in range(2)]
    for one in judges:
        one.start()
    for one in judges:
        one.join(60)
    assert sorted(written) == [0, 20]
    assert len(rows(ledger, "r-1")) == 20


def test_a_poisoned_unit_gates_and_is_withdrawn_when_its_results_come_after_all(ledger: Ledger):
    unit = api(Case("A.x"), terminal="lost", reason="poison: it was in hand when three leases died", delivered=False)
    made = make_run(ledger, [unit], run="r-1")
    judged = judge(ledger, "r-1")
    assert judged.exit_code == 1
    assert judged.sentence == "1 test newly broke (test_api::*)."
    supersede(ledger, "r-1", made.units["test_api"], "ran", "arrived after lost")
    add_part(ledger, made, api(Case("A.x")))
    assert judge(ledger, "r-1").exit_code == 0
    assert rows(ledger, "r-1") == [("test_api::*", 1, "broke", True), ("test_api::*", 2, "infra", False)]
    assert judge(ledger, "r-1").written == 0


def test_a_late_bad_result_is_evidence_and_decides_nothing(ledger: Ledger):
    made = make_run(ledger, [api(Case("A.x"))], run="r-1")
    add_part(ledger, made, api(Case("A.x", "failed"), counted=False, uncounted_reason="superseded"))
    assert judge(ledger, "r-1").exit_code == 0
    assert rows(ledger, "r-1") == []


def test_units_that_did_not_run_and_tests_without_results_are_no_success(ledger: Ledger):
    units = [
        made_unit("a", [Case("A.x")], silent=["A.silent"]),
        made_unit("b", [Case("B.x")], terminal="not_run", reason="no host fits", delivered=False),
        made_unit("c", [Case("C.x")], terminal="skipped", reason="disabled", delivered=False),
    ]
    make_run(ledger, units, run="r-1")
    judged = judge(ledger, "r-1")
    assert judged.exit_code == 1
    assert judged.sentence == "1 unit did not run (no host fits) and 1 planned test of units that ran have no result."
    assert (judged.missing, judged.not_run) == (1, {"no host fits": 1})


def test_a_cancelled_run_says_so(ledger: Ledger):
    units = [made_unit("a", [Case("A.x")]), made_unit("b", [Case("B.x")], terminal="not_run", reason="cancelled")]
    make_run(ledger, units, run="r-1", state="cancelled")
    assert judge(ledger, "r-1").sentence == "The run was cancelled and 1 of 2 units did not run."


def test_an_unknown_run_is_no_run_to_judge(ledger: Ledger):
    with pytest.raises(LedgerError, match="no run 'r-9'"):
        judge(ledger, "r-9")


def test_another_units_pass_alone_does_not_turn_a_failure_green(ledger: Ledger):
    first = made_unit("one", [Case("test_a", "failed", alone="failed")], kind="pytest")
    second = made_unit("two", [Case("test_a", "failed", alone="passed")], kind="pytest")
    object.__setattr__(second, "file", first.file)  # the same test, by its name
    make_run(ledger, [first, second], run="r-1")
    assert [v.test for v in judge(ledger, "r-1").new_broken] == ["one.py::test_a"]


# -- the run before ------------------------------------------------------------------------------------------------


def nights(ledger: Ledger, *units: list[MadeUnit]) -> Judgement:
    """Complete runs, a day apart; the last one is judged."""
    for number, planned in enumerate(units):
        make_run(ledger, planned, run=f"r-{number}", created=BASE_TIME + number * DAY)
    return judge(ledger, f"r-{len(units) - 1}")


BROKEN = Case("A.x", "failed", alone="failed")


def test_a_run_of_some_tests_only_does_not_make_an_old_failure_new(ledger: Ledger):
    judged = nights(ledger, [api(BROKEN)], [made_unit("other", [Case("B.y")])], [api(BROKEN)])
    assert (judged.exit_code, [v.test for v in judged.known]) == (0, ["test_api::A.x"])
    (verdict,) = judged.known
    assert (verdict.evidence["previous_run"], verdict.evidence["previous_outcome"]) == ("r-0", "failed")


def test_the_newest_run_in_which_the_test_has_an_outcome_decides(ledger: Ledger):
    judged = nights(ledger, [api(BROKEN)], [api(Case("A.x"))], [made_unit("other", [Case("B.y")])], [api(BROKEN)])
    assert [v.evidence["previous_run"] for v in judged.new_broken] == ["r-1"]


def test_what_failed_longer_ago_than_twenty_complete_runs_is_new_again(ledger: Ledger):
    other = [made_unit("other", [Case("B.y")])]
    for number in range(20):
        make_run(ledger, other, run=f"between-{number}", created=BASE_TIME + 100 + number)
    make_run(ledger, [api(BROKEN)], run="old", created=BASE_TIME)
    make_run(ledger, [api(BROKEN)], run="now", created=BASE_TIME + DAY)
    assert [v.test for v in judge(ledger, "now").new_broken] == ["test_api::A.x"]
    make_run(ledger, [api(BROKEN)], run="nearer", created=BASE_TIME + 101)
    assert [v.evidence["previous_run"] for v in judge(ledger, "now").known] == ["nearer"]


def test_of_two_outcomes_in_the_run_before_the_worse_one_counts(ledger: Ledger):
    twin = made_unit("twin", [Case("A.x")])
    object.__setattr__(twin, "file", "test_api")
    judged = nights(ledger, [api(BROKEN), twin], [api(BROKEN)])
    assert [v.evidence["previous_outcome"] for v in judged.known] == ["failed"]


def test_a_unit_that_ran_since_it_was_last_lost_is_newly_lost(ledger: Ledger):
    lost = api(Case("A.x"), terminal="lost", reason="poison: three leases died", delivered=False)
    assert [v.test for v in nights(ledger, [lost], [lost]).known] == ["test_api::*"]
    make_run(ledger, [api(Case("A.x"))], run="fine", created=BASE_TIME + 2 * DAY)
    make_run(ledger, [lost], run="again", created=BASE_TIME + 3 * DAY)
    assert [v.evidence["previous_run"] for v in judge(ledger, "again").new_broken] == ["fine"]


# -- the driver, and a store that lost something -------------------------------------------------------------------


def test_a_driver_that_lost_its_seat_writes_no_verdict(ledger: Ledger):
    make_run(ledger, [api(BROKEN)], run="r-1")
    with pytest.raises(StaleDriver):
        judge_run(ledger, "r-1", (), TODAY, seat=Seat("r-1", "host:1:1", epoch=0))
    assert rows(ledger, "r-1") == []
    assert judge_run(ledger, "r-1", (), TODAY, seat=Seat("r-1", "host:1:1", epoch=1)).written == 1


@pytest.mark.parametrize("damage", ["lost", "other content", "empty"])
def test_a_bundle_lost_or_damaged_is_told_and_the_run_is_judged_all_the_same(ledger: Ledger, damage: str):
    units = [made_unit("a", [BROKEN]), made_unit("b", [Case("B.x")])]
    made = make_run(ledger, units, run="r-1", units_per_lease=1)
    path = ledger.store.path(made.bundles[1])
    path.unlink() if damage == "lost" else path.write_bytes(b"" if damage == "empty" else b"\x1f\x8b\x08 something")
    with pytest.raises(TrustError):
        cut_segments(ledger, everything=True)
    judged = judge(ledger, "r-1")
    assert judged.exit_code == 1
    assert judged.sentence.startswith("1 test newly broke (a::A.x), 1 planned test of units that ran have no result")
    assert "1 bundle in the store cannot be trusted any more" in judged.sentence
