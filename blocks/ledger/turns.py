"""Turns to write a SQLite ledger: one writer at a time, taken up soon after it is free.

SQLite's own waiting sleeps up to 100 ms at a time, so that with eight writers the lock stands idle while all of them
sleep. A lock file that is polled every few milliseconds keeps it busy and the waiting short.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import os
import random
import time
from collections.abc import Iterator

from blocks.errors import LedgerError

BUSY_SECONDS = 60
PAUSE = (0.001, 0.004)
"""Seconds between two looks, from and to. (A transaction takes one to two milliseconds.)"""


@contextlib.contextmanager
def turn(database: str) -> Iterator[None]:
    """Have the turn to write the database of that file. Raises LedgerError where another had it for a minute."""
    lock = os.open(f"{database}-turn", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        give_up = time.monotonic() + BUSY_SECONDS
        while not _locked(lock):
            if time.monotonic() > give_up:
                raise LedgerError(
                    f"The ledger was locked by another process for over {BUSY_SECONDS} s.",
                    kept="Nothing was changed.",
                    do="Look for a process that is stopped (`ps -eo pid,stat,cmd`), then try again.",
                )
            time.sleep(random.uniform(*PAUSE))
        with _without_collections():
            yield
    finally:
        os.close(lock)


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextlib.contextmanager
def _without_collections() -> Iterator[None]:
    """A collection of garbage may take longer than the whole turn, while everybody waits: it comes after the turn."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()
