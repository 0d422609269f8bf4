"""Opening the ledger's database: SQLite (WAL) in one file, or PostgreSQL by URL.

`Ledger.write()` is the only way to change anything: one short transaction that takes the write lock at its start
(SQLite's deferred transactions collide when two of them upgrade), with no network call inside.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection, Engine, create_engine, event, exc, insert, select, text

from blocks.errors import LedgerError
from blocks.ledger import keep_schema, log_schema  # noqa: F401 - the log's tables are made with the others
from blocks.ledger.prepared import run_text
from blocks.ledger.schema import IMMUTABLE, SCHEMA_VERSION, meta, metadata
from blocks.store import Store

BUSY_SECONDS = 60


@dataclass(frozen=True)
class Ledger:
    """An open ledger: records in `engine`, Parquet segments below `results`, raw bundles in `store`."""

    engine: Engine
    results: Path
    store: Store

    @contextlib.contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that may change things; commits at the end, rolls back on any exception."""
        with _explained(), self._turn(), self.engine.connect() as connection:
            connection.begin()  # said outright: a statement of `prepared` goes past SQLAlchemy and begins nothing
            if self.engine.dialect.name == "sqlite":
                run_text(connection, "BEGIN IMMEDIATE")
            try:
                yield connection
                connection.commit()
            except BaseException:
                connection.rollback()
                raise

    @contextlib.contextmanager
    def read(self) -> Iterator[Connection]:
        """A consistent look; nothing is changed."""
        with _explained(), self.engine.connect() as connection:
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

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        """Wait for the turn to write, where the database is a file.

        SQLite's own waiting sleeps up to 100 ms at a time, so that with eight writers the lock stands idle while
        all of them sleep. A lock file polled at a millisecond keeps it busy and the waiting short.
        """
        if self.engine.dialect.name != "sqlite":
            yield
            return
        lock = os.open(f"{self.engine.url.database}-turn", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            give_up = time.monotonic() + BUSY_SECONDS
            while not _locked(lock):
                if time.monotonic() > give_up:
                    raise LedgerError(
                        f"The ledger was locked by another process for over {BUSY_SECONDS} s.",
                        kept="Nothing was changed.",
                        do="Look for a process that is stopped (`ps -eo pid,stat,cmd`), then try again.",
                    )
                time.sleep(random.uniform(0.001, 0.004))
            yield
        finally:
            os.close(lock)

    def close(self) -> None:
        self.engine.dispose()


def open_ledger(url: str, results: Path, store: Store) -> Ledger:
    """Open (and where needed make) the ledger at `url`, such as `sqlite:////path/ledger.db`.

    Raises LedgerError when it cannot be opened or has another schema.
    """
    engine = create_engine(url, pool_pre_ping=not url.startswith("sqlite"))
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _tune_sqlite)
    ledger = Ledger(engine, results, store)
    with _explained():
        _make_schema(ledger)
    return ledger


def _make_schema(ledger: Ledger) -> None:
    with ledger.write() as connection:
        if ledger.engine.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(7310579)"))  # one maker at a time
        if not ledger.engine.dialect.has_table(connection, "meta"):
            metadata.create_all(connection)
            for statement in _refusals(ledger.engine.dialect.name):
                connection.execute(text(statement))
            connection.execute(insert(meta).values(key="schema", value=str(SCHEMA_VERSION)))
            return
        version = int(connection.scalar(select(meta.c.value).where(meta.c.key == "schema")) or 0)
    if version != SCHEMA_VERSION:
        newer = version > SCHEMA_VERSION
        raise LedgerError(
            f"The ledger has schema {version}; this commonfleet knows schema {SCHEMA_VERSION}.",
            kept="Nothing was changed.",
            do=f"Install the {'newer' if newer else 'older'} commonfleet, or point COMMONFLEET_HOME at another folder.",
        )


def _refusals(dialect: str) -> Iterator[str]:
    """Triggers that refuse to change a fact."""
    tables = (*IMMUTABLE, *(table.name for table in keep_schema.FACTS))
    if dialect == "sqlite":
        for table in tables:
            for verb in ("UPDATE", "DELETE"):
                yield (
                    f"CREATE TRIGGER {table}_no_{verb.lower()} BEFORE {verb} ON {table} "
                    f"BEGIN SELECT RAISE(ABORT, '{table} are facts: insert, never change'); END"
                )
        return
    yield (
        "CREATE FUNCTION commonfleet_refuse() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION '% are facts: insert, never change', TG_TABLE_NAME; END $$"
    )
    for table in tables:
        yield (
            f"CREATE TRIGGER {table}_immutable BEFORE UPDATE OR DELETE ON {table} "
            "FOR EACH ROW EXECUTE FUNCTION commonfleet_refuse()"
        )


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _tune_sqlite(connection: object, _: object) -> None:
    # We begin transactions ourselves (BEGIN IMMEDIATE): the driver's own implicit BEGIN is switched off.
    connection.isolation_level = None  # type: ignore[attr-defined]
    cursor = connection.cursor()  # type: ignore[attr-defined]
    cursor.execute(f"PRAGMA busy_timeout = {BUSY_SECONDS * 1000}")
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA synchronous = " + os.environ.get("COMMONFLEET_SQLITE_SYNCHRONOUS", "NORMAL"))
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.execute("PRAGMA cache_size = -512")
    cursor.execute("PRAGMA mmap_size = 0")
    cursor.close()


@contextlib.contextmanager
def _explained() -> Iterator[None]:
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
        raise LedgerError(f"The ledger cannot be used: {cause}.", do="See `commonfleet doctor`.") from error
    except exc.DatabaseError as error:
        if "malformed" in str(error.orig) or "not a database" in str(error.orig):
            raise LedgerError(
                f"The ledger's file is damaged: {error.orig}.",
                do="Restore it from a backup; the raw bundles in the store can be admitted again.",
            ) from error
        raise
