"""Rows of results for benchmarks, made by SQL: as many runs of 50,000 tests as wanted, spread over 28 days.

Two ways give the same rows: a file for each run, as a cutter leaves it, and a file for several runs, as a compactor
leaves it, which is written in its order and needs no sorting. Tests' ids and bundles' digests are real ones.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import duckdb
import pyarrow as pa

from blocks.canonical import digest_bytes, digest_file
from blocks.ledger.files import Segment
from blocks.ledger.results import display_name, test_id
from blocks.ledger.tables import RESULT_SCHEMA
from tasks.collect.segments import write_segment
from tasks.keep.compact import ROW_GROUP, week_of

TESTS, DAYS, LEASES = 50_000, 28, 60
DAY = 86_400.0
END = 1_790_000_000.0

_ROW = """SELECT test_id, file, cls, name, test,
    CASE WHEN h % 200 = 0 THEN 'failed' WHEN h % 20 = 1 THEN 'skipped' ELSE 'passed' END AS outcome,
    (hash(t) % 1000 + 1) / 500.0 * (0.9 + (h % 1000) / 5000.0) AS seconds,
    CASE WHEN h % 200 = 0 THEN 'AssertionError: ' || repeat(h::VARCHAR || ' ', 20) END AS message,
    true AS final, run, 'cpu' AS environment, suite, 'u-' || t % 600 AS unit,
    file AS unit_name, 80::INTEGER AS planned,
    'a-' || substr(sha256('["l-' || run || '-' || t % 60 || '","u-' || t % 600 || '",1]'), 1, 16) AS attempt,
    1::INTEGER AS ordinal, 'company' AS mode,
    true AS counted, '' AS reason, bundles[t % 60 + 1] AS bundle,
    'l-' || run || '-' || t % 60 AS lease, 1::INTEGER AS part, 'm-' || t % 60 AS machine,
    (t % 2)::INTEGER AS slot, 'pool-' || t % 6 AS pool, 'vendor-' || t % 6 AS vendor,
    to_timestamp(created + t % 600) AS started
FROM (SELECT tests.*, run, created, bundles, hash(t, number) AS h
    FROM range({start}, {end}) AS rows(i)
    JOIN tests ON tests.place = i // {runs} JOIN runs ON runs.number = {first} + i % {runs})"""
"""Rows `start` to `end` of a file with `runs` runs from `first` on, in the order of test and run."""


def name_of(run: int) -> str:
    return f"r-{run:05}"


def created(run: int, runs: int) -> float:
    """When one of so many runs was made, seconds since the epoch."""
    return END - DAYS * DAY * (1 - (run + 0.5) / runs)


def bundles_of(run: int) -> list[str]:
    """The digests of a run's bundles, where nobody asks for the bundles themselves."""
    return [digest_bytes(f"{run}/{lease}".encode()) for lease in range(LEASES)]


@contextlib.contextmanager
def maker(runs: int, bundles: Sequence[Sequence[str]] | None = None) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection that makes rows of so many runs."""
    names = [(f"s{t % 6}", f"test_{t % 600}.py", f"Case{t % 3000}", f"test_case_{t}") for t in range(TESTS)]
    tests = sorted((test_id(*four), t, *four, display_name(*four[1:])) for t, four in enumerate(names))
    columns = dict(zip(("test_id", "t", "suite", "file", "cls", "name", "test"), zip(*tests, strict=True), strict=True))
    made = {
        "number": range(runs), "run": [name_of(run) for run in range(runs)],
        "created": [created(run, runs) for run in range(runs)],
        "bundles": bundles or [bundles_of(run) for run in range(runs)],
    }  # fmt: skip
    with contextlib.closing(duckdb.connect(":memory:")) as connection:
        connection.register("tests", pa.table({"place": range(TESTS), **columns}))
        connection.register("runs", pa.table(made))
        yield connection


def write(connection: duckdb.DuckDBPyConnection, results: Path, first: int, count: int, runs: int) -> Segment:
    """The file of `count` runs from `first` on, of `runs` in all: cut where it is one, else compacted."""
    at = created(first, runs)
    rows = _ROW.format(start=0, end=TESTS * count, runs=count, first=first)
    if count == 1:
        made = connection.sql(rows).to_arrow_table().select(RESULT_SCHEMA.names)
        file = write_segment(results, (name_of(first), "cpu"), "results", made)
        path = file.path.relative_to(results)
        return Segment(file.digest, name_of(first), "cpu", "results", str(path), file.rows, file.bytes, at)
    path = Path(f"kind=results/week={week_of(at)}/environment=cpu/{first}.parquet")
    (results / path).parent.mkdir(parents=True, exist_ok=True)
    connection.execute(
        f"COPY ({rows}) TO '{results / path}' (FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE {ROW_GROUP})"
    )
    size = (results / path).stat().st_size
    return Segment(digest_file(results / path), "", "cpu", "results", str(path), TESTS * count, size, at)
