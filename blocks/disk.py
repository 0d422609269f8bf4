"""Writing files: whole or not at all, and in words where the disk does not take them."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

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


@contextlib.contextmanager
def whole_file(path: Path, *, mode: int = 0o666) -> Iterator[IO[bytes]]:
    """A file to write to, that durably takes the name `path` at the end, or leaves nothing. Raises OSError.

    `mode` is what it may have at most: the process's umask is taken from it.
    """
    new = path.with_name(f".{path.name[:200]}.{os.getpid()}")
    new.unlink(missing_ok=True)  # of a process that had our number; its mode may be another
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(descriptor)
        new.replace(path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise


def write_whole(path: Path, data: bytes, *, mode: int = 0o666) -> None:
    """Write a file durably, so that it is the old one or the new one whatever happens. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path, mode=mode) as file:
        file.write(data)


def durable(path: Path) -> None:
    """Have the disk hold what was written to a file, or the names in a folder. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
