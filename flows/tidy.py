"""Tidying: what a crash left on the disk that no record knows of. It is garbage, never rows."""

from __future__ import annotations

from blocks.home import Home
from flows.drive import ledger_of
from tasks.keep.sweep import sweep_orphans


def tidy(home: Home) -> int:
    """Remove files that a crash left half-written in the results and the store, an hour old or more; how many."""
    ledger = ledger_of(home)
    try:
        return len(sweep_orphans(ledger)) + ledger.store.sweep()
    finally:
        ledger.close()
