"""Tidying: small segments put together, what is old let go, and what a crash left on the disk swept away."""

from __future__ import annotations

from blocks.errors import TrustError
from blocks.home import Home
from flows.drive import ledger_of
from tasks.keep.compact import compact
from tasks.keep.retain import drop_raw, sum_up
from tasks.keep.sweep import sweep_orphans


def tidy(home: Home) -> int:
    """Keep the results in order; returns how many files were removed as garbage (an hour old or more; never rows).

    Raises TrustError at the end for files that are damaged: what could be done without them is done.
    """
    ledger = ledger_of(home)
    troubles: list[TrustError] = []
    try:
        for step in (compact, sum_up, drop_raw):
            try:
                step(ledger)
            except TrustError as error:
                troubles.append(error)
        removed = len(sweep_orphans(ledger)) + ledger.store.sweep()
    finally:
        ledger.close()
    if troubles:
        raise troubles[0]
    return removed
