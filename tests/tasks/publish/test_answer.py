"""Answers to queries as table, CSV, JSON and Parquet: the same rows, streamed, whole or not at all."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from blocks.errors import CommonfleetError, LedgerError
from blocks.ledger import Ledger
from blocks.ledger.query import open_query
from deployments.cli.looking import query_ledger
from tests.faults.rounds import SOAK
from tests.ledger_rows import Case, made_unit, make_run, open_made

ROWS = "SELECT test, outcome, seconds, started, message, final FROM results ORDER BY test"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "home"
    ledger = open_made(root)
    make_run(ledger, [made_unit("a", [Case("A.x"), Case('A.[b],"c"', "failed", message="two\nlines, \u2013")])])
    ledger.close()
    monkeypatch.setenv("COMMONFLEET_HOME", str(root))
    return root


def ask(sql: str, kind: str | None, out: Path | None = None, *, as_json: bool = False) -> None:
    assert query_ledger(sql, kind, out, as_json=as_json) == 0


def test_every_format_holds_the_same_rows(home: Path, tmp_path: Path) -> None:
    for kind in ("csv", "json", "parquet", "txt"):
        ask(ROWS, None, tmp_path / f"rows.{kind}")
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert [row["outcome"] for row in rows] == ["failed", "passed"]
    assert rows[0]["message"] == "two\nlines, \u2013"
    assert rows[1]["message"] is None
    with (tmp_path / "rows.csv").open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    spelt: dict[type, Any] = {type(None): lambda _: "", bool: lambda value: str(value).lower()}
    assert lines == [{key: spelt.get(type(v), str)(v) for key, v in row.items()} for row in rows]
    table = pq.read_table(tmp_path / "rows.parquet")
    assert str(table.schema.field("started").type) == "timestamp[us, tz=UTC]"
    assert [{**row, "started": row["started"].isoformat()} for row in table.to_pylist()] == rows
    assert 'a::A.[b],"c"' in (tmp_path / "rows.txt").read_text()


def test_json_to_the_terminal_is_what_it_was(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ask(ROWS, None, as_json=True)
    assert [row["test"] for row in json.loads(capsys.readouterr().out)] == ['a::A.[b],"c"', "a::A.x"]
    ask("SELECT 1 AS n WHERE false", "json")
    assert json.loads(capsys.readouterr().out) == []


def test_lists_and_repeated_names_have_a_place_in_every_format(home: Path, tmp_path: Path) -> None:
    sql = "SELECT [1, 2] AS n, MAP {'k': 1} AS n, 170141183460469231731687303715884105727::HUGEINT AS big"
    for kind in ("csv", "json"):
        ask(sql, kind, tmp_path / kind)
    assert json.loads((tmp_path / "json").read_text()) == [{"n": [1, 2], "n_2": {"k": 1}, "big": 2**127 - 1}]
    assert list(csv.reader(io.StringIO((tmp_path / "csv").read_text())))[1] == ["[1, 2]", '{"k": 1}', str(2**127 - 1)]
    ask("SELECT 1 AS n, 2 AS n", "parquet", tmp_path / "p")
    assert pq.read_table(tmp_path / "p").to_pylist() == [{"n": 1, "n_2": 2}]


def test_a_table_shows_the_first_rows_and_says_how_many_more_there_are(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ask("SELECT i FROM range(25000) t(i)", None)
    out = capsys.readouterr().out
    assert len(out.splitlines()) < 1_010
    assert "and 24,000 more" in out


def test_names_and_values_are_shown_as_they_are(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ask("""SELECT '[red]x[/red][/]' AS "[b]" """, None)
    assert "[red]x[/red][/]" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["csv", "json", "parquet"])
def test_an_answer_that_fails_leaves_the_former_file_and_no_litter(home: Path, tmp_path: Path, kind: str) -> None:
    out = tmp_path / "out" / "rows"
    out.parent.mkdir()
    out.write_text("former")
    halfway = "SELECT CASE WHEN i < 60000 THEN i ELSE CAST('x' || i AS INTEGER) END AS n FROM range(70000) t(i)"
    for sql in ("SELECT nonsense", halfway, "COPY (SELECT 1) TO '/nowhere'"):
        with pytest.raises(LedgerError):
            ask(sql, kind, out)
    assert out.read_text() == "former"
    assert list(out.parent.iterdir()) == [out]


def test_nothing_is_written_into_the_state_folder(home: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(home)
    for out in (home / "ledger.db", home / "x.csv", tmp_path / "link" / "keys" / "x.csv"):
        with pytest.raises(CommonfleetError, match="state folder"):
            ask(ROWS, "csv", out)


def test_what_cannot_be_is_said(home: Path, tmp_path: Path) -> None:
    with pytest.raises(CommonfleetError, match="no format 'xml'"):
        ask(ROWS, "xml")
    with pytest.raises(CommonfleetError, match="--out"):
        ask(ROWS, "parquet")
    with pytest.raises(CommonfleetError, match="cannot be written"):
        ask(ROWS, "csv", tmp_path / "nowhere" / "x")
    with pytest.raises(LedgerError, match="Cast"):
        ask("SELECT INTERVAL 1 DAY AS span", "parquet", tmp_path / "x")


@pytest.mark.soak
@pytest.mark.parametrize("kind", ["csv", "json", "parquet", "table"] if SOAK else ["csv", "parquet"])
def test_a_large_answer_is_streamed(home: Path, tmp_path: Path, kind: str) -> None:
    """Hundreds of MB of rows, written in under 100 MB more than a small answer takes. (DuckDB itself keeps some.)"""
    peaks = []
    for rows in (1_000, (1_000_000 if kind == "parquet" else 300_000) * (2 if SOAK else 1)):
        width = 200 if kind == "parquet" else 600
        sql = f"SELECT i, repeat(md5(i::VARCHAR), {width // 32}) AS text FROM range({rows}) t(i)"
        body = (
            "import resource, sys; from pathlib import Path; from deployments.cli.looking import query_ledger;"
            f"query_ledger({sql!r}, {kind!r}, Path({str(tmp_path / 'big')!r}), as_json=False);"
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
        )
        done = subprocess.run([sys.executable, "-c", body], capture_output=True, text=True, check=True, timeout=200)
        peaks.append(int(done.stdout.split()[-1]) >> 10)
    assert peaks[1] - peaks[0] < 100, peaks


def test_a_reader_streams_portions(ledger: Ledger) -> None:
    with open_query(ledger, "runs") as reader:
        names, portions = reader.stream("SELECT i, i AS i FROM range(25000) t(i)")
        assert names == ["i", "i_2"]
        assert [len(rows) for rows in portions] == [10_000, 10_000, 5_000]
