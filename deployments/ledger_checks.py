"""The doctor's look at the ledger: whether it answers, has our schema, holds its files, and who waits for somebody."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import exc

from blocks.errors import CommonfleetError
from blocks.home import Home, open_home
from blocks.ledger import Ledger
from blocks.ledger.database import engine_of, explained
from blocks.ledger.place import ledger_url, shown
from blocks.ledger.revisions import head, refuse_strange, revision_of
from deployments.doctor import Finding
from flows.drive import ledger_of
from tasks.keep.check import Soundness, look
from tasks.publish.log.own import has_log, stopped


def ledger_findings() -> list[Finding]:
    """One finding for a ledger that cannot be used; else one for each matter."""
    try:
        home = open_home()
        where = shown(ledger_url(home))
        older = _older(home)
    except CommonfleetError as error:
        return [Finding("ledger", "bad", error.what, error.do)]
    except exc.DatabaseError as error:
        return [Finding("ledger", "bad", f"The ledger cannot be read: {error.orig}.", "Restore it from a backup.")]
    if older is not None:
        return [older]
    try:
        ledger = ledger_of(home)
    except CommonfleetError as error:
        return [Finding("ledger", "bad", error.what, error.do)]
    try:
        sound, log = look(ledger), _log(home, ledger)
    except CommonfleetError as error:
        return [Finding("ledger", "bad", error.what, error.do)]
    finally:
        ledger.close()
    opens = Finding("ledger", "good", f"The ledger {where} opens, with schema {head()}.")
    return [opens, _undriven(sound), *_overdue(sound), *_files(sound), *_orphans(sound, home), *log]


def _older(home: Home) -> Finding | None:
    """A finding where opening the ledger would change its schema. Does not wait for a database that is away."""
    url = ledger_url(home)
    if url.startswith("sqlite") and not Path(url.removeprefix("sqlite:///")).exists():
        return None  # it will be made
    engine = engine_of(url)
    try:
        with explained(), engine.connect() as connection:
            revision = revision_of(connection)
            if revision is None:
                return None
            refuse_strange(connection, revision)
    finally:
        engine.dispose()
    if revision == head():
        return None
    return Finding(
        "ledger", "note", f"The ledger has schema {revision}, and this commonfleet works with {head()}.",
        "The next command that opens it brings it there, after a copy of a SQLite file.",
    )  # fmt: skip


def _log(home: Home, ledger: Ledger) -> list[Finding]:
    """A finding where the log cannot grow."""
    if (trouble := stopped(ledger)) is not None:
        return [Finding("log", "bad", f"{trouble.what} The log stops before it.", trouble.do)]
    if home.log_key.exists() or not has_log(ledger):
        return []
    return [
        Finding(
            "log", "bad", f"The key of the ledger's log is not there: {home.log_key}. Events wait for their leaves.",
            "Put it back from a backup that was made with `--keys`.",
        )
    ]  # fmt: skip


def _undriven(sound: Soundness) -> Finding:
    if not sound.undriven:
        return Finding("runs", "good", "No run waits for a driver.")
    first = sound.undriven[0]
    return Finding(
        "runs", "note", f"These runs are open and nobody drives them: {', '.join(sound.undriven)}.",
        f"`commonfleet resume {first}` finishes one, `commonfleet cancel {first}` ends it.",
    )  # fmt: skip


def _overdue(sound: Soundness) -> list[Finding]:
    return [
        Finding(
            "leases", "note",
            f"{late.count} leases of run {late.run} are {late.seconds / 60:.0f} minutes past their deadline.",
            f"Their units go back to the queue when the run is driven: `commonfleet resume {late.run}`, or `cancel`.",
        )
        for late in sound.overdue
    ]  # fmt: skip


def _files(sound: Soundness) -> list[Finding]:
    kinds = (("missing", sound.missing), ("altered", sound.altered))
    found = [
        Finding(
            "segments", "bad", f"{len(paths)} Parquet files that hold results are {kind}: {_some(paths)}.",
            "Put them back from a backup, where they have the same path; until then queries of their rows fail.",
        )
        for kind, paths in kinds if paths
    ]  # fmt: skip
    return found or [Finding("segments", "good", f"All {sound.segments} Parquet files are as they were written.")]


def _orphans(sound: Soundness, home: Home) -> list[Finding]:
    if not sound.orphans:
        return []
    names = [
        str(path.relative_to(home.root)) if path.is_relative_to(home.root) else str(path) for path in sound.orphans
    ]
    return [
        Finding(
            "orphans", "note",
            f"{len(names)} files of results ({sound.orphan_bytes / 1e6:.1f} MB) belong to no record: {_some(names)}.",
            "A crash left them; no query reads them. `commonfleet up` removes them by and by, and so may you.",
        )
    ]  # fmt: skip


def _some(names: tuple[str, ...] | list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
