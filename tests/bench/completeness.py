"""Run summary and completeness of a run with 100,000 units: what `commonfleet show` asks of the ledger.

A ledger with four complete runs of the same plan, 100,000 units each with one attempt and `BENCH_RESULTS` results
(2), all cut into segments of 50,000 rows. The last run has units of every terminal state, each with its reason, and
100 tests that went dark. Everything is read anew for each measurement, as a fresh process would, without its start.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from sqlalchemy import Table, insert

from blocks.canonical import canonical_json, digest_file
from blocks.ledger import Ledger, open_ledger
from blocks.ledger import schema as s
from blocks.ledger.query import run_query
from blocks.ledger.tables import RESULT_SCHEMA
from blocks.store import Store
from tasks.publish.accounting import dark_anywhere
from tasks.publish.summary import run_summary

UNITS = 100_000
RUNS = 4
LIMIT_MS = 200
SEGMENT = 50_000
ROUNDS = 7
DARK = 100
DOCUMENT = f'{{"left_out":[],"planned":[{{"environment":"e","suite":"s","units":{UNITS}}}]}}'
ENDS = {1: ("not_run", "no machine fits"), 2: ("lost", "poison"), 3: ("skipped", "every test skipped itself")}
"""Of each 1,000 units of the last run the first few."""


def bench() -> dict[str, Any]:
    """Median, worst and best of some rounds, in milliseconds, and what was counted."""
    per_unit = int(os.environ.get("BENCH_RESULTS", "2"))
    with tempfile.TemporaryDirectory() as folder:
        ledger = _filled(Path(folder), per_unit)
        summary = run_summary(ledger, f"r-{RUNS - 1}")
        result = {
            "bench": "completeness",
            "units": UNITS,
            "results": UNITS * per_unit,
            "compared_runs": len(summary["dark"]["compared_with"]),
            "states": summary["units"],
            "dark": summary["dark"]["by_why"],
            "summary": _timed(lambda: run_summary(ledger, f"r-{RUNS - 1}")),
            "summary_without_history": _timed(lambda: run_summary(ledger, "r-0")),
            "dark_anywhere": _timed(lambda: dark_anywhere(ledger)),
            "view_completeness_of_four_runs": _timed(lambda: run_query(ledger, "SELECT * FROM completeness")),
        }
        ledger.close()
    return {**result, "under_200_ms": result["summary"]["p50_ms"] < LIMIT_MS}


def _timed(ask: Callable[[], object]) -> dict[str, float]:
    took = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        ask()
        took.append(1000 * (time.perf_counter() - began))
    took.sort()
    return {"p50_ms": round(took[ROUNDS // 2], 1), "p100_ms": round(took[-1], 1), "best_ms": round(took[0], 1)}


def _filled(root: Path, per_unit: int) -> Ledger:
    ledger = open_ledger(f"sqlite:///{root}/ledger.db", root / "results", Store(root / "store"))
    began = time.time() - RUNS * 86_400
    with ledger.write() as connection:
        machine = {
            "id": "m",
            "pool": "local",
            "vendor": "foundation",
            "state": "ready",
            "slots": 8,
            "fingerprint": "{}",
        }
        connection.execute(insert(s.machines).values(**machine, created=began, updated=began))
        connection.execute(insert(s.plans).values(id="plan", created=began, document=DOCUMENT))
        for rows in _portions(_plan_units(per_unit)):
            connection.execute(insert(s.plan_units), rows)
    for number in range(RUNS):
        _write_run(ledger, f"r-{number}", began + number * 86_400, last=number == RUNS - 1, per_unit=per_unit)
    return ledger


def _plan_units(per_unit: int) -> Iterator[dict[str, Any]]:
    for n in range(UNITS):
        body = {"name": f"file_{n}", "suite": "s", "environment": "e", "tests": _tests(n, per_unit)}
        text = canonical_json(body).decode()
        yield {"plan": "plan", "unit": _unit(n), "suite": "s", "environment": "e", "name": f"file_{n}", "body": text}


def _unit(n: int) -> str:
    return f"u-{hashlib.sha256(str(n).encode()).hexdigest()[:16]}"


def _tests(n: int, per_unit: int) -> list[str]:
    return [f"Class{n}.test_{k}" for k in range(per_unit)]


def _write_run(ledger: Ledger, run: str, created: float, *, last: bool, per_unit: int) -> None:
    ends = [ENDS.get(n % 1000, ("ran", "")) if last else ("ran", "") for n in range(UNITS)]
    with ledger.write() as connection:
        conclusion = '{"exit_code":0,"sentence":"It ended."}'
        connection.execute(
            insert(s.runs).values(
                id=run, flow="nightly", created=created, state="complete", request="{}", plan="plan", epoch=1,
                finished=created + 3600, conclusion=conclusion,
            )
        )  # fmt: skip
        _insert(connection, s.units, (_unit_row(run, n, per_unit) for n in range(UNITS)))
        _insert(connection, s.settlements, (_settlement(run, n, end, created) for n, end in enumerate(ends)))
        _insert(
            connection,
            s.attempts,
            (_attempt(run, n, created) for n, end in enumerate(ends) if end[0] in ("ran", "skipped")),
        )
    ran = [n for n, end in enumerate(ends) if end[0] in ("ran", "skipped")]
    step = SEGMENT // per_unit
    for start in range(0, len(ran), step):
        _segment(ledger, run, created, ran[start : start + step], per_unit, last=last)


def _insert(connection: Any, table: Table, rows: Iterator[dict[str, Any]]) -> None:
    for some in _portions(rows):
        connection.execute(insert(table), some)


def _portions(rows: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    some: list[dict[str, Any]] = []
    for row in rows:
        some.append(row)
        if len(some) == 10_000:
            yield some
            some = []
    if some:
        yield some


def _unit_row(run: str, n: int, per_unit: int) -> dict[str, Any]:
    return {
        "run": run, "unit": _unit(n), "position": n, "suite": "s", "environment": "e", "name": f"file_{n}",
        "exclusive": False, "cpus": 1, "devices": 0, "tests": per_unit, "estimate_seconds": 1.0, "state": "terminal",
        "epoch": 1, "deaths": 0,
    }  # fmt: skip


def _settlement(run: str, n: int, end: tuple[str, str], at: float) -> dict[str, Any]:
    return {
        "run": run, "unit": _unit(n), "ordinal": 1, "terminal": end[0], "reason": end[1], "lease": f"l-{n // 10}",
        "epoch": 1, "settled": at,
    }  # fmt: skip


def _attempt(run: str, n: int, at: float) -> dict[str, Any]:
    return {
        "id": f"a-{run}-{n}", "run": run, "unit": _unit(n), "lease": f"l-{run}-{n // 10}", "part": 1, "ordinal": 1,
        "mode": "company", "test": None, "outcome": "passed", "started": at, "seconds": 0.5, "machine": "m",
        "slot": n % 8, "isolation": "bubblewrap 0.8.0", "counted": True, "reason": "", "detail": "{}",
    }  # fmt: skip


def _segment(ledger: Ledger, run: str, created: float, numbers: list[int], per_unit: int, *, last: bool) -> None:
    """A file as the cutter writes it. In the last run the second test of some units is gone."""
    each = [(n, k) for n in numbers for k in range(per_unit) if not (last and k == 1 and n % (UNITS // DARK) == 500)]
    single = {
        "run": run, "environment": "e", "suite": "s", "mode": "company", "reason": "", "bundle": "sha256:b",
        "lease": "l", "machine": "m", "pool": "local", "vendor": "foundation",
    }  # fmt: skip
    columns: dict[str, list[Any]] = {
        "test_id": [hashlib.sha256(f"{n}.{k}".encode()).hexdigest()[:32] for n, k in each],
        "file": [f"file_{n}" for n, _ in each], "cls": [f"Class{n}" for n, _ in each],
        "name": [f"test_{k}" for _, k in each], "test": [f"file_{n}::Class{n}.test_{k}" for n, k in each],
        "outcome": ["skipped" if last and n % 1000 == 3 else "passed" for n, _ in each],
        "seconds": [0.25] * len(each), "message": [None] * len(each), "final": [True] * len(each),
        "unit": [_unit(n) for n, _ in each], "unit_name": [f"file_{n}" for n, _ in each],
        "planned": [per_unit] * len(each), "attempt": [f"a-{run}-{n}" for n, _ in each], "ordinal": [1] * len(each),
        "counted": [True] * len(each), "part": [1] * len(each), "slot": [n % 8 for n, _ in each],
        "started": [int(created * 1e6)] * len(each), **{name: [value] * len(each) for name, value in single.items()},
    }  # fmt: skip
    arrays = [
        pa.array(columns[entry.name], pa.string() if pa.types.is_dictionary(entry.type) else entry.type)
        for entry in RESULT_SCHEMA
    ]
    table = pa.table(arrays, names=RESULT_SCHEMA.names).sort_by("test_id")
    relative = f"kind=results/run={run}/environment=e/{numbers[0]}.parquet"
    path = ledger.results / relative
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, compression="zstd", store_schema=False, row_group_size=20_000)
    with ledger.write() as connection:
        connection.execute(
            insert(s.segments).values(
                digest=digest_file(path), run=run, environment="e", kind="results", path=relative,
                rows=table.num_rows, bytes=path.stat().st_size, created=created,
            )
        )  # fmt: skip
