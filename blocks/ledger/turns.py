"""Turns to write a SQLite ledger: one writer at a time, and the next one woken when it is done.

SQLite's own waiting sleeps up to 100 ms at a time, so that with eight writers the lock stands idle while all of them
sleep. Here a lock file says whose turn it is, and a FIFO beside it is the bell: whoever is done rings it, and the
kernel wakes the one that has waited longest. The bell is a hint and never the lock: a holder that was killed rings
nothing, so everybody also looks now and then, and SQLite's own lock stands behind all of this.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import os
import select
import stat
import time
from collections.abc import Iterator

from blocks.errors import LedgerError

BUSY_SECONDS = 60
LOOK_SECONDS = 0.02
"""How long one that waits goes without looking, where nobody rings. (A transaction takes one to two milliseconds.)"""


@contextlib.contextmanager
def turn(database: str) -> Iterator[None]:
    """Have the turn to write the database of that file.

    Raises LedgerError where another had it for a minute, and where nothing may be written there.
    """
    try:
        lock = os.open(f"{database}-turn", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise LedgerError(
            f"The ledger {database} cannot be written: {error.strerror or error}.",
            kept="Nothing was changed.",
            do="Call it as the user who owns the state folder, or free some space; `commonfleet verify` only reads.",
        ) from error
    bell = _bell(f"{database}-bell")
    try:
        _wait(lock, bell)
        with _without_collections():
            yield
    finally:
        os.close(lock)
        if bell is not None:
            with contextlib.suppress(BlockingIOError):  # it rings already
                os.write(bell, b"!")
            os.close(bell)


def _bell(path: str) -> int | None:
    """The bell, made where there is none yet; None where the file system has no FIFOs."""
    with contextlib.suppress(OSError):
        if not os.path.exists(path):
            with contextlib.suppress(FileExistsError):  # another writer was quicker
                os.mkfifo(path, 0o600)
        # Open for both: writing needs no reader then, and what nobody waits for is gone when the last one closes it.
        bell = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        if stat.S_ISFIFO(os.fstat(bell).st_mode):
            return bell
        os.close(bell)  # what a copy of the folder has made of it
    return None


def _wait(lock: int, bell: int | None) -> None:
    """Until the lock is ours. The bell is open before the first look, so that no ring in between is missed."""
    give_up = time.monotonic() + BUSY_SECONDS
    while not _locked(lock):
        if time.monotonic() > give_up:
            raise LedgerError(
                f"The ledger was locked by another process for over {BUSY_SECONDS} s.",
                kept="Nothing was changed.",
                do="Look for a process that is stopped (`ps -eo pid,stat,cmd`), then try again.",
            )
        _listen(bell)


def _listen(bell: int | None) -> None:
    """Until the bell rings for us, or it is time to look."""
    with select.epoll() as ears:
        if bell is not None:
            # Of all that listen so, a ring wakes one: the first that came.
            ears.register(bell, select.EPOLLIN | select.EPOLLEXCLUSIVE)
        if ears.poll(LOOK_SECONDS) and bell is not None:
            with contextlib.suppress(BlockingIOError):  # another has taken it
                os.read(bell, 4096)


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
