"""A ledger's address, so that a process beside a driver can open the same one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from blocks.ledger import Ledger, open_ledger
from blocks.store import Store


@dataclass(frozen=True)
class Address:
    """Where a ledger is. The URL may hold a password: it goes over pipes of ours only."""

    url: str
    results: Path
    store: Store


def address_of(ledger: Ledger) -> Address:
    return Address(ledger.engine.url.render_as_string(hide_password=False), ledger.results, ledger.store)


@contextlib.contextmanager
def reopened(address: Address) -> Iterator[Ledger]:
    """The ledger at that address. Raises LedgerError."""
    ledger = open_ledger(address.url, address.results, address.store)
    try:
        yield ledger
    finally:
        ledger.close()
