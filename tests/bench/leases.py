"""Lease cycles: 8 processes that lease, admit and settle batches of 10 units at once, on one SQLite ledger.

A cycle is one turn of a slot, in one transaction: the admission of a part with 10 attempts (settling each), the end
of its lease and the grant of the next 10 units, with their three events. Measured twice: SQL and events only, then
with the signed part written to the store and fsynced before its admission, as in a real run. Beside them what SQLite
gives on this machine for the same number of rows.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from blocks.canonical import canonical_json, digest_bytes
from blocks.lease import Part
from blocks.ledger import Ledger, open_ledger
from blocks.plan import Unit
from blocks.signing import BUNDLE_TYPE, load_or_make_key, sign
from blocks.store import Store
from tasks.collect.admit import check
from tasks.collect.driver import Seat
from tasks.collect.grant import Asking
from tasks.collect.turn import asked, turn, turned
from tests.bench import bare
from tests.tasks.collect.conftest import finished, open_night

PROCESSES = 8
UNITS = 10


def bench() -> dict[str, Any]:
    """Both measurements, in one line."""
    seconds = float(os.environ.get("BENCH_SECONDS", "10"))
    synchronous = os.environ.get("COMMONFLEET_SQLITE_SYNCHRONOUS", "NORMAL")
    ours, peer = _measure(seconds, durable=False), _measure_bare(seconds)
    return {
        "bench": "leases",
        "processes": PROCESSES,
        "units_per_cycle": UNITS,
        "database": f"SQLite, WAL, synchronous={synchronous}",
        "sql_and_events": ours,
        "bare_sqlite3_same_rows": peer,
        "ratio_to_bare": round(ours["cycles_per_second"] / peer["cycles_per_second"], 2),
        "with_parts_fsynced": _measure(seconds, durable=True),
    }


def _measure(seconds: float, *, durable: bool) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        ledger = _open(root)
        key = load_or_make_key(root / "key")
        cycles = int(seconds * 1500 / PROCESSES)
        nights = [
            open_night(ledger, key, _units(cycles * UNITS), slots=1, machines_=(f"m{n}",)) for n in range(PROCESSES)
        ]
        ledger.close()
        return _times(_cycle, [(folder, n, night.seat, seconds, durable) for n, night in enumerate(nights)], seconds)


def _measure_bare(seconds: float) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bare.db"
        bare.make(path, PROCESSES, int(seconds * 3000 / PROCESSES) * UNITS)
        return _times(bare.cycles, [(path, n, seconds) for n in range(PROCESSES)], seconds)


def _times(cycle: Callable[..., None], arguments: Sequence[tuple[Any, ...]], seconds: float) -> dict[str, float]:
    """What the processes tell that do cycles until the time is over."""
    spawn = multiprocessing.get_context("spawn")
    ready, go, times = spawn.Barrier(PROCESSES + 1), spawn.Event(), spawn.Queue()
    workers = [spawn.Process(target=cycle, args=(*given, ready, go, times)) for given in arguments]
    for worker in workers:
        worker.start()
    ready.wait(120)
    go.set()
    took = sorted(second for _ in workers for second in times.get(timeout=seconds * 10 + 60))
    for worker in workers:
        worker.join(30)
    return {
        "cycles_per_second": round(len(took) / seconds, 1),
        "p50_ms": round(1000 * took[len(took) // 2], 2),
        "p99_ms": round(1000 * took[int(len(took) * 0.99)], 2),
        "p100_ms": round(1000 * took[-1], 2),
    }


def _open(root: Path) -> Ledger:
    return open_ledger(f"sqlite:///{root}/ledger.db", root / "results", Store(root / "store"))


def _units(count: int) -> list[Unit]:
    spec = {"argv": ["true"]}
    return [
        Unit(suite="s", environment="e", name=f"u{n:06}", kind="command", spec=spec, estimate_seconds=1.0)
        for n in range(count)
    ]


def _cycle(
    folder: str, number: int, seat: Seat, seconds: float, durable: bool, ready: Any, go: Any, times: Any
) -> None:
    ledger = _open(Path(folder))
    key = load_or_make_key(Path(folder) / "key")
    asking = Asking(seat.run, f"m{number}", key.id, ("e",), target_seconds=float(UNITS))
    took = []
    ready.wait(120)
    go.wait()
    end = time.monotonic() + seconds
    lease = asked(ledger, asking, seat)
    while (began := time.monotonic()) < end:
        assert "lease" in lease, lease
        part = _part(lease["lease"], [unit["id"] for unit in lease["units"]])
        if durable:
            envelope = sign(key, BUNDLE_TYPE, canonical_json(part))
            _, lease = turn(ledger, envelope, key.public, asking, seat)
        else:
            body = canonical_json(part)
            received = replace(check(ledger, part, key.id), digest=digest_bytes(body), bytes=len(body))
            _, lease = turned(ledger, received, asking, seat)
        took.append(time.monotonic() - began)
    times.put(took)


def _part(lease: str, units: list[str]) -> Part:
    records: Any = [finished(unit) for unit in units]
    return {"protocol": 1, "lease": lease, "part": 1, "records": records}
