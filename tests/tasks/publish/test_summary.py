"""The summary of a run: its numbers add up, and nothing planned is left out of them."""

from __future__ import annotations

import json

import pytest

from blocks.errors import LedgerError
from blocks.ledger import Ledger
from blocks.plan import Skip
from tasks.collect.segments import cut_segments
from tasks.publish.report.gather import gather
from tasks.publish.summary import resolve_run, run_list, run_summary
from tests.ledger_rows import BASE_TIME, Case, MadeRun, MadeUnit, add_part, made_unit, make_run, supersede


def mixed_units() -> list[MadeUnit]:
    return [
        made_unit(
            "a", [Case("A.good"), Case("A.order", "crashed", alone="passed"), Case("A.bad", "failed", alone="failed")]
        ),
        made_unit("b", [Case("B.skipped", "skipped")], terminal="skipped", reason="every test skipped itself"),
        made_unit("c", [Case("C.x")], terminal="not_run", reason="cancelled", delivered=False),
        made_unit("d", [Case("D.x")], terminal="lost", reason="poison", delivered=False),
        made_unit("e", [Case("test_e")], kind="pytest", suite="python"),
    ]


@pytest.mark.parametrize("cut", [False, True])
def test_everything_planned_is_accounted_for(ledger: Ledger, cut: bool):
    left_out = [Skip("libtorch", "cpu", "protoc", "no gtest")]
    make_run(ledger, mixed_units(), run="r-1", left_out=left_out, seconds=90)
    if cut:
        cut_segments(ledger, everything=True)
    summary = run_summary(ledger, "r-1")
    assert summary["units"] == {"planned": 5, "ran": 2, "skipped": 1, "not_run": 1, "lost": 1}
    assert summary["suites"]["libtorch"] == {"planned": 4, "ran": 1, "skipped": 1, "not_run": 1, "lost": 1}
    assert summary["suites"]["python"] == {"planned": 1, "ran": 1, "skipped": 0, "not_run": 0, "lost": 0}
    assert summary["reasons"] == {
        "skipped": {"every test skipped itself": 1},
        "not_run": {"cancelled": 1},
        "lost": {"poison": 1},
    }
    assert summary["attempts"] == {"total": 5, "counted": 5, "alone": 2, "not_counted": {}}
    assert summary["results"]["libtorch"] == {"crashed": 1, "failed": 1, "passed": 1, "skipped": 1}
    assert summary["after_retry"]["libtorch"] == {"failed": 1, "passed": 2, "skipped": 1}
    assert summary["results"]["python"] == summary["after_retry"]["python"] == {"passed": 1}
    assert (summary["missing"], summary["missing_tests"]) == (0, [])
    assert summary["left_out"] == [{"suite": "libtorch", "environment": "cpu", "name": "protoc", "reason": "no gtest"}]
    assert summary["wall_seconds"] == 90.0
    assert (summary["exit_code"], summary["sentence"]) == (0, "It ended.")
    assert [(m["machine"], m["pool"], m["attempts"]) for m in summary["machines"]] == [("m-0", "pool-0", 5)]
    json.dumps(summary)


def test_while_a_run_goes_on_its_open_units_are_counted_beside(ledger: Ledger):
    units = [made_unit("a", [Case("A.x")]), made_unit("b", [Case("B.x")], terminal=None, delivered=False)]
    make_run(ledger, units, run="r-1", state="running")
    summary = run_summary(ledger, "r-1")
    assert summary["units"] == {"planned": 2, "ran": 1, "skipped": 0, "not_run": 0, "lost": 0, "open": 1}
    assert summary["finished"] is None
    assert summary["missing"] == 0


def test_a_planned_test_without_a_result_is_missing_by_name(ledger: Ledger):
    units = [
        made_unit("a", [Case("A.x")], silent=["A.silent"]),
        made_unit("b", [Case("TestB.test_b[a::b]")], silent=["TestB.test_silent"], kind="pytest", suite="python"),
        made_unit("never_reported", [], silent=["N.one", "N.two"]),
        made_unit("whole", [Case("W.x")]),
        made_unit("gone", [Case("G.x")], terminal="not_run", reason="cancelled", delivered=False),
    ]
    make_run(ledger, units, run="r-1")
    summary = run_summary(ledger, "r-1")
    assert summary["missing"] == 4
    assert sorted((test["unit_name"], test["test"]) for test in summary["missing_tests"]) == [
        ("a", "A.silent"),
        ("b", "b.py::TestB::test_silent"),
        ("never_reported", "N.one"),
        ("never_reported", "N.two"),
    ]


def test_a_lost_unit_with_some_results_does_not_hide_one_that_ran_without_any(ledger: Ledger):
    units = [
        made_unit("lost", [Case("L.x")], terminal="lost", reason="poison"),
        made_unit("silent", [], silent=["S.x"]),
    ]
    make_run(ledger, units, run="r-1")
    assert [test["test"] for test in run_summary(ledger, "r-1")["missing_tests"]] == ["S.x"]


def test_a_result_that_came_twice_does_not_stand_in_for_a_missing_one(ledger: Ledger):
    make_run(ledger, [made_unit("a", [Case("A.x"), Case("A.x")], silent=["A.y"])], run="r-1")
    summary = run_summary(ledger, "r-1")
    assert summary["missing"] > 0
    assert [test["test"] for test in summary["missing_tests"]] == ["A.y"]


def test_results_of_late_attempts_are_told_and_not_counted(ledger: Ledger):
    made = make_run(ledger, [made_unit("a", [Case("A.x")])], run="r-1")
    add_part(ledger, made, made_unit("a", [Case("A.x", "failed")], counted=False, uncounted_reason="late"))
    summary = run_summary(ledger, "r-1")
    assert summary["attempts"] == {"total": 2, "counted": 1, "alone": 0, "not_counted": {"late": 1}}
    assert summary["results"] == {"libtorch": {"passed": 1}}


def test_a_unit_counts_by_the_settlement_that_stands(ledger: Ledger):
    unit = made_unit("a", [Case("A.x")], terminal="lost", reason="poison")
    make_run(ledger, [unit], run="r-1")
    supersede(ledger, "r-1", unit.unit.id, "ran", "arrived after lost")
    assert run_summary(ledger, "r-1")["units"] == {"planned": 1, "ran": 1, "skipped": 0, "not_run": 0, "lost": 0}


def test_a_damaged_bundle_is_told_and_its_tests_are_missing(ledger: Ledger):
    made = make_run(ledger, [made_unit("a", [Case("A.x")])], run="r-1")
    ledger.store.path(made.bundles[0]).write_bytes(b"changed")
    summary = run_summary(ledger, "r-1")
    assert summary["missing"] == 1
    assert len(summary["damaged"]) == 1


def three_runs(ledger: Ledger) -> list[MadeRun]:
    names = ["r-20261121-aaaa", "r-20261122-bbbb", "r-20261123-bbcc"]
    return [
        make_run(ledger, [made_unit("a", [Case("A.x")])], run=name, created=BASE_TIME + n)
        for n, name in enumerate(names)
    ]


def test_runs_are_listed_newest_first_with_their_units(ledger: Ledger):
    assert run_list(ledger) == []
    three_runs(ledger)
    make_run(ledger, [], run="planning", state="planning", created=BASE_TIME + 9)
    listed = run_list(ledger)
    assert [run["id"] for run in listed] == ["planning", "r-20261123-bbcc", "r-20261122-bbbb", "r-20261121-aaaa"]
    assert listed[1] == {
        "id": "r-20261123-bbcc",
        "flow": "nightly",
        "state": "complete",
        "created": "2026-09-21T14:13:22+00:00",
        "finished": "2026-09-21T14:14:22+00:00",
        "units": {"planned": 1, "ran": 1, "skipped": 0, "not_run": 0, "lost": 0},
        "exit_code": 0,
        "sentence": "It ended.",
    }
    assert listed[0]["units"]["planned"] == 0
    assert [run["id"] for run in run_list(ledger, limit=1)] == ["planning"]


def test_a_run_is_found_by_id_by_a_unique_start_and_as_latest(ledger: Ledger):
    three_runs(ledger)
    assert resolve_run(ledger, "r-20261122-bbbb") == "r-20261122-bbbb"
    assert resolve_run(ledger, "r-20261121") == "r-20261121-aaaa"
    assert resolve_run(ledger, "latest") == "r-20261123-bbcc"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("r-2026112", "3 runs start with 'r-2026112': r-20261123-bbcc"),
        ("r-20261122-bbxb", "Did you mean r-20261122-bbbb"),
        ("zzz", "The newest are r-20261123-bbcc"),
        ("", "There is no run ''"),
    ],
)
def test_an_unknown_run_is_answered_with_the_ones_there_are(ledger: Ledger, text: str, told: str):
    three_runs(ledger)
    with pytest.raises(LedgerError) as caught:
        resolve_run(ledger, text)
    assert told in str(caught.value)


def test_a_ledger_without_runs_says_how_to_start_one(ledger: Ledger):
    with pytest.raises(LedgerError, match="holds no run yet"):
        run_summary(ledger, "latest")


def test_a_damaged_file_of_an_earlier_run_says_so_and_keeps_nothing_of_this_one_from_being_told(ledger: Ledger) -> None:
    make_run(ledger, [made_unit("a", [Case("A.x"), Case("A.y")])], run="before")
    cut_segments(ledger, everything=True)
    for path in ledger.results.rglob("*.parquet"):
        path.unlink()
    make_run(ledger, [made_unit("a", [Case("A.x")])], run="now", created=BASE_TIME + 60)
    cut_segments(ledger, everything=True)

    summary = run_summary(ledger, "now")
    assert summary["units"]["ran"] == 1
    assert summary["results"] == {"libtorch": {"passed": 1}}
    assert summary["dark"]["trouble"].startswith("It could not be compared with the runs before")
    assert summary["dark"]["compared_with"] == []
    assert gather(ledger, "now").dark_trouble == summary["dark"]["trouble"]
