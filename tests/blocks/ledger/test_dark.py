"""Tests that went dark: found, told apart, and not found where nothing is dark."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from blocks.ledger import Ledger
from blocks.ledger.query import run_query
from blocks.plan import Skip
from tasks.collect.segments import cut_segments
from tests.ledger_rows import BASE_TIME, Case, MadeUnit, made_unit, make_run

NIGHTS = "SELECT why, test, reason, last_run, runs FROM dark WHERE run = 'now' ORDER BY why, test"


def night(ledger: Ledger, name: str, day: float, units: list[MadeUnit], **more: object) -> None:
    make_run(ledger, units, run=name, created=BASE_TIME + day * 86_400, **more)  # type: ignore[arg-type]


def dark(ledger: Ledger) -> list[tuple[str, str, str, str, int]]:
    return [tuple(row.values()) for row in run_query(ledger, NIGHTS)]  # type: ignore[misc]


def several() -> list[MadeUnit]:
    return [
        made_unit("a", [Case("A.stays"), Case("A.goes")]),
        replace(made_unit("b [1/2]", [Case("B.one")]), file="b"),
        made_unit("c", [Case("C.x")]),
        made_unit("d", [Case("D.x"), Case("D.y")]),
        made_unit("e", [Case("E.x")]),
        made_unit("f", [Case("test_f")], kind="pytest"),
        made_unit("m", [Case("mlp.correctness")], kind="benchmark"),
    ]


@pytest.mark.parametrize("cut", [False, True])
def test_each_silence_is_told_apart(ledger: Ledger, cut: bool) -> None:
    night(ledger, "before", 0, several())
    night(
        ledger,
        "now",
        1,
        [
            made_unit("a", [Case("A.stays")]),  # A.goes has vanished: its unit is another one now
            made_unit("b", [Case("B.new")], silent=["B.one"]),  # planned in another piece, ran, and said nothing
            made_unit("c", [Case("C.x")], terminal="lost", reason="poison", delivered=False),
            made_unit("d", [Case("D.x")]),
            made_unit("f", [Case("test_f", "skipped")], kind="pytest"),
            made_unit("m", [], kind="benchmark", terminal="not_run", reason="no machine fits", delivered=False),
        ],
        left_out=[
            Skip("libtorch", "cpu", "d::D.y", "disabled in its source"),
            Skip("libtorch", "cpu", "e", "needs a device"),
        ],
    )
    if cut:
        cut_segments(ledger, everything=True)
    assert dark(ledger) == [
        ("left_out", "d::D.y", "disabled in its source", "before", 1),
        ("left_out", "e::E.x", "needs a device", "before", 1),
        ("no_result", "b::B.one", "", "before", 1),
        ("unit_not_run", "c::C.x", "lost: poison", "before", 1),
        ("unit_not_run", "m::mlp.correctness", "not_run: no machine fits", "before", 1),
        ("vanished", "a::A.goes", "", "before", 1),
    ]


def test_a_night_like_the_one_before_has_nothing_dark(ledger: Ledger) -> None:
    night(ledger, "before", 0, several())
    night(ledger, "now", 1, several())
    assert run_query(ledger, "SELECT * FROM dark") == []


def test_a_test_counts_as_before_when_it_ran_in_one_of_the_last_three_complete_runs(ledger: Ledger) -> None:
    whole = [made_unit("a", [Case("A.x"), Case("A.y")])]
    half = [made_unit("a", [Case("A.x")])]
    night(ledger, "1", 1, [made_unit("a", [Case("A.x"), Case("A.old")])])
    night(ledger, "2", 2, whole)
    night(ledger, "3", 3, whole)
    night(ledger, "4", 4, half)
    night(ledger, "cancelled", 5, [made_unit("a", [Case("A.x"), Case("A.never")])], state="cancelled")
    night(ledger, "now", 6, half)
    night(ledger, "later", 7, [made_unit("a", [Case("A.x"), Case("A.later")])])
    assert dark(ledger) == [("vanished", "a::A.y", "", "3", 2)]


def test_a_run_is_compared_with_runs_of_the_same_suite_and_environment_only(ledger: Ledger) -> None:
    night(ledger, "1", 1, [made_unit("a", [Case("A.x"), Case("A.y")])])
    for number in range(4):
        night(ledger, f"other-{number}", 2 + number, [made_unit("p", [Case("P.x")], suite="python")])
        night(ledger, f"gpu-{number}", 2.5 + number, [made_unit("a", [Case("A.z")], environment="gpu")])
    night(ledger, "now", 9, [made_unit("a", [Case("A.x")])])
    assert dark(ledger) == [("vanished", "a::A.y", "", "1", 1)]


def test_a_reason_that_stood_there_when_the_test_ran_does_not_explain_that_it_is_gone(ledger: Ledger) -> None:
    some = [Skip("libtorch", "cpu", "a", "2 tests are not in the sample")]
    night(ledger, "before", 0, [made_unit("a", [Case("A.x"), Case("A.y")])], left_out=some)
    night(ledger, "now", 1, [made_unit("a", [Case("A.x")])], left_out=some)
    assert [row[:2] for row in dark(ledger)] == [("vanished", "a::A.y")]


def test_a_test_that_was_only_skipped_before_did_not_run_there(ledger: Ledger) -> None:
    night(ledger, "before", 0, [made_unit("a", [Case("A.x"), Case("A.y", "skipped")])])
    night(ledger, "now", 1, [made_unit("a", [Case("A.x")])])
    assert dark(ledger) == []


def test_what_may_still_come_is_not_dark(ledger: Ledger) -> None:
    night(ledger, "before", 0, several())
    units = [*several()[1:], made_unit("a", [Case("A.stays"), Case("A.goes")], terminal=None, delivered=False)]
    night(ledger, "now", 1, units, state="running")
    assert dark(ledger) == []


def test_a_result_that_came_too_late_leaves_its_test_dark(ledger: Ledger) -> None:
    night(ledger, "before", 0, [made_unit("a", [Case("A.x")])])
    night(ledger, "now", 1, [made_unit("a", [Case("A.x")], terminal="lost", reason="expired", counted=False)])
    assert [row[:3] for row in dark(ledger)] == [("unit_not_run", "a::A.x", "lost: expired")]


def test_a_suite_that_was_left_out_altogether_is_told(ledger: Ledger) -> None:
    night(ledger, "before", 0, [made_unit("a", [Case("A.x")]), made_unit("p", [Case("P.x")], suite="python")])
    night(ledger, "now", 1, [made_unit("a", [Case("A.x")])], left_out=[Skip("python", "cpu", "p", "no python here")])
    assert [row[:3] for row in dark(ledger)] == [("left_out", "p::P.x", "no python here")]


def test_tests_that_ran_nowhere_for_a_week_are_listed(ledger: Ledger) -> None:
    today = (time.time() - BASE_TIME) / 86_400
    night(ledger, "old", today - 9, [made_unit("a", [Case("A.x"), Case("A.gone"), Case("A.skips")])])
    night(ledger, "week", today - 6, [made_unit("a", [Case("A.x"), Case("A.skips", "skipped")], environment="gpu")])
    night(ledger, "today", today, [made_unit("a", [Case("A.skips", "skipped"), Case("A.new")], environment="gpu")])
    rows = run_query(ledger, "SELECT test, environments, last_run FROM dark_anywhere ORDER BY test")
    assert rows == [
        {"test": "a::A.gone", "environments": ["cpu"], "last_run": "old"},
        {"test": "a::A.skips", "environments": ["cpu", "gpu"], "last_run": "old"},
    ]


def test_completeness_adds_up_for_each_environment_and_suite(ledger: Ledger) -> None:
    units = [
        made_unit("a", [Case("A.x")]),
        made_unit("b", [Case("B.x")], terminal="not_run", reason="cancelled", delivered=False),
        made_unit("c", [Case("C.x"), Case("C.y")], terminal="lost", reason="", delivered=False),
        made_unit("d", [Case("D.x", "skipped")], terminal="skipped", reason="every test skipped itself"),
        made_unit("e", [Case("E.x")], terminal=None, delivered=False),
        made_unit("p", [Case("P.x")], suite="python", environment="gpu"),
    ]
    night(ledger, "now", 0, units, state="running")
    first, second = run_query(ledger, "SELECT * FROM completeness ORDER BY suite")
    assert first == {
        "run": "now", "environment": "cpu", "suite": "libtorch", "planned": 5, "ran": 1, "skipped": 1, "not_run": 1,
        "lost": 1, "open": 1, "unexplained": 1, "tests": 6,
        "reasons": {"lost: ": 1, "not_run: cancelled": 1, "skipped: every test skipped itself": 1},
    }  # fmt: skip
    assert second["environment"] == "gpu"
    assert (second["planned"], second["ran"], second["reasons"]) == (1, 1, {})
