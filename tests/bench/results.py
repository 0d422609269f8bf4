"""Questions over results: compacted segments with six days of small ones beside, against small ones alone.

100 runs of 50,000 tests over 28 days (BENCH_ROWS for more or fewer rows: more or fewer runs in those days). The rows
are made by SQL, a file for each 50,000, as a cutter leaves them; ours has all but the last six days compacted by the
product's own compactor, then all of them; the peer has none. All are asked the same SQL through the product's views, on
a reader that is open. What opening takes (most of it is DuckDB's own start) stands beside, and so does the processor's
time of the question, over all threads, which a busy machine does not stretch.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import duckdb
from sqlalchemy import insert

from blocks.canonical import digest_file
from blocks.ledger import Ledger, open_ledger
from blocks.ledger.files import Segment, counting
from blocks.ledger.query import open_query
from blocks.ledger.schema import segments
from blocks.store import Store
from tasks.keep.compact import Limits, compact

TESTS, PER_FILE, DAYS, FRESH_DAYS = 50_000, 50_000, 28, 6
DAY = 86_400.0
END = 1_790_000_000.0
ROUNDS = 7

P90 = f"""SELECT test_id, quantile_cont(seconds, 0.9) AS p90 FROM results
    WHERE started >= to_timestamp({END - 14 * DAY}) GROUP BY test_id ORDER BY p90 DESC LIMIT 100"""
HISTORY = """SELECT run, started, outcome, seconds FROM results
    WHERE test_id = md5('12345') ORDER BY started"""


ROWS = """SELECT md5(t::VARCHAR) AS test_id, 'test_' || t % 600 || '.py' AS file, 'Case' || t % 3000 AS cls,
    'test_case_' || t AS name, 'test_' || t % 600 || '.py::Case' || t % 3000 || '.test_case_' || t AS test,
    CASE WHEN h % 200 = 0 THEN 'failed' WHEN h % 20 = 1 THEN 'skipped' ELSE 'passed' END AS outcome,
    (hash(t) % 1000 + 1) / 500.0 * (0.9 + (h % 1000) / 5000.0) AS seconds,
    CASE WHEN h % 200 = 0 THEN 'AssertionError: ' || repeat(h::VARCHAR || ' ', 20) END AS message,
    true AS final, 'r-{run:05}' AS run, 'cpu' AS environment, 's' || t % 6 AS suite, 'u-' || t % 600 AS unit,
    'test_' || t % 600 || '.py' AS unit_name, 80::INTEGER AS planned,
    'a-' || substr(md5('{run}' || t % 600), 1, 16) AS attempt, 1::INTEGER AS ordinal, 'company' AS mode,
    true AS counted, '' AS reason, 'sha256:' || sha256('{run}' || t % 60) AS bundle,
    'l-{run}-' || t % 60 AS lease, 1::INTEGER AS part, 'm-' || t % 60 AS machine, (t % 2)::INTEGER AS slot,
    'pool-' || t % 6 AS pool, 'vendor-' || t % 6 AS vendor, to_timestamp({created} + t % 600) AS started
FROM (SELECT range AS t, hash(range, {run}) AS h FROM range({start}, {end}))"""


def bench() -> dict[str, Any]:
    """Both questions on both layouts, the compaction itself, and what they take on disk."""
    rows = int(os.environ.get("BENCH_ROWS", "5000000"))
    with tempfile.TemporaryDirectory(dir=os.environ.get("BENCH_FOLDER")) as folder:
        peer, ours = _open(Path(folder) / "peer"), _open(Path(folder) / "ours")
        runs = rows // TESTS
        began = time.monotonic()
        files = [file for run in range(runs) for file in _made(ours.results, run, runs)]
        generated = time.monotonic() - began
        fresh = [file for file in files if file.created >= END - FRESH_DAYS * DAY]
        old = [file for file in files if file.created < END - FRESH_DAYS * DAY]
        for file in files:
            link = peer.results / file.path
            link.parent.mkdir(parents=True, exist_ok=True)
            link.hardlink_to(ours.results / file.path)
        _count(peer, files)
        _count(ours, old)
        began = time.monotonic()
        compact(ours, Limits(files=2))
        compacted = time.monotonic() - began
        _count(ours, fresh)
        beside = {"p90_14_days": _ask(ours, peer, P90), "history": _ask(ours, peer, HISTORY), "ours": _size(ours)}
        compact(ours, Limits(files=2))
        whole = {"p90_14_days": _ask(ours, peer, P90), "history": _ask(ours, peer, HISTORY), "ours": _size(ours)}
        large = rows > 20_000_000
        wanted = {"p90_14_days": 1500 if large else 150, "history": 100 if large else 25}
        return {
            "bench": "results",
            "rows": rows,
            "cores": os.cpu_count(),
            "load": round(os.getloadavg()[0], 1),
            "made_seconds": round(generated, 1),
            "compacted_rows_per_second": round(sum(file.rows for file in old) / compacted),
            "peer": _size(peer),
            "six_days_beside": beside,
            "all_compacted": whole,
            "wanted_ms": wanted,
            "reached": {
                "p90_14_days": beside["p90_14_days"]["ours_ms"] < wanted["p90_14_days"],
                "history": whole["history"]["ours_ms"] < wanted["history"],
            },
        }


def _open(root: Path) -> Ledger:
    root.mkdir()
    ledger = open_ledger(f"sqlite:///{root}/ledger.db", root / "results", Store(root / "store"))
    ledger.results.mkdir()
    return ledger


def _made(results: Path, run: int, runs: int) -> list[Segment]:
    """The files of one run, as a cutter leaves them, sorted by test."""
    created = END - DAYS * DAY * (1 - (run + 0.5) / runs)
    folder = Path(f"kind=results/run=r-{run:05}/environment=cpu")
    (results / folder).mkdir(parents=True)
    made = []
    with contextlib.closing(duckdb.connect(":memory:")) as connection:
        for number, start in enumerate(range(0, TESTS, PER_FILE)):
            path = folder / f"{number}.parquet"
            rows = ROWS.format(run=run, created=created, start=start, end=start + PER_FILE)
            form = "FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE 20000"
            connection.execute(f"COPY ({rows} ORDER BY test_id) TO '{results / path}' ({form})")
            digest = digest_file(results / path)
            size = (results / path).stat().st_size
            made.append(Segment(digest, f"r-{run:05}", "cpu", "results", str(path), PER_FILE, size, created))
    return made


def _count(ledger: Ledger, files: list[Segment]) -> None:
    with ledger.write() as connection:
        connection.execute(insert(segments), [vars(file) for file in files])


def _ask(ours: Ledger, peer: Ledger, sql: str) -> dict[str, Any]:
    """Medians in milliseconds over interleaved rounds, and the best of them."""
    took: dict[str, list[float]] = {"ours": [], "peer": [], "opening": [], "cpu": []}
    answers = []
    for _ in range(ROUNDS):
        for name, ledger in (("ours", ours), ("peer", peer)):
            began = time.monotonic()
            with open_query(ledger, sql) as reader:
                opened, spent = time.monotonic(), time.process_time()
                answers.append(len(reader.rows(sql)))
                took[name].append(1000 * (time.monotonic() - opened))
            if name == "ours":
                took["opening"].append(1000 * (opened - began))
                took["cpu"].append(1000 * (time.process_time() - spent))
    assert len(set(answers)) == 1, answers
    mine, theirs, opening, spent = (statistics.median(took[name]) for name in ("ours", "peer", "opening", "cpu"))
    return {
        "ours_ms": round(mine, 1), "ours_best_ms": round(min(took["ours"]), 1), "ours_cpu_ms": round(spent, 1),
        "peer_ms": round(theirs, 1), "ratio": round(theirs / mine, 2), "opening_ms": round(opening, 1),
    }  # fmt: skip


def _size(ledger: Ledger) -> dict[str, Any]:
    with ledger.read() as connection:
        files = counting(connection)
    return {"files": len(files), "megabytes": round(sum(file.bytes for file in files) / 1e6, 1)}
