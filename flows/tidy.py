"""Tidying: what has to be done now and then for the ledger of an installation, whoever drives its runs."""

from __future__ import annotations

from blocks.errors import TrustError
from blocks.home import Home
from blocks.ledger import Ledger
from blocks.signing import load_or_make_key
from flows.drive import ledger_of
from tasks.keep.compact import compact
from tasks.keep.retain import drop_raw, sum_up
from tasks.keep.sweep import sweep_orphans
from tasks.publish.log.sequence import Signer, sequence_all, signer_of

LOG_KEY = "log.key"


def tidy(home: Home) -> int:
    """Put small segments together, let go of what is old, and sweep; returns how many files were removed as garbage.

    (What a crash left half-written, an hour old or more; never rows.) Raises TrustError at the end for files that are
    damaged: what could be done without them is done.
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


def bring_log_up_to_date(home: Home) -> int:
    """`append_to_log` for whoever has no ledger open."""
    ledger = ledger_of(home)
    try:
        return append_to_log(home, ledger)
    finally:
        ledger.close()


def append_to_log(home: Home, ledger: Ledger) -> int:
    """Give the events that have none their leaf in the Merkle log, and sign a checkpoint; returns how many."""
    return sequence_all(ledger, log_signer(home, ledger))


def log_signer(home: Home, ledger: Ledger) -> Signer:
    """Who signs this installation's checkpoints. The text of its `verifier` is the key that auditors need."""
    return signer_of(ledger, load_or_make_key(home.keys / LOG_KEY))
