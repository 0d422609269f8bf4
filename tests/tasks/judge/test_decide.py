"""Verdicts, from what was seen to the cause: one test per rule."""

from __future__ import annotations

import datetime

import pytest

from blocks.catalog.models import Quarantined
from tasks.judge.conclude import Accounts, conclude
from tasks.judge.decide import Seen, Sighting, Verdict, decide

TODAY = datetime.date(2026, 11, 23)


def seen(company: str = "failed", alone: str | None = None, **known: object) -> Seen:
    sightings = [Sighting("a-1", "company", company, True, 1)]
    if alone:
        sightings.append(Sighting("a-2", "alone", alone, True, 2))
    return Seen("cpu", "libtorch", "test_api::A.x", tuple(sightings), **known)  # type: ignore[arg-type]


def entry(test: str = "test_api::A.*", **fields: object) -> Quarantined:
    values = {"suite": "libtorch", "owner": "core", "reason": "rounding", "expires": "2026-12-31", **fields}
    return Quarantined.model_validate({"test": test, **values})


def only(one: Seen, *quarantine: Quarantined) -> Verdict:
    (verdict,) = decide([one], quarantine, TODAY)
    return verdict


@pytest.mark.parametrize("company", ["failed", "crashed", "error", "timed_out"])
def test_what_is_bad_in_company_and_good_alone_depends_on_order_and_does_not_gate(company: str):
    verdict = only(seen(company, alone="passed"))
    assert (verdict.cause, verdict.gates, verdict.standing) == ("order_dependent", False, "order_dependent")
    assert verdict.evidence["attempts"] == [
        {"attempt": "a-1", "mode": "company", "outcome": company},
        {"attempt": "a-2", "mode": "alone", "outcome": "passed"},
    ]


def test_what_fails_alone_too_and_did_not_fail_before_broke_and_gates():
    for previous in (None, "passed", "skipped"):
        verdict = only(seen("failed", alone="failed", previous_run="r-0", previous=previous))
        assert (verdict.cause, verdict.gates, verdict.standing) == ("broke", True, "new")
    assert verdict.evidence["previous_run"] == "r-0"


def test_what_was_never_tried_alone_is_judged_by_its_outcome_in_company():
    assert only(seen("crashed")).cause == "broke"
    assert only(seen("crashed")).outcome == "crashed"


def test_what_failed_in_the_last_complete_run_is_a_broken_trunk_and_does_not_gate():
    verdict = only(seen("failed", alone="failed", previous_run="r-0", previous="timed_out"))
    assert (verdict.cause, verdict.gates, verdict.standing) == ("broken_trunk", False, "known")


def test_a_test_that_crashes_first_and_fails_alone_is_judged_by_how_it_did_alone():
    assert only(seen("crashed", alone="failed")).outcome == "failed"


def test_the_last_try_alone_decides():
    tries = (
        Sighting("a-1", "company", "failed", True, 1),
        Sighting("a-2", "alone", "failed", True, 2),
        Sighting("a-3", "alone", "passed", True, 3),
    )
    assert only(Seen("cpu", "libtorch", "t", tries)).cause == "order_dependent"


def test_attempts_that_are_not_counted_decide_nothing_and_are_evidence():
    tries = (Sighting("a-1", "company", "failed", True, 1), Sighting("a-9", "alone", "passed", False, 2, "late"))
    verdict = only(Seen("cpu", "libtorch", "t", tries))
    assert verdict.cause == "broke"
    assert verdict.evidence["attempts"][1] == {
        "attempt": "a-9", "mode": "alone", "outcome": "passed", "counted": False, "reason": "late",
    }  # fmt: skip


def test_a_quarantined_test_is_recorded_with_reason_and_expiry_and_does_not_gate():
    verdict = only(seen("failed", alone="failed"), entry())
    assert (verdict.cause, verdict.gates, verdict.standing) == ("broke", False, "quarantined")
    assert verdict.evidence["quarantined"]["reason"] == "rounding"
    assert verdict.evidence["quarantined"]["expires"] == "2026-12-31"


def test_a_quarantined_test_that_was_not_tried_alone_has_no_known_cause():
    assert only(seen("failed"), entry()).cause == "unknown"


@pytest.mark.parametrize(
    ("quarantine", "covered"),
    [
        (entry(), True),
        (entry(expires="2026-11-23"), True),
        (entry(expires="2026-11-22"), False),
        (entry(environments=["cuda*"]), False),
        (entry(environments=["cuda*", "cpu"]), True),
        (entry(suite="inductor"), False),
        (entry("test_api::B.*"), False),
        (entry("test_api::A.x"), True),
        (entry("*"), True),
    ],
)
def test_quarantine_holds_for_its_suite_tests_environments_and_time(quarantine: Quarantined, covered: bool):
    assert only(seen("failed", alone="failed"), quarantine).gates is not covered


def test_a_parametrised_name_can_be_quarantined_as_it_is_written():
    one = Seen("cpu", "python", "test_x.py::test_a[1-x]", (Sighting("a", "company", "failed", True, 1),))
    assert not only(one, entry("test_x.py::test_a[1-x]", suite="python")).gates


def test_a_poisoned_unit_gates_unless_it_is_quarantined_or_was_poison_before():
    lost = Seen("cpu", "libtorch", "test_api::*", (), lost="poison", unit="u-1")
    assert (only(lost).cause, only(lost).gates) == ("broke", True)
    assert only(lost).evidence["lost"] == {"unit": "u-1", "reason": "poison"}
    assert not only(lost, entry("test_api::*")).gates
    before = Seen("cpu", "libtorch", "test_api::*", (), "r-0", "crashed", lost="poison", unit="u-1")
    assert only(before).standing == "known"


def test_verdicts_come_in_one_order_whatever_order_the_tests_came_in():
    some = [Seen(e, "s", t, (Sighting("a", "company", "failed", True, 1),)) for e in "ba" for t in "zy"]
    assert decide(some, [], TODAY) == decide(some[::-1], [], TODAY)


# -- the sentence --------------------------------------------------------------------------------------------------


def test_a_clean_run_is_said_in_one_sentence():
    assert conclude([], Accounts(planned=115)) == (
        0,
        "All 115 planned units are accounted for and nothing new is broken.",
    )


def test_known_failures_are_told_beside_and_do_not_count():
    verdicts = decide([seen(alone="passed"), seen(alone="failed")], [entry()], TODAY)
    code, sentence = conclude(verdicts, Accounts(planned=1))
    assert code == 0
    assert sentence == ("All 1 planned unit is accounted for and nothing new is broken (1 quarantined, 1 pass alone).")


def test_new_failures_are_named():
    many = [Seen("cpu", "s", f"t{n}", (Sighting("a", "company", "failed", True, 1),)) for n in range(5)]
    assert conclude(decide(many, [], TODAY), Accounts(planned=1)) == (1, "5 tests newly broke (t0, t1, t2 and 2 more).")


@pytest.mark.parametrize(
    ("accounts", "sentence"),
    [
        (
            Accounts(400, "cancelled", not_run={"cancelled": 120}),
            "The run was cancelled and 120 of 400 units did not run.",
        ),
        (Accounts(9, not_run={"no host fits": 2}), "2 units did not run (no host fits)."),
        (Accounts(9, lost={"unreported": 1}), "1 unit ended lost (unreported)."),
        (Accounts(9, "running", open=3), "3 units of 9 have no terminal state yet."),
        (Accounts(9, missing=2), "2 planned tests of units that ran have no result."),
        (Accounts(9, damaged=1), "1 bundle in the store cannot be trusted any more."),
    ],
)
def test_what_is_not_accounted_for_is_said_and_is_no_success(accounts: Accounts, sentence: str):
    assert conclude([], accounts) == (1, sentence)


def test_a_pass_alone_in_one_unit_does_not_hide_a_failure_in_another():
    def of(unit: str, *outcomes: tuple[str, str]) -> list[Sighting]:
        return [Sighting(f"{unit}{n}", mode, outcome, True, n, "", unit) for n, (mode, outcome) in enumerate(outcomes)]

    broken = of("u-1", ("company", "failed"), ("alone", "failed"))
    flattering = of("u-2", ("company", "passed"), ("company", "passed"), ("alone", "passed"))
    for sightings in (broken + flattering, flattering + broken, broken[:1] + flattering):
        verdict = only(Seen("cpu", "libtorch", "test_api::A.x", tuple(sightings)))
        assert (verdict.standing, verdict.outcome, verdict.gates) == ("new", "failed", True)
