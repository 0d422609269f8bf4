"""Tidying: what has to be done now and then for the ledger of an installation, whoever drives its runs."""

from __future__ import annotations

from blocks.home import Home
from blocks.ledger import Ledger
from blocks.signing import load_or_make_key
from flows.drive import ledger_of
from tasks.collect.segments import sweep_orphans
from tasks.publish.log.sequence import Signer, sequence_all, signer_of

LOG_KEY = "log.key"


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


def append_to_log(home: Home, ledger: Ledger) -> int:
    """Give the events that have none their leaf in the Merkle log, and sign a checkpoint; returns how many."""
    return sequence_all(ledger, log_signer(home, ledger))


def log_signer(home: Home, ledger: Ledger) -> Signer:
    """Who signs this installation's checkpoints. The text of its `verifier` is the key that auditors need."""
    return signer_of(ledger, load_or_make_key(home.keys / LOG_KEY))
