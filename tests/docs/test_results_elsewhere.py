"""The page on other engines is true: its ClickHouse definition loads our files, and answers as our own views do."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from blocks.ledger import Ledger
from blocks.ledger.query import run_query
from blocks.ledger.tables import RESULT_SCHEMA
from tasks.keep.compact import Limits, compact
from tests.docs.pages import ROOT, Page
from tests.ledger_rows import open_made
from tests.tasks.keep.conftest import cut_runs, live

PAGE = Page(ROOT / "docs" / "results-elsewhere.md")
# In a process of its own: an engine of half a gigabyte should not stay in the one that runs the other tests.
CHILD = """
import json, sys
import chdb.session
session = chdb.session.Session(sys.argv[1])
for statement in json.loads(sys.argv[2]):
    answer = session.query(statement, "JSONCompactEachRow")
    print(json.dumps([json.loads(line) for line in str(answer).splitlines() if line]))
"""


def block(beginning: str) -> str:
    (found,) = [text for text in PAGE.blocks("text") if text.lstrip().startswith(beginning)]
    return found


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    """Three runs: two compacted, one as it was cut."""
    opened = open_made(tmp_path / "home")
    cut_runs(opened, 2)
    compact(opened, Limits(files=2))
    cut_runs(opened, 1, first=2)
    return opened


def test_the_definitions_name_the_columns_of_the_files_in_their_order(ledger: Ledger) -> None:
    for beginning in ("CREATE TABLE results\n(", "CREATE TABLE hive"):
        inner = re.search(r"\((.*?)\n\)", block(beginning), re.DOTALL)
        assert inner
        named = [part.split()[0] for part in re.split(r",\s+(?=[a-z_]+ [A-Za-z])", inner.group(1).strip())]
        if "hive" in beginning:
            assert sorted(named) == sorted(RESULT_SCHEMA.names)  # found by name
        else:
            assert named == RESULT_SCHEMA.names
    for segment in live(ledger):
        assert pq.read_schema(ledger.results / segment.path).names == RESULT_SCHEMA.names


def test_clickhouse_answers_as_we_do(ledger: Ledger, tmp_path: Path) -> None:
    if importlib.util.find_spec("chdb") is None:
        pytest.skip("chdb (ClickHouse in process, half a gigabyte) is not installed")
    create, insert = block("CREATE TABLE results\n(").strip().rstrip(";").split(";\n\n")
    paths = [row["path"] for row in run_query(ledger, PAGE.blocks("sql")[0])]
    listed = "{" + ",".join(paths) + "}"
    files = f"file('{ledger.results}/{listed}', 'Parquet')"
    insert = re.sub(r"s3\('.*?\{files\}', 'Parquet'\)", lambda _: files, insert)
    asked = """SELECT test_id, run, outcome, round(seconds, 6) AS seconds, message, counted, final, bundle
        FROM {} ORDER BY test_id, run, outcome, seconds"""
    direct_query = asked.format(files) + " SETTINGS use_hive_partitioning = 0"
    history = "SELECT count(*), uniqExact(test_id), min(started) FROM results"
    statements = [create, insert, asked.format("results"), direct_query, history]
    shown = subprocess.run(
        [sys.executable, "-c", CHILD, str(tmp_path / "ch"), json.dumps(statements)],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert shown.returncode == 0, shown.stderr[-2000:]
    loaded, direct, counts = (json.loads(line) for line in shown.stdout.splitlines()[-3:])
    ours = [list(row.values()) for row in run_query(ledger, asked.format("all_results"))]
    assert len(ours) == 27
    assert loaded == ours
    assert direct == ours
    assert [int(counts[0][0]), int(counts[0][1])] == [27, 9]
    first = "SELECT strftime(min(started), '%Y-%m-%d %H:%M:%S') AS at FROM all_results"
    assert counts[0][2].startswith(run_query(ledger, first)[0]["at"])
