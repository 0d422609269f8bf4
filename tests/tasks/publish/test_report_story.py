"""The story of a run is what the ledger says, on SQLite and on PostgreSQL."""

from __future__ import annotations

from dataclasses import replace

import pytest
from sqlalchemy import text

from blocks.errors import LedgerError
from blocks.ledger import Ledger
from blocks.plan import Skip
from tasks.publish.report import gather
from tasks.publish.report.failures import kind_of
from tasks.publish.report.story import FailureGroup, Story
from tasks.publish.summary import run_summary
from tests.ledger_rows import Case, MadeUnit, made_unit, make_run, supersede
from tests.tasks.publish.told_run import ROOT, Judged, Told, attempt, case, gtest_argv, metric, tell


def open_unit(name: str, cases: list[Case], **more: str) -> MadeUnit:
    """A unit that is planned and not settled yet, so that admission settles it."""
    return made_unit(name, cases, terminal=None, delivered=False, **more)


def group(story: Story, kind: str) -> FailureGroup:
    return next(one for one in story.groups if one.kind == kind)


def test_the_numbers_are_those_of_the_summary(ledger: Ledger) -> None:
    made = make_run(
        ledger,
        [
            made_unit("a", [Case("T.ok"), Case("T.retried", "crashed", alone="passed"), Case("T.bad", "failed")]),
            made_unit("b", [Case("T.skipped", "skipped")], terminal="skipped", reason="every test skipped itself"),
            made_unit("c", [Case("T.x")], suite="inductor", terminal="lost", reason="poison", delivered=False),
            made_unit("d", [Case("T.y")], suite="inductor", terminal="not_run", reason="cancelled", delivered=False),
            made_unit("e", [Case("T.z")], suite="inductor", terminal=None, delivered=False),
            made_unit("f", [Case("T.w")], suite="inductor", silent=["T.silent"]),
        ],
    )
    story, summary = gather(ledger, made.run), run_summary(ledger, made.run)
    books = story.books
    assert summary["units"] == {
        "planned": books.planned, "ran": books.ran, "skipped": books.skipped, "not_run": books.not_run,
        "lost": books.lost, "open": books.open,
    }  # fmt: skip
    for suite in ("libtorch", "inductor"):
        (cell,) = [cell for cell in story.cells if cell.suite == suite]
        assert cell.outcomes == summary["after_retry"][suite]
    assert story.company["crashed"] == 1
    assert "crashed" not in story.outcomes
    assert story.missing == summary["missing"] == 1
    assert story.missing_names == ("f: T.silent",)


def test_units_that_did_not_run_stand_with_their_reason_the_worst_first(ledger: Ledger) -> None:
    units = [
        made_unit("s", [Case("T.a")], terminal="skipped", reason="needs cuda", delivered=False),
        made_unit("n", [Case("T.b")], terminal="not_run", reason="cancelled", delivered=False),
        made_unit("l", [Case("T.c")], terminal="lost", reason="poison", delivered=False),
        made_unit("back", [Case("T.d")], terminal="lost", reason="expired"),
    ]
    made = make_run(ledger, units, left_out=[Skip("libtorch", "cpu", "protoc", "no gtest")])
    supersede(ledger, made.run, made.units["back"], "ran", "arrived after lost")
    story = gather(ledger, made.run)
    assert [(r.what, r.reason, r.count, r.names) for r in story.reasons] == [
        ("lost", "poison", 1, ("l",)),
        ("not_run", "cancelled", 1, ("n",)),
        ("skipped", "needs cuda", 1, ("s",)),
    ]
    assert [(r.reason, r.names) for r in story.left_out] == [("no gtest", ("protoc",))]


def test_reasons_beyond_what_a_page_holds_are_summed_up(ledger: Ledger) -> None:
    units = [made_unit(f"u{n}", [], terminal="lost", reason=f"reason {n}", delivered=False) for n in range(70)]
    story = gather(ledger, make_run(ledger, units).run)
    assert len(story.reasons) == 51
    assert sum(reason.count for reason in story.reasons) == 70


def told_failure(ledger: Ledger) -> Story:
    company = [case("test_api", "A.good"), case("test_api", "A.bad", "failed", 0.5, "expected 1\ngot 2")]
    alone = [case("test_api", "A.bad", "failed", 0.4, "expected 1\ngot 2")]
    attempts = (
        attempt(1, 1.0, company, argv=gtest_argv("test_api"), output="[ RUN ] A.bad in company"),
        attempt(2, 2.0, alone, argv=gtest_argv("test_api", "A.bad"), alone="A.bad", output="[ RUN ] A.bad alone"),
    )
    unit = open_unit("test_api", [Case("A.good"), Case("A.bad")])
    unit = replace(unit, unit=replace(unit.unit, spec={"binary": "site/torch/bin/test_api"}))
    verdict = Judged(
        "libtorch", "test_api::A.bad", "broke", True, evidence={"previous_outcome": "passed", "final": "failed"}
    )
    tell(ledger, [Told(unit, attempts)], verdicts=[verdict])
    return gather(ledger, "r-told")


def test_a_new_failure_comes_with_message_output_evidence_tries_and_command(ledger: Ledger) -> None:
    story = told_failure(ledger)
    (failure,) = group(story, "new").failures
    assert (failure.suite, failure.environment, failure.test) == ("libtorch", "cpu", "test_api::A.bad")
    assert (failure.cause, failure.gates, failure.outcome) == ("broke", True, "failed")
    assert failure.message is not None
    assert failure.message.head == "expected 1\ngot 2"
    assert failure.output is not None
    assert failure.output.head == "[ RUN ] A.bad alone"
    assert ("previous_outcome", "passed") in failure.evidence
    assert [(t.mode, t.outcome, t.seconds) for t in failure.tries] == [
        ("company", "failed", 0.5),
        ("alone", "failed", 0.4),
    ]
    assert failure.command == (
        f"env LD_LIBRARY_PATH={ROOT}/site/torch/lib {ROOT}/site/torch/bin/test_api --gtest_filter=A.bad"
    )


@pytest.mark.parametrize(
    ("cause", "gates", "evidence", "kind"),
    [
        ("broke", True, {}, "new"),
        ("unknown", True, {"quarantined": {}}, "new"),
        ("order_dependent", False, {"quarantined": {"reason": "r"}}, "order_dependent"),
        ("broken_trunk", False, {"quarantined": {"reason": "r"}}, "quarantined"),
        ("broken_trunk", False, {}, "known"),
        ("flaky", False, {}, "other"),
    ],
)
def test_a_failure_stands_with_those_that_mean_the_same(
    cause: str, gates: bool, evidence: dict[str, str], kind: str
) -> None:

    assert kind_of(cause, gates, evidence) == kind


def test_a_failure_that_nobody_has_judged_is_shown_as_such(ledger: Ledger) -> None:
    made = make_run(ledger, [made_unit("a", [Case("T.bad", "failed", message="boo")])])
    (failure,) = group(gather(ledger, made.run), "unjudged").failures
    assert failure.test == "a::T.bad"
    assert failure.cause == ""


def test_a_verdict_that_was_withdrawn_is_no_failure(ledger: Ledger) -> None:
    tell(
        ledger,
        [Told(open_unit("a", [Case("T.x")]), (attempt(1, 1.0, [case("a", "T.x")]),))],
        verdicts=[Judged("libtorch", "a::*", "infra", False, evidence={"withdrawn": "no longer lost"})],
    )
    assert gather(ledger, "r-told").groups == ()


def test_a_thousand_failures_are_counted_and_a_hundred_shown(ledger: Ledger) -> None:
    names = [f"T.bad{n:04}" for n in range(1000)]
    unit = open_unit("a", [Case(name) for name in names])
    results = [case("a", name, "failed", 0.001, "m" * 2000) for name in names]
    verdicts = [Judged("libtorch", f"a::{name}", "broke", True) for name in names]
    tell(ledger, [Told(unit, (attempt(1, 1.0, results),))], verdicts=verdicts)
    new = group(gather(ledger, "r-told"), "new")
    assert (new.total, len(new.failures)) == (1000, 100)


def test_the_timeline_holds_every_attempt_in_its_slot_and_shows_idleness(ledger: Ledger) -> None:
    units = [
        Told(open_unit("a", [Case("T.a")]), (attempt(1, 10.0, [case("a", "T.a", seconds=20.0)]),), slot=0),
        Told(open_unit("b", [Case("T.b")]), (attempt(1, 10.0, [case("b", "T.b", "failed", 5.0)]),), slot=1),
    ]
    tell(ledger, units)
    timeline = gather(ledger, "r-told").timeline
    assert timeline is not None
    first, second = timeline.lanes
    assert (first.slot, second.slot) == (0, 1)
    assert (first.spans[0].outcome, second.spans[0].outcome) == ("passed", "failed")
    assert first.busy_seconds == pytest.approx(20.0)
    assert second.busy_seconds == pytest.approx(5.0)
    assert timeline.busy_seconds == pytest.approx(25.0)
    assert timeline.end - timeline.start == pytest.approx(20.1, abs=0.01)


@pytest.mark.parametrize("off", [7200, -7200])
def test_a_machine_whose_clock_is_off_by_hours_still_stands_in_its_lease(ledger: Ledger, off: int) -> None:
    first = attempt(1, 10.0, [case("a", "T.a", "failed", 5.0)])
    again = attempt(2, 25.0, [case("a", "T.a", "passed", 5.0)], alone="T.a")
    made = tell(ledger, [Told(open_unit("a", [Case("T.a")]), (first, again))])
    with ledger.write() as connection:  # moving the lease is the same as a clock that is off the other way
        connection.execute(text(f"UPDATE leases SET granted = granted + {off}, ended = ended + {off}"))
    timeline = gather(ledger, made.run).timeline
    assert timeline is not None
    assert timeline.end - timeline.start == pytest.approx(20.1, abs=0.01)
    ends = [(span.start - timeline.start, span.end - timeline.start) for span in timeline.lanes[0].spans]
    assert ends == [pytest.approx((0.0, 5.0), abs=0.2), pytest.approx((15.0, 20.0), abs=0.2)]


def test_short_attempts_share_a_bar_and_bad_ones_never_vanish_in_it(ledger: Ledger) -> None:
    units = [
        Told(open_unit(f"u{n}", [Case("T.t0")]), (attempt(1, 1 + n * 0.01, [case(f"u{n}", "T.t0", seconds=0.001)]),))
        for n in range(150)
    ]
    bad = Told(open_unit("bad", [Case("T.t0")]), (attempt(1, 1.7, [case("bad", "T.t0", "crashed", 0.001)]),), slot=0)
    long = Told(open_unit("long", [Case("T.t0")]), (attempt(1, 5, [case("long", "T.t0", seconds=5000.0)]),), slot=0)
    tell(ledger, [*units, bad, long])
    timeline = gather(ledger, "r-told").timeline
    assert timeline is not None
    spans = timeline.lanes[0].spans
    assert sum(span.count for span in spans) == 152
    assert len(spans) < 10
    assert [span.count for span in spans if span.outcome == "crashed"] == [1]


def test_benchmarks_come_as_a_row_per_model_with_their_intervals(ledger: Ledger) -> None:
    figures = [
        metric("mlp", "", "speedup", 1.3, "x", 0.05), metric("mlp", "inductor", "latency", 0.6, "ms", 0.02),
        metric("mlp", "eager", "latency", 0.8, "ms", 0.02), metric("mlp", "inductor", "compile_time", 6.0, "s"),
    ]  # fmt: skip
    unit = made_unit("mlp", suite="benchmark", kind="benchmark", terminal=None, delivered=False)
    tell(ledger, [Told(unit, (attempt(1, 1.0, [case("bench.py", "mlp")], metrics=figures),))])
    (table,) = gather(ledger, "r-told").benchmarks
    assert table.columns == (
        ("latency", "eager"),
        ("latency", "inductor"),
        ("speedup", ""),
        ("compile_time", "inductor"),
    )
    ((model, row),) = table.rows
    assert model == "mlp"
    assert row["speedup", ""].low == pytest.approx(1.235)
    assert row["compile_time", "inductor"].low is None


def test_attempts_that_do_not_count_are_told_with_their_reason(ledger: Ledger) -> None:
    made = make_run(ledger, [made_unit("a", [Case("T.a")]), made_unit("late", [Case("T.b")], counted=False)])
    story = gather(ledger, made.run)
    assert story.attempts == 2
    assert [(one.reason, one.count, one.examples[0][0]) for one in story.uncounted] == [("superseded", 1, "late")]
    assert [test.test for test in story.slow_tests] == ["a::T.a"]


def test_machine_isolation_builds_and_events_are_told(ledger: Ledger) -> None:
    story = told_failure(ledger)
    assert [machine.id for machine in story.machines] == ["m-0"]
    assert "8481C" in story.machines[0].headline
    assert "2 cores" in story.machines[0].headline
    assert story.isolation == {"bubblewrap": 2}
    assert story.builds[0].name == "torch"
    assert story.events["bundle.admitted"] >= 1


def test_a_run_that_never_got_a_plan_can_be_told(ledger: Ledger) -> None:
    made = make_run(ledger, [], state="planning", exit_code=None)
    story = gather(ledger, made.run)
    assert story.books.planned == 0
    assert story.timeline is None
    assert "plan" in story.sentence


def test_a_run_that_does_not_exist_is_said_to_be_missing(ledger: Ledger) -> None:
    with pytest.raises(LedgerError, match="no run r-none"):
        gather(ledger, "r-none")


def test_the_story_can_be_told_twice_with_the_same_words(ledger: Ledger) -> None:
    first = told_failure(ledger)
    second = gather(ledger, "r-told")
    assert replace(first, asked=0) == replace(second, asked=0)
