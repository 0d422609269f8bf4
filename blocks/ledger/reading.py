"""Opening a ledger for reading only: nothing is made, nothing is changed, and a folder without write access will do.

SQLite in WAL mode wants to make two files beside the database even where it only reads. In a folder that cannot be
written, and where no such file holds anything, the database is read as one that nobody changes; whether that was true
is looked at afterwards.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from blocks.errors import LedgerError
from blocks.home import Home, check_version, check_whole
from blocks.ledger.belonging import check_store
from blocks.ledger.database import Ledger, engine_of
from blocks.ledger.place import known_url, ledger_url, shown, store_of
from blocks.ledger.revisions import head, refuse_strange, revision_of


def open_to_read(place: Home, url: str | None = None) -> Ledger:
    """The ledger of a state folder, or at `url`, for reading only.

    Raises CommonfleetError where there is no ledger, or one of another schema.
    """
    check_whole(place)
    if (place.root / "version").exists():
        check_version(place.root / "version")
    named = ledger_url(place) if url is None else known_url(url, "url")
    file = _file(named)
    if file and not file.exists():
        raise LedgerError(
            f"There is no ledger in {place.root}.",
            do="Name the state folder that holds one (COMMONFLEET_HOME), or run something first.",
        )
    ledger = Ledger(engine_of(named, read_only=True), place.results, store_of(place))
    try:
        _check_schema(ledger)
        check_store(ledger)
    except LedgerError as error:
        ledger.close()
        readable = file and os.access(file, os.R_OK) and not os.access(file.parent, os.W_OK)
        if readable and "unable to open" in error.what:
            raise LedgerError(
                f"{file} has a write-ahead log beside it, which cannot be read in a folder that cannot be written.",
                kept="Nothing was changed.",
                do="Copy the state folder to where you may write, or take a backup, and name that.",
            ) from error
        raise
    except BaseException:
        ledger.close()
        raise
    return ledger


@contextlib.contextmanager
def opened_to_read(place: Home) -> Iterator[Ledger]:
    """The ledger of a state folder, open for a while. Raises LedgerError where it did not hold still as it had to."""
    file = _file(ledger_url(place))
    before = _state(file)
    ledger = open_to_read(place)
    try:
        yield ledger
    finally:
        ledger.close()
        if "immutable" in ledger.engine.url.query and _state(file) != before:
            raise LedgerError(
                f"{file} was written while it was read, from a folder that cannot be written here.",
                kept="Nothing was changed. What was found may come of that, and is not told.",
                do="Do it again, or read a backup.",
            )


def _file(url: str) -> Path | None:
    return Path(url.removeprefix("sqlite:///")) if url.startswith("sqlite") else None


def _state(file: Path | None) -> list[tuple[int, int]]:
    """What differs once somebody has written: times and sizes of the database and its write-ahead log."""
    paths = [file, file.with_name(f"{file.name}-wal")] if file else []
    return [(stat.st_mtime_ns, stat.st_size) for path in paths if path.exists() for stat in [path.stat()]]


def _check_schema(ledger: Ledger) -> None:
    with ledger.read() as connection:
        revision = revision_of(connection)
        if revision is None:
            raise LedgerError(f"There is no ledger in {shown(ledger.engine.url)}.", do="Name the one that holds it.")
        refuse_strange(connection, revision)
    if revision != head():
        raise LedgerError(
            f"The ledger has schema {revision}; this commonfleet reads schema {head()}.",
            kept="Nothing was changed.",
            do="Any command of this commonfleet that writes, such as `commonfleet runs`, brings it there.",
        )
