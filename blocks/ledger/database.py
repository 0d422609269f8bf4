"""Opening the ledger's database: SQLite (WAL) in one file, or PostgreSQL by URL.

`Ledger.write()` is the only way to change anything: one short transaction that takes the write lock at its start
(SQLite's deferred transactions collide when two of them upgrade), with no network call inside.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, exc

from blocks.errors import LedgerError
from blocks.ledger.answering import connected
from blocks.ledger.prepared import run_text
from blocks.ledger.revisions import make_ready
from blocks.ledger.turns import BUSY_SECONDS, turn
from blocks.store import Store

CONNECT_SECONDS = 10  # for one try to reach a PostgreSQL
CHECKPOINT_WRITES = 16
_WRITES = itertools.count(1)  # of this process


@dataclass(frozen=True)
class Ledger:
    """An open ledger: records in `engine`, Parquet segments below `results`, raw bundles in `store`."""

    engine: Engine
    results: Path
    store: Store

    @contextlib.contextmanager
    def write(self, *, schema: bool = False) -> Iterator[Connection]:
        """A transaction that may change things; commits at the end, rolls back on any exception.

        With `schema` it may also make tables anew that others refer to, which SQLite does only while nothing checks
        the references; they are checked once at the end.
        """
        with explained(), self._turn(), connected(self.engine) as connection:
            sqlite = self.engine.dialect.name == "sqlite"
            if sqlite and schema:
                connection.connection.cursor().execute("PRAGMA foreign_keys = OFF")
            connection.begin()  # said outright: a statement of `prepared` goes past SQLAlchemy and begins nothing
            if sqlite:
                run_text(connection, "BEGIN IMMEDIATE")
            try:
                yield connection
                if sqlite and schema and connection.exec_driver_sql("PRAGMA foreign_key_check").first():
                    raise LedgerError(
                        "The new schema would lose rows that others refer to.", kept="Nothing was changed."
                    )
                connection.commit()
            except BaseException:
                connection.rollback()
                raise
            finally:
                if sqlite and schema:
                    connection.connection.cursor().execute("PRAGMA foreign_keys = ON")
        if sqlite and next(_WRITES) % CHECKPOINT_WRITES == 0:
            self._checkpoint()

    @contextlib.contextmanager
    def read(self) -> Iterator[Connection]:
        """A consistent look; nothing is changed."""
        with explained(), connected(self.engine) as connection:
            if self.engine.dialect.name == "sqlite":
                connection.begin()
                run_text(connection, "BEGIN")
            else:
                # READ COMMITTED shows each statement another moment: a bundle could be seen both uncut and cut.
                connection.execution_options(isolation_level="REPEATABLE READ").begin()
            try:
                yield connection
            finally:
                connection.rollback()

    def _checkpoint(self) -> None:
        """Copy what the write-ahead log holds into the database, with nobody waiting for it.

        Left to SQLite, the writer that finds the log full does this inside its turn, fsyncs and all: a sixth of the
        time that the turn was held.
        """
        # What was written is safe in the log, whatever comes of this.
        with contextlib.suppress(exc.OperationalError), self.engine.connect() as connection:
            run_text(connection, "PRAGMA wal_checkpoint(PASSIVE)")

    def _turn(self) -> contextlib.AbstractContextManager[None]:
        """PostgreSQL sees to several writers by itself."""
        return turn(str(self.engine.url.database)) if self.engine.dialect.name == "sqlite" else contextlib.nullcontext()

    def close(self) -> None:
        self.engine.dispose()


def open_ledger(url: str, results: Path, store: Store) -> Ledger:
    """Open (and where needed make, or bring to our schema) the ledger at `url`, such as `sqlite:////path/ledger.db`.

    Raises LedgerError when it cannot be opened, has a newer schema, or was moved elsewhere.
    """
    ledger = Ledger(engine_of(url), results, store)
    try:
        with explained():
            make_ready(ledger)
    except BaseException:
        ledger.close()
        raise
    return ledger


def engine_of(url: str, *, read_only: bool = False) -> Engine:
    """SQLAlchemy's engine for the URL, with nothing opened yet; with `read_only` the database itself holds to that.

    Raises LedgerError where its driver is missing.
    """
    if url.startswith("sqlite"):
        if read_only:
            path = url.removeprefix("sqlite:///").replace("%", "%25").replace("?", "%3f").replace("#", "%23")
            still = "&immutable=1" if _holds_still(Path(url.removeprefix("sqlite:///"))) else ""
            url = f"sqlite:///file:{path}?mode=ro{still}&uri=true"
        engine = create_engine(url)
        event.listen(engine, "connect", _read_only_sqlite if read_only else _tune_sqlite)
        return engine
    how: dict[str, Any] = {"application_name": "commonfleet"}
    if "connect_timeout" not in url:
        how["connect_timeout"] = CONNECT_SECONDS
    if read_only:
        how["options"] = "-c default_transaction_read_only=on"
    try:
        return create_engine(url, pool_pre_ping=True, connect_args=how)
    except ModuleNotFoundError as error:
        raise LedgerError(
            f"The ledger is a PostgreSQL, and the package {error.name} that speaks to it is not installed.",
            kept="Nothing was changed.",
            do="pip install 'commonfleet[postgres]'",
        ) from error


def _tune_sqlite(connection: object, _: object) -> None:
    # We begin transactions ourselves (BEGIN IMMEDIATE): the driver's own implicit BEGIN is switched off.
    connection.isolation_level = None  # type: ignore[attr-defined]
    cursor = connection.cursor()  # type: ignore[attr-defined]
    cursor.execute(f"PRAGMA busy_timeout = {BUSY_SECONDS * 1000}")
    cursor.execute("PRAGMA journal_mode = WAL")
    # A checkpoint beside other writers never reaches the log's end. The one that SQLite then makes in a writer's turn
    # finds most of it copied, and lets the log begin anew.
    cursor.execute("PRAGMA wal_autocheckpoint = 4000")
    cursor.execute("PRAGMA synchronous = " + os.environ.get("COMMONFLEET_SQLITE_SYNCHRONOUS", "NORMAL"))
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.execute("PRAGMA cache_size = -512")
    cursor.execute("PRAGMA mmap_size = 0")
    cursor.close()


def _holds_still(file: Path) -> bool:
    """Whether SQLite can read the file only as one that does not change: it may not make its own files beside it."""
    wal = file.with_name(f"{file.name}-wal")
    return not os.access(file.parent, os.W_OK) and not (wal.exists() and wal.stat().st_size)


def _read_only_sqlite(connection: object, _: object) -> None:
    connection.isolation_level = None  # type: ignore[attr-defined]
    cursor = connection.cursor()  # type: ignore[attr-defined]
    cursor.execute("PRAGMA query_only = ON")
    cursor.execute(f"PRAGMA busy_timeout = {BUSY_SECONDS * 1000}")
    cursor.close()


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Database errors that a person can act on, said in words."""
    try:
        yield
    except exc.OperationalError as error:
        cause = str(error.orig)
        if "full" in cause or "No space left" in cause:
            raise LedgerError(
                f"The disk is full: the ledger could not be written ({cause}).",
                kept="Everything recorded before is safe, and finished work waits in the machine's spool.",
                do="Free some space, then `commonfleet resume RUN`.",
            ) from error
        if "database is locked" in cause:
            raise LedgerError(
                f"The ledger was locked by another process for over {BUSY_SECONDS} s.",
                kept="Nothing was changed.",
                do="Look for a process that holds it (`commonfleet doctor`), then try again.",
            ) from error
        raise LedgerError(
            f"The ledger cannot be used: {cause.strip()}.",
            kept="What was recorded before is safe where it is.",
            do="See `commonfleet doctor`.",
        ) from error
    except exc.DatabaseError as error:
        if "malformed" in str(error.orig) or "not a database" in str(error.orig):
            raise LedgerError(
                f"The ledger's file is damaged: {error.orig}.",
                do="Restore it from a backup; the raw bundles in the store can be admitted again.",
            ) from error
        if getattr(error.orig, "sqlstate", None) in ("42501", "25006"):  # insufficient privilege; read-only
            raise LedgerError(
                f"The database does not let us keep a ledger there: {str(error.orig).strip().splitlines()[0]}.",
                kept="Nothing was changed.",
                do="Name a database whose owner is the user in the URL.",
            ) from error
        raise
