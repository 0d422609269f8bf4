"""Questions over results: compacted segments with six days of small ones beside, against small ones alone.

100 runs of 50,000 tests over 28 days (BENCH_ROWS for more or fewer rows: more or fewer runs in those days). The rows
are made by SQL, a file for each 50,000, as a cutter leaves them; ours has all but the last six days compacted by the
product's own compactor, then all of them; the peer has none. More than 20 million rows are made as upkeep would leave
them, which compacts whatever is due: all but the newest few files; there is no peer. All are asked the same SQL through
the product's views, on a reader that is open. What opening takes (most of it is DuckDB's own start) stands beside, and
so does the processor's time of the question, over all threads, which a busy machine does not stretch.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from sqlalchemy import insert

from blocks.ledger import Ledger
from blocks.ledger.files import Segment, counting
from blocks.ledger.query import open_query
from blocks.ledger.results import test_id
from blocks.ledger.schema import segments
from tasks.keep.compact import Limits, compact, week_of
from tests.bench.made_rows import DAY, END, TESTS, created, maker, write
from tests.ledger_rows import open_made

FRESH_DAYS = 6
ROUNDS = 7

A_TEST = test_id("s3", "test_345.py", "Case345", "test_case_12345")
P90 = f"""SELECT test_id, quantile_cont(seconds, 0.9) AS p90 FROM results
    WHERE started >= to_timestamp({END - 14 * DAY}) GROUP BY test_id ORDER BY p90 DESC LIMIT 100"""
HISTORY = f"""SELECT run, started, outcome, seconds FROM results
    WHERE test_id = '{A_TEST}' ORDER BY started"""


def bench() -> dict[str, Any]:
    """Both questions on both layouts, the compaction itself, and what they take on disk."""
    rows = int(os.environ.get("BENCH_ROWS", "5000000"))
    large = rows > 20_000_000
    with tempfile.TemporaryDirectory(dir=os.environ.get("BENCH_FOLDER")) as folder:
        ours = open_made(Path(folder) / "ours")
        began = time.monotonic()
        old, fresh = _made(ours.results, rows // TESTS, large)
        generated = time.monotonic() - began
        peer = None if large else _peer(Path(folder) / "peer", ours, [*old, *fresh])
        _count(ours, old)
        began = time.monotonic()
        if not large:
            compact(ours, Limits(files=2))
        compacted = time.monotonic() - began
        _count(ours, fresh)
        beside = {"p90_14_days": _ask(ours, peer, P90), "history": _ask(ours, peer, HISTORY), "ours": _size(ours)}
        whole: dict[str, Any] | None = None
        if not large:
            compact(ours, Limits(files=2))
            whole = {"p90_14_days": _ask(ours, peer, P90), "history": _ask(ours, peer, HISTORY), "ours": _size(ours)}
        wanted = {"p90_14_days": 1500 if large else 150, "history": 100 if large else 25}
        return {
            "bench": "results",
            "rows": rows,
            "cores": os.cpu_count(),
            "load": round(os.getloadavg()[0], 1),
            "made_seconds": round(generated, 1),
            "compacted_rows_per_second": None if large else round(sum(file.rows for file in old) / compacted),
            "peer": peer and {"name": "the same rows, a file for each run", **_size(peer)},
            "newest_beside" if large else "six_days_beside": beside,
            "all_compacted": whole,
            "wanted_ms": wanted,
            "reached": {
                "p90_14_days": beside["p90_14_days"]["ours_ms"] < wanted["p90_14_days"],
                "history": (whole or beside)["history"]["ours_ms"] < wanted["history"],
            },
        }


def _peer(root: Path, ours: Ledger, files: list[Segment]) -> Ledger:
    peer = open_made(root)
    for file in files:
        link = peer.results / file.path
        link.parent.mkdir(parents=True, exist_ok=True)
        link.hardlink_to(ours.results / file.path)
    _count(peer, files)
    return peer


def _made(results: Path, runs: int, large: bool) -> tuple[list[Segment], list[Segment]]:
    """(old, fresh): the files of runs before the last six days, and of those; where `large`, compacted and not."""
    old: list[Segment] = []
    fresh: list[Segment] = []
    young = next(run for run in range(runs + 1) if run == runs or created(run, runs) >= END - FRESH_DAYS * DAY)
    if large:
        young = runs - (Limits().files - 1)
    with maker(runs) as connection:
        starts = _weekly(young, runs) if large else [(run, 1) for run in range(young)]
        old = [write(connection, results, first, count, runs) for first, count in starts]
        fresh = [write(connection, results, run, 1, runs) for run in range(young, runs)]
    return old, fresh


def _weekly(young: int, runs: int) -> list[tuple[int, int]]:
    """(first run, how many) for files as full as the compactor makes them, none over two weeks."""
    starts: list[tuple[int, int]] = []
    for run in range(young):
        first, count = starts[-1] if starts else (run, 0)
        same = week_of(created(first, runs)) == week_of(created(run, runs))
        if starts and same and (count + 1) * TESTS <= Limits().most_rows:
            starts[-1] = (first, count + 1)
        else:
            starts.append((run, 1))
    return starts


def _count(ledger: Ledger, files: list[Segment]) -> None:
    with ledger.write() as connection:
        connection.execute(insert(segments), [vars(file) for file in files])


def _ask(ours: Ledger, peer: Ledger | None, sql: str) -> dict[str, Any]:
    """Medians in milliseconds over interleaved rounds, and the best of them."""
    took: dict[str, list[float]] = {"ours": [], "peer": [], "opening": [], "cpu": []}
    answers = []
    for _ in range(ROUNDS):
        for name, ledger in (("ours", ours), ("peer", peer)):
            if ledger is None:
                continue
            began = time.monotonic()
            with open_query(ledger, sql) as reader:
                opened, spent = time.monotonic(), time.process_time()
                answers.append(len(reader.rows(sql)))
                took[name].append(1000 * (time.monotonic() - opened))
            if name == "ours":
                took["opening"].append(1000 * (opened - began))
                took["cpu"].append(1000 * (time.process_time() - spent))
    assert len(set(answers)) == 1, answers
    assert answers[0]
    median = {name: round(statistics.median(times), 1) for name, times in took.items() if times}
    told = {
        "ours_ms": median["ours"], "ours_best_ms": round(min(took["ours"]), 1), "ours_cpu_ms": median["cpu"],
        "opening_ms": median["opening"],
    }  # fmt: skip
    if peer is not None:
        told |= {"peer_ms": median["peer"], "ratio": round(median["peer"] / median["ours"], 2)}
    return told


def _size(ledger: Ledger) -> dict[str, Any]:
    with ledger.read() as connection:
        files = counting(connection)
    return {"files": len(files), "megabytes": round(sum(file.bytes for file in files) / 1e6, 1)}
