"""Asking the ledger: what the views hold, and what a query cannot do."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from blocks.errors import LedgerError
from blocks.ledger import Ledger
from blocks.ledger.query import open_query, run_query, view_columns
from blocks.ledger.views import VIEWS, named_in
from tasks.collect.segments import cut_segments
from tests.ledger_rows import Case, MadeUnit, add_part, made_unit, make_run, open_made, supersede

PROMISED = ["run", "suite", "environment", "unit", "test", "outcome", "seconds", "attempt", "machine", "pool", "vendor"]
METRIC = {
    "model": "mlp", "mode": "inductor", "name": "speedup", "value": 1.25, "unit": "x", "low": 1.2, "high": 1.3,
    "samples": [1.2, 1.3],
}  # fmt: skip


def some_units() -> list[MadeUnit]:
    return [
        made_unit("test_api", [Case("A.passes"), Case("A.fails", "failed", alone="passed", message="boom")]),
        made_unit("test_x", [Case("TestX.test_a"), Case("test_b[a::b]", "skipped")], kind="pytest", suite="python"),
        made_unit("mlp", kind="benchmark", suite="benchmark", metrics=(METRIC,)),
        made_unit("never", [Case("N.x")], terminal="not_run", reason="cancelled", delivered=False),
    ]


def test_results_are_seen_at_once_and_do_not_change_when_they_are_cut(ledger: Ledger):
    make_run(ledger, some_units())
    questions = [f"SELECT * FROM {view} ORDER BY ALL" for view in ("all_results", "results", "metrics", "tests")]
    before = [run_query(ledger, question) for question in questions]
    assert [len(rows) for rows in before] == [5, 5, 1, 4]
    assert cut_segments(ledger, everything=True) == 2
    assert [run_query(ledger, question) for question in questions] == before


def test_a_result_says_what_is_promised_of_it(ledger: Ledger):
    made = make_run(ledger, some_units())
    (row,) = run_query(ledger, "SELECT * FROM results WHERE outcome = 'failed'")
    assert set(PROMISED) <= row.keys()
    assert row["test"] == "test_api::A.fails"
    assert (row["run"], row["unit"]) == (made.run, made.units["test_api"])
    assert (row["suite"], row["environment"]) == ("libtorch", "cpu")
    assert (row["mode"], row["message"]) == ("company", "boom")
    assert (row["machine"], row["pool"], row["vendor"]) == ("m-0", "pool-0", "foundation")
    assert row["started"] == "2026-09-21T14:13:21+00:00"
    assert run_query(ledger, f"SELECT count(*) AS n FROM attempts WHERE attempt = '{row['attempt']}'") == [{"n": 1}]


def test_results_holds_counted_attempts_and_all_results_says_why_the_others_are_not(ledger: Ledger):
    made = make_run(ledger, [made_unit("test_api", [Case("A.x")])])
    add_part(ledger, made, made_unit("test_api", [Case("A.x", "failed")], counted=False, uncounted_reason="late"))
    counts = "SELECT counted, outcome, reason FROM all_results ORDER BY counted"
    assert run_query(ledger, counts) == [
        {"counted": False, "outcome": "failed", "reason": "late"},
        {"counted": True, "outcome": "passed", "reason": ""},
    ]
    assert run_query(ledger, "SELECT outcome FROM results") == [{"outcome": "passed"}]
    cut_segments(ledger, everything=True)
    assert run_query(ledger, "SELECT outcome FROM results") == [{"outcome": "passed"}]


def test_a_unit_shows_the_settlement_that_stands(ledger: Ledger):
    unit = made_unit("a", [Case("A.x")], terminal="lost", reason="poison")
    made = make_run(ledger, [unit, made_unit("b", [Case("B.x")], terminal=None, delivered=False)])
    states = "SELECT name, state, reason FROM units ORDER BY name"
    assert run_query(ledger, states) == [
        {"name": "a", "state": "lost", "reason": "poison"},
        {"name": "b", "state": "pending", "reason": ""},
    ]
    supersede(ledger, made.run, unit.unit.id, "ran", "arrived after lost")
    assert run_query(ledger, states)[0] == {"name": "a", "state": "ran", "reason": "arrived after lost"}


def test_every_view_answers_on_an_empty_ledger_and_on_a_full_one(ledger: Ledger):
    assert {view: run_query(ledger, f"SELECT * FROM {view}") for view in VIEWS} == {view: [] for view in VIEWS}
    make_run(ledger, some_units())
    cut_segments(ledger, everything=True)
    for view, columns in view_columns().items():
        rows = run_query(ledger, f"SELECT * FROM {view}")
        json.dumps(rows)
        assert [list(row) for row in rows] == [columns] * len(rows), view
        assert rows or view in ("verdicts", "builds", "dark", "dark_anywhere"), view


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ledger]:
    """A ledger with one cut run, for questions that leave no trace."""
    opened = open_made(tmp_path_factory.mktemp("full"))
    make_run(opened, some_units())
    cut_segments(opened, everything=True)
    yield opened
    opened.close()


def test_values_fit_into_json(full: Ledger):
    sql = """SELECT sum(i) AS whole, 1.5::DECIMAL(4, 2) AS part, TIMESTAMPTZ '2026-01-02 03:04:05+02' AS at,
        'nan'::DOUBLE AS nothing, [1, 2] AS list, {'a': DATE '2026-01-02'} AS struct, '\\xAA'::BLOB AS raw,
        INTERVAL 90 SECONDS AS span, MAP {'k': 1} AS map, count(*) AS n, count(i) AS n
        FROM range(3) t(i)"""
    assert run_query(full, sql) == [
        {
            "whole": 3, "part": 1.5, "at": "2026-01-02T01:04:05+00:00", "nothing": None, "list": [1, 2],
            "struct": {"a": "2026-01-02"}, "raw": "aa", "span": 90.0, "map": {"k": 1}, "n": 3, "n_2": 3,
        }
    ]  # fmt: skip


def test_a_wrong_query_is_told_duckdbs_reason_and_the_columns_there_are(full: Ledger):
    with pytest.raises(LedgerError) as caught:
        run_query(full, "SELECT colour FROM results")
    assert '"colour" not found' in caught.value.what
    assert "results: run, suite, environment, unit" in caught.value.do
    assert all(f"  {view}: " in caught.value.do for view in VIEWS)


FORBIDDEN = [
    "SELECT * FROM read_csv('/etc/passwd')",
    "SELECT * FROM read_text('/etc/passwd')",
    "SELECT * FROM '/etc/passwd'",
    "SELECT * FROM glob('/etc/*')",
    "COPY (SELECT 1) TO '{out}'",
    "ATTACH '{out}'",
    "INSTALL httpfs",
    "PRAGMA database_list",
    "PRAGMA enable_profiling",
    "CALL pragma_version()",
    "FROM sniff_csv('/etc/passwd')",
    "LOAD httpfs",
    "SET enable_external_access = true",
    "RESET lock_configuration",
    "EXPORT DATABASE '{out}'",
    "CREATE TABLE t AS SELECT 1",
    "DROP VIEW results",
    "EXPLAIN ANALYZE COPY (SELECT 1) TO '{out}'",
    "SELECT 1; SELECT 2",
    "",
]


@pytest.mark.parametrize("sql", FORBIDDEN)
def test_a_query_cannot_touch_the_machine_or_change_anything(full: Ledger, sql: str, tmp_path: Path):
    out = tmp_path / "out"
    with open_query(full) as reader:
        for ask in (reader.rows, reader.dicts, reader.arrow):
            with pytest.raises(LedgerError):
                ask(sql.replace("{out}", str(out)))
        assert reader.rows("SELECT count(*) FROM results") == [(5,)]
    assert not out.exists()


@pytest.mark.parametrize("tail", ["", " (FORMAT parquet, USE_TMP_FILE false)"])
def test_a_query_cannot_overwrite_a_segment_although_it_may_read_it(full: Ledger, tail: str):
    (path,) = full.results.rglob("kind=results/**/*.parquet")
    before = path.read_bytes()
    with pytest.raises(LedgerError):
        run_query(full, f"COPY (SELECT 1 AS results) TO '{path}'{tail}")
    assert path.read_bytes() == before


def test_a_query_loads_only_what_it_names():
    assert [view.name for view in named_in("select count(*) from RESULTS r join units using (run, unit)")] == [
        "units",
        "results",
    ]
    assert named_in("SELECT 1") == []
    assert len(named_in("SHOW TABLES")) == len(VIEWS)


def test_a_reader_of_one_run_sees_nothing_of_another(ledger: Ledger):
    make_run(ledger, some_units(), run="one")
    cut_segments(ledger, everything=True)
    make_run(ledger, some_units(), run="two")
    with open_query(ledger, runs=["two"]) as reader:
        for view in ("runs", "units", "results", "all_results", "metrics", "attempts", "leases"):
            assert reader.rows(f"SELECT DISTINCT run FROM {view}") == [("two",)]


def test_a_damaged_bundle_is_told_and_the_rest_answers(ledger: Ledger, caplog: pytest.LogCaptureFixture):
    made = make_run(ledger, [made_unit("a", [Case("A.x")]), made_unit("b", [Case("B.x")])], units_per_lease=1)
    path = ledger.store.path(made.bundles[0])
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    with open_query(ledger, "results") as reader:
        assert reader.rows("SELECT test FROM results") == [("b::B.x",)]
    assert [made.bundles[0].removeprefix("sha256:") in str(error) for error in reader.damaged] == [True]
    assert "Rows are missing from this query" in caplog.text
    os.unlink(path)
    with open_query(ledger, "results") as reader:
        assert "is not in the store any more" in str(reader.damaged[0])


def test_many_damaged_bundles_are_one_warning_with_their_number(ledger: Ledger, caplog: pytest.LogCaptureFixture):
    units = [made_unit(name, [Case("A.x")]) for name in "abc"]
    for bundle in make_run(ledger, units, units_per_lease=1).bundles:
        os.unlink(ledger.store.path(bundle))
    with open_query(ledger, "results") as reader:
        assert len(reader.damaged) == 3
    assert [message.split(" cannot")[0] for message in caplog.messages] == [
        "Rows are missing from this query: 3 bundles"
    ]
