"""Copies of a SQLite ledger, made while it is in use: SQLite's own backup, one moment of the file."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from pathlib import Path
from typing import TYPE_CHECKING

from blocks.disk import durable
from blocks.errors import LedgerError

if TYPE_CHECKING:
    from blocks.ledger.database import Ledger


def copied_before(ledger: Ledger, revision: str) -> Path | None:
    """A copy of the ledger beside it, before it is brought to another schema. None for PostgreSQL, which copies
    nothing: there the upgrade is one transaction. Raises LedgerError; no half copy is left under that name.
    """
    if ledger.engine.dialect.name != "sqlite":
        return None
    file = Path(str(ledger.engine.url.database))
    copy = file.with_name(f"{file.name}.schema-{revision}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}")
    copy_sqlite(file, copy)
    return copy


def copy_sqlite(file: Path, copy: Path) -> None:
    """Copy the committed content of a SQLite file durably to `copy`, one file without a journal. Writers go on.

    Raises LedgerError, with nothing left, where the copy cannot be written.
    """
    aside = copy.with_name(f".tmp-{copy.name}")
    try:
        aside.unlink(missing_ok=True)
        with contextlib.closing(sqlite3.connect(file)) as source, contextlib.closing(sqlite3.connect(aside)) as target:
            source.backup(target)  # all pages in one go: one moment, whatever is written meanwhile
            target.execute("PRAGMA journal_mode = DELETE")
        durable(aside)
        aside.rename(copy)
        durable(copy.parent)
    except (OSError, sqlite3.Error) as error:
        raise LedgerError(
            f"The ledger could not be copied to {copy}: {getattr(error, 'strerror', None) or error}.",
            kept="The ledger was not changed.",
            do="Free some space there, and try again.",
        ) from error
    finally:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)
