"""Tidying: what has to be done now and then for the ledger of an installation, whoever drives its runs."""

from __future__ import annotations

from blocks.errors import CommonfleetError
from blocks.home import Home
from flows.drive import ledger_of
from tasks.keep.compact import compact
from tasks.keep.retain import drop_raw, sum_up
from tasks.keep.sweep import sweep_orphans
from tasks.publish.log.own import append_to_log


def tidy(home: Home) -> int:
    """Put small segments together, let go of what is old, and sweep; returns how many files were removed as garbage.

    (What a crash left half-written, an hour old or more; never rows.) The garbage goes first: the rest needs room.
    Raises the first trouble at the end, a damaged file or a full disk: what could be done in spite of it is done.
    """
    ledger = ledger_of(home)
    troubles: list[CommonfleetError] = []
    try:
        removed = len(sweep_orphans(ledger)) + ledger.store.sweep()
        for step in (drop_raw, sum_up, compact):
            try:
                step(ledger)
            except CommonfleetError as error:
                troubles.append(error)
    finally:
        ledger.close()
    if troubles:
        raise troubles[0]
    return removed


def bring_log_up_to_date(home: Home) -> int:
    """`append_to_log` for whoever has no ledger open."""
    ledger = ledger_of(home)
    try:
        return append_to_log(home, ledger)
    finally:
        ledger.close()
