"""Writing files: whole or not at all, and in words where the disk does not take them."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from blocks.errors import LedgerError

FULL = (errno.ENOSPC, errno.EDQUOT)


@contextlib.contextmanager
def writing_below(root: Path) -> Iterator[None]:
    """Errors of the disk below `root` come as LedgerError."""
    try:
        yield
    except OSError as error:
        full = error.errno in FULL
        raise LedgerError(
            f"The disk is full: nothing more can be kept below {root}."
            if full
            else f"{root} cannot be written: {error.strerror or error}.",
            kept="Everything recorded before is safe, and finished work waits in the machine's spool.",
            do="Free some space, then `commonfleet resume RUN`." if full else "See `commonfleet doctor`.",
        ) from error


def make_durable(path: Path) -> None:
    """Have a file, or the names in a folder, on the disk for good. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_whole(path: Path, data: bytes) -> None:
    """Write a file durably, so that it is the old one or the new one whatever happens. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with new.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    except OSError:
        new.unlink(missing_ok=True)
        raise
