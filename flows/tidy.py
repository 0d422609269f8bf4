"""Tidying: what has to be done now and then for the ledger of an installation, whoever drives its runs."""

from __future__ import annotations

from blocks.home import Home
from flows.drive import ledger_of
from tasks.collect.segments import sweep_orphans
from tasks.publish.log.own import append_to_log


def tidy(home: Home) -> int:
    """Remove files that a crash left half-written in the results and the store, an hour old or more; how many.

    No record knows of them: they are garbage, never rows.
    """
    ledger = ledger_of(home)
    try:
        return len(sweep_orphans(ledger)) + ledger.store.sweep()
    finally:
        ledger.close()


def bring_log_up_to_date(home: Home) -> int:
    """`append_to_log` for whoever has no ledger open."""
    ledger = ledger_of(home)
    try:
        return append_to_log(home, ledger)
    finally:
        ledger.close()
