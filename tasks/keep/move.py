"""Moving the ledger from its SQLite file to another database, in one command that may be cut anywhere and repeated.

1. Under the file's write lock, every row goes into the new database in one transaction there, and is read back and
   compared. Then the Merkle log judges: in the new database each event must fit its leaf, and all of them the root
   that was signed last. Until all that is so, nothing has happened.
2. Under the same lock, the file notes where it was moved and refuses every further change, also to processes that
   have it open.
3. The state folder points to the new database.

Until 2, the new database is marked as arriving and is opened by nobody. Cut before 2, the next call empties it again
(it knows it by the file's identity) and starts over; cut before 3, it compares once more and does the rest.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass

from sqlalchemy import Connection, delete, inspect, select, text

from blocks.errors import LedgerError
from blocks.home import Home
from blocks.ledger import Ledger
from blocks.ledger.belonging import STORE
from blocks.ledger.copying import Sum, check_same, copy_rows, sums
from blocks.ledger.database import engine_of, explained
from blocks.ledger.log import latest_checkpoint, octets
from blocks.ledger.place import record_url, shown, store_of
from blocks.ledger.refusals import refuse_everything
from blocks.ledger.revisions import head, make, note, noted, revision_of
from blocks.ledger.schema import meta, metadata, now, runs
from tasks.collect.driver import OPEN, STALE_SECONDS, is_dead
from tasks.publish.log.findings import Audit
from tasks.publish.log.own import append_to_log, log_verifier
from tasks.publish.log.verify_events import verify_events


@dataclass(frozen=True)
class Moved:
    """What the new database holds now: a sum for each table, and what its log says."""

    tables: dict[str, Sum]
    log: Audit
    url: str


def move(home: Home, url: str) -> Moved:
    """Move the ledger of the state folder to the empty database at `url`. Raises LedgerError."""
    if not url.startswith("postgresql"):
        raise LedgerError(
            "A ledger is moved to a PostgreSQL.",
            kept="Nothing was changed.",
            do="The way back to a file is `commonfleet backup` and `commonfleet restore`.",
        )
    if not home.ledger.exists():
        raise LedgerError(f"There is no {home.ledger} to move.", kept="Nothing was changed.")
    store = store_of(home)
    source = Ledger(engine_of(f"sqlite:///{home.ledger}"), home.results, store)
    target = Ledger(engine_of(url), home.results, store)
    try:
        with explained():
            tables, audit = _moved(home, source, target)
            with target.write() as new:
                _arrived(new)
            record_url(home, url)
    finally:
        source.close()
        target.close()
    return Moved(tables, audit, url)


def _moved(home: Home, source: Ledger, target: Ledger) -> tuple[dict[str, Sum], Audit]:
    there = shown(target.engine.url)
    with source.write() as old:
        identity = _identity(old)
        gone = noted(old, "moved_to")
        if gone is not None and gone != there:
            raise LedgerError(f"This ledger was moved to {gone} already.", kept="Nothing was changed.")
        if gone is not None:
            return _compared(old, target, identity), _checked_by_log(home, old, target)
        _refuse_driven(old)
    append_to_log(home, source)  # so that each event, until now, is vouched for by a leaf
    # The identity is written by now: what is copied below is known as ours, whatever happens to us.
    with source.write() as old:
        _refuse_driven(old)
        _checked_by_log(home, old, source)
        with target.write() as new:
            _emptied(new, identity)
            make(new)
            tables = copy_rows(old, new)
            note(new, "arriving", identity)
            if (store := noted(old, STORE)) is not None:  # the files stay where they are
                note(new, STORE, store)
        audit = _checked_by_log(home, old, target)
        note(old, "moved_to", there)
        refuse_everything(old, metadata.tables, f"this ledger was moved to {there}")
    return tables, audit


def _checked_by_log(home: Home, old: Connection, ledger: Ledger) -> Audit:
    """Each event of `ledger` against its leaf, and the tree against the checkpoint that `old` signed last.

    Raises LedgerError where one of them is not what was logged.
    """
    key, newest = log_verifier(home, ledger), latest_checkpoint(old)
    assert key is not None, "appending has made it"
    audit = verify_events(ledger, key, remembered=home.last_checkpoint)
    if audit.good and (newest is None or (newest.size, octets(newest.root)) == (audit.size, audit.root)):
        return audit
    first = audit.findings[0] if audit.findings else "it has another checkpoint than the ledger that it came from"
    raise LedgerError(
        f"The ledger in {shown(ledger.engine.url)} is not what was logged: {first}.",
        kept="The ledger that is moved is as it was.",
        do="`commonfleet verify` names all that is wrong in it. Where nothing is, move it again.",
    )


def _identity(old: Connection) -> str:
    if revision_of(old) != head():
        raise LedgerError("The ledger has another schema.", do="`commonfleet runs` brings it to ours; then move it.")
    found = noted(old, "identity")
    if found is None:  # made before ledgers had one
        found = uuid.uuid4().hex
        note(old, "identity", found)
    return found


def _refuse_driven(old: Connection) -> None:
    query = select(runs.c.id, runs.c.driver, runs.c.heartbeat, now().label("clock"))
    for row in old.execute(query.where(runs.c.state.in_(OPEN), runs.c.driver.is_not(None))):
        if not is_dead(row.driver) and row.clock - (row.heartbeat or 0) < STALE_SECONDS:
            raise LedgerError(
                f"Run {row.id} is being driven by {row.driver}.",
                kept="Nothing was changed, and the run goes on.",
                do="Wait for it, or stop its driver, then move the ledger: the run is resumed there.",
            )


def _compared(old: Connection, target: Ledger, identity: str) -> dict[str, Sum]:
    """An earlier call copied everything and was cut before the state folder pointed there."""
    with target.read() as new:
        if revision_of(new) != head() or identity not in (noted(new, "arriving"), noted(new, "came_from")):
            raise LedgerError(
                f"The database does not hold the ledger that was moved to {shown(target.engine.url)}.",
                kept="Nothing was changed.",
                do="Name the database that it was moved to.",
            )
        expected = sums(old)
        if noted(new, "arriving") is not None:  # else it has arrived, and may have gone on since
            check_same(expected, sums(new))
    return expected


def _arrived(new: Connection) -> None:
    """From now on it is a ledger like any other, and no later call empties it."""
    if (identity := noted(new, "arriving")) is not None:
        note(new, "came_from", identity)
        new.execute(delete(meta).where(meta.c.key == "arriving"))


def _emptied(new: Connection, identity: str) -> None:
    """Refuse a database with something in it, except for what an earlier call of ours left there."""
    tables = set(inspect(new).get_table_names())
    if not tables:
        return
    if "meta" not in tables or noted(new, "arriving") != identity:
        raise LedgerError(
            f"The database is not empty: it has the table {min(tables)}.",
            kept="Nothing was changed.",
            do="Name an empty database.",
        )
    metadata.drop_all(new)
    new.execute(text("DROP TABLE alembic_version"))
