"""What SQLite itself gives: as many rows as a lease cycle writes, by Python's own sqlite3, with nothing checked.

The peer of `leases`, measured in the same run, for one machine's cycles are another's dream. A transaction inserts a
lease, ten held units, ten attempts, ten settlements, a bundle and three events, and updates ten units twice, by key.
"""

from __future__ import annotations

import random
import sqlite3
import time
from pathlib import Path
from typing import Any

FACTS = {"leases": 1, "lease_units": 10, "attempts": 10, "settlements": 10, "bundles": 1, "events": 3}
BODY = "x" * 200


def make(path: Path, runs: int, units: int) -> None:
    """The tables, and the units of each run: (run, unit) with a random unit's name as ours have."""
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        for table in FACTS:
            connection.execute(f"CREATE TABLE {table} (id TEXT PRIMARY KEY, body TEXT)")
        connection.execute("CREATE TABLE units (run INT, unit TEXT, position INT, state TEXT, PRIMARY KEY (run, unit))")
        connection.execute("CREATE INDEX queue ON units (run, position) WHERE state = 'pending'")
        rows = ((run, _unit(run, n), n, "pending") for run in range(runs) for n in range(units))
        connection.executemany("INSERT INTO units VALUES (?, ?, ?, ?)", rows)
    connection.close()


def cycles(path: Path, run: int, seconds: float, ready: Any, go: Any, times: Any) -> None:
    """One process's cycles until the time is over; puts how long each took, in seconds."""
    connection = sqlite3.connect(path, isolation_level=None, timeout=60)
    connection.execute("PRAGMA synchronous = NORMAL")
    ready.wait(120)
    go.wait()
    took, first = [], 0
    end = time.monotonic() + seconds
    while (began := time.monotonic()) < end:
        connection.execute("BEGIN IMMEDIATE")
        for table, count in FACTS.items():
            rows = [(random.randbytes(16).hex(), BODY) for _ in range(count)]
            connection.executemany(f"INSERT INTO {table} VALUES (?, ?)", rows)
        for state in ("leased", "terminal"):
            states = [(state, run, _unit(run, n)) for n in range(first, first + 10)]
            connection.executemany("UPDATE units SET state = ? WHERE run = ? AND unit = ?", states)
        connection.execute("COMMIT")
        first += 10
        took.append(time.monotonic() - began)
    times.put(took)


def _unit(run: int, number: int) -> str:
    return random.Random(run << 32 | number).randbytes(16).hex()
