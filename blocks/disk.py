"""What it means when a disk does not take what is written to it, said in words."""

from __future__ import annotations

import contextlib
import errno
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
