"""The log of an installation: its key, what others check it with, and bringing it up to date."""

from __future__ import annotations

from blocks.errors import LedgerError, TrustError
from blocks.home import Home
from blocks.ledger import Ledger, log
from blocks.signing import load_or_make_key
from tasks.publish.log.sequence import BATCH, Signer, sequence_all, signer_of, strange


def append_to_log(home: Home, ledger: Ledger) -> int:
    """Give the events that have none their leaf in the Merkle log, and sign a checkpoint; returns how many.

    Raises LedgerError where the log's key is gone.
    """
    return sequence_all(ledger, log_signer(home, ledger))


def log_signer(home: Home, ledger: Ledger) -> Signer:
    """Who signs this installation's checkpoints; the key is made with the log.

    Raises LedgerError where there is a log and its key is gone: another key would make it a log that nobody knows.
    """
    if not home.log_key.exists() and has_log(ledger):
        raise LedgerError(
            f"The key of the ledger's log is not there: {home.log_key}.",
            kept="Events are still written, and wait for their leaves.",
            do="Put it back from a backup that was made with `--keys`.",
        )
    return signer_of(ledger, load_or_make_key(home.log_key))


def has_log(ledger: Ledger) -> bool:
    """Whether anything was appended yet."""
    with ledger.read() as connection:
        return log.head_of(connection) is not None


def stopped(ledger: Ledger) -> TrustError | None:
    """What keeps the log from growing: the next event that is not what its id says."""
    with ledger.read() as connection:
        head = log.head_of(connection) or log.Head("")
        waiting = log.waiting(connection, head.floor, BATCH)
        return next((strange(event) for event in waiting if not log.is_what_it_says(connection, event)), None)


def log_verifier(home: Home, ledger: Ledger) -> str | None:
    """The key that auditors need (`name+id+base64`), also where only the public half is left. None without a log."""
    if home.log_key.exists():
        return str(log_signer(home, ledger).verifier)
    return home.log_public.read_text().strip() if home.log_public.exists() else None
