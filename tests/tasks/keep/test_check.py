"""What is not in order is found, and nothing that is in order."""

from __future__ import annotations

import os
import time
from pathlib import Path

from sqlalchemy import insert, update

from blocks.home import Home
from blocks.ledger import Ledger, now
from blocks.ledger.schema import leases, runs
from tasks.keep.check import OVERDUE_SECONDS, look


def test_a_ledger_in_order_has_nothing_to_find(home: Home, ledger: Ledger) -> None:
    for path in ledger.results.rglob("*.parquet"):
        os.utime(path, (time.time() - 7200,) * 2)
    (ledger.results / "young.parquet").write_bytes(b"a cutter is at it")

    found = look(ledger)

    assert found.segments == 2
    assert (found.orphans, found.missing, found.altered, found.overdue, found.undriven) == ((), (), (), (), ())


def test_orphans_missing_and_altered_files_are_named(home: Home, ledger: Ledger) -> None:
    one, other = sorted(ledger.results.rglob("*.parquet"))
    orphan = Path(f"{one}.old.parquet")
    orphan.write_bytes(b"left by a crash")
    os.utime(orphan, (time.time() - 7200,) * 2)
    one.unlink()
    content = bytearray(other.read_bytes())
    content[len(content) // 2] ^= 1
    other.write_bytes(content)

    found = look(ledger)

    assert found.orphans == (orphan,)
    assert found.orphan_bytes == len(b"left by a crash")
    assert found.missing == (str(one.relative_to(home.root)),)
    assert found.altered == (str(other.relative_to(home.root)),)


def test_leases_long_past_their_deadline_and_runs_without_a_driver_are_named(home: Home, ledger: Ledger) -> None:
    with ledger.write() as connection:
        connection.execute(update(runs).where(runs.c.id == "r-0").values(state="running", finished=None))
        connection.execute(
            update(runs).where(runs.c.id == "r-1").values(state="running", driver="elsewhere:1:1", heartbeat=now() - 60)
        )
        lease = {
            "run": "r-0", "machine": "m", "agent": "a", "token_digest": "t", "granted": 1.0, "exclusive": False,
            "state": "live",
        }  # fmt: skip
        late, soon = now() - OVERDUE_SECONDS - 60, now() - OVERDUE_SECONDS + 60
        connection.execute(insert(leases).values(id="late", slot=90, deadline=late, **lease))
        connection.execute(insert(leases).values(id="soon", slot=91, deadline=soon, **lease))

    found = look(ledger)

    assert [(late.run, late.count) for late in found.overdue] == [("r-0", 1)]
    assert found.overdue[0].seconds > OVERDUE_SECONDS
    assert sorted(found.undriven) == ["r-0", "r-1"]
