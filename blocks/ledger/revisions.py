"""Which schema a ledger has, and bringing it to ours.

A new ledger is made from the metadata at once. One that exists is compared by a single SELECT; only one that is older
imports Alembic, which walks the files of `migrations/versions`. All of it is one transaction, under the write lock: a
crash in the middle leaves the ledger as it was.
"""

from __future__ import annotations

import logging
import uuid
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, exc, insert, select, text, update

from blocks.errors import LedgerError
from blocks.ledger import keep_schema
from blocks.ledger.log_schema import ALLOWED
from blocks.ledger.refusals import let_only_grow, make_facts
from blocks.ledger.schema import IMMUTABLE, meta, metadata, now

if TYPE_CHECKING:
    from blocks.ledger.database import Ledger

VERSIONS = Path(__file__).parent / "migrations" / "versions"
FIRST, FIRST_COUNTED = "0001", 2
"""Before there were revisions, `meta` counted schemas: its number 2 is our revision 0001. It goes on counting, so
that a commonfleet from before then refuses what came after it."""
DRIVEN_SECONDS = 30.0  # as long as a run's driver counts as alive without a further sign
_TURN = 7310579  # PostgreSQL's advisory lock: one maker at a time

_log = logging.getLogger("commonfleet.ledger")


@cache
def head() -> str:
    """The revision that this commonfleet works with: the last file of `migrations/versions`."""
    return max(path.name[1:5] for path in VERSIONS.glob("v[0-9][0-9][0-9][0-9]_*.py"))


def revision_of(connection: Connection) -> str | None:
    """The ledger's revision; None where there is no ledger yet. Changes nothing. Raises LedgerError."""
    has_table = connection.dialect.has_table
    if has_table(connection, "alembic_version"):
        found = connection.scalar(text("SELECT version_num FROM alembic_version"))
        return str(found) if found else _unknown("no revision at all")
    if not has_table(connection, "meta"):
        return None
    counted = noted(connection, "schema") or "nothing"
    return FIRST if counted == str(FIRST_COUNTED) else _unknown(counted)


def noted(connection: Connection, key: str) -> str | None:
    """A line of `meta`."""
    value: str | None = connection.scalar(select(meta.c.value).where(meta.c.key == key))
    return value


def note(connection: Connection, key: str, value: str) -> None:
    """Write, or write over, a line of `meta`."""
    if connection.execute(update(meta).where(meta.c.key == key).values(value=value)).rowcount == 0:
        connection.execute(insert(meta).values(key=key, value=value))


def refuse_strange(connection: Connection, revision: str) -> None:
    """Raises LedgerError for a ledger that was moved away, has not arrived yet, or has a newer schema."""
    moved = noted(connection, "moved_to")
    if moved is not None:
        raise LedgerError(
            f"This ledger was moved to {moved}.",
            kept="It holds what it held then, and takes nothing more.",
            do="Name that one in COMMONFLEET_LEDGER, or finish the move: `commonfleet move-ledger --to URL`.",
        )
    if noted(connection, "arriving") is not None:
        raise LedgerError(
            "A ledger is being moved into this database, and that has not ended.",
            kept="The ledger that it comes from is whole.",
            do="Call `commonfleet move-ledger` again, without COMMONFLEET_LEDGER.",
        )
    if revision > head():
        raise LedgerError(
            f"The ledger has schema {revision}; this commonfleet knows schemas up to {head()}.",
            kept="Nothing was changed.",
            do="Install the newer commonfleet, or point COMMONFLEET_HOME at another folder.",
        )


def make_ready(ledger: Ledger) -> None:
    """Make the ledger where there is none; bring it to our schema where it is older. Raises LedgerError."""
    if _is_at_head(ledger):
        return
    with ledger.write() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:turn)"), {"turn": _TURN})
        revision = revision_of(connection)
        if revision is None:
            make(connection)
            return
        refuse_strange(connection, revision)
        if not connection.dialect.has_table(connection, "alembic_version"):
            _stamp(connection, revision)
        if revision == head():
            return  # another process was faster
    _upgrade(ledger)


def make(connection: Connection) -> None:
    """The tables of a new ledger, from the metadata, in the transaction of the connection."""
    metadata.create_all(connection)
    make_facts(connection, (*IMMUTABLE, *(table.name for table in keep_schema.FACTS)))
    let_only_grow(connection, ALLOWED)
    connection.execute(insert(meta).values(key="identity", value=uuid.uuid4().hex))
    _stamp(connection, head())


def _is_at_head(ledger: Ledger) -> bool:
    """One look for what nearly always holds."""
    try:
        with ledger.engine.connect() as connection:
            found = connection.scalar(text("SELECT version_num FROM alembic_version"))
            strange = select(meta.c.key).where(meta.c.key.in_(["moved_to", "arriving"]))
            return found == head() and connection.scalar(strange) is None
    except exc.DatabaseError:
        return False  # no ledger there yet, an old one, or none that answers: the longer way says which


def _stamp(connection: Connection, revision: str) -> None:
    if not connection.dialect.has_table(connection, "alembic_version"):
        connection.execute(
            text(
                "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL, "
                "CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num))"
            )
        )
        connection.execute(text("INSERT INTO alembic_version VALUES (:revision)"), {"revision": revision})
    note(connection, "schema", str(int(revision) - int(FIRST) + FIRST_COUNTED))


def _upgrade(ledger: Ledger) -> None:
    """From an older revision to ours, in one transaction, with a copy of a SQLite file first."""
    from blocks.ledger.copies import copied_before
    from blocks.ledger.migrations import migrate

    with ledger.write(schema=True) as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:turn)"), {"turn": _TURN})
        revision = revision_of(connection)
        assert revision is not None
        if revision == head():
            return
        _refuse_driven(connection, revision)
        copy = copied_before(ledger, revision)
        migrate(connection)
        _stamp(connection, head())
    kept = f"as it was, it is kept in {copy}" if copy else "in one transaction of PostgreSQL's"
    _log.warning("The ledger was brought from schema %s to %s: %s.", revision, head(), kept)


def _refuse_driven(connection: Connection, revision: str) -> None:
    """A driver of the older commonfleet would go on writing what it knows."""
    driven = connection.scalar(
        select(text("id")).select_from(text("runs")).where(text("driver IS NOT NULL"), text("finished IS NULL"))
        .where(now() - text("heartbeat") < DRIVEN_SECONDS)
    )  # fmt: skip
    if driven is not None:
        raise LedgerError(
            f"The ledger has schema {revision} and would be brought to {head()}, but run {driven} is being driven.",
            kept="Nothing was changed, and the run goes on.",
            do=f"Wait for the run, or stop its driver; {DRIVEN_SECONDS:.0f} s after its last sign, try again.",
        )


def _unknown(schema: str) -> str:
    raise LedgerError(
        f"The ledger has schema {schema}, which this commonfleet does not know (its own is {head()}).",
        kept="Nothing was changed.",
        do="Install the commonfleet that made it, or point COMMONFLEET_HOME at another folder.",
    )
