"""A backup: one moment of the records, with every segment, raw bundle and provenance statement that they name.

    backup.json      written last: a folder without it is an incomplete backup
    files.sha256     every other file; `sha256sum -c files.sha256` checks it by hand
    ledger.db        the records, as SQLite, whatever database they came from
    results/ store/  as in the state folder
    keys/            the public key of the log; the others only where asked for

What `verify` remembers of the log stays where it is: memory belongs to whoever checks, and one that travels with the
records would vouch for whatever these were cut down to.

The records come first and the files after. Files are written once and never altered, so they may be copied while
runs go on; where one has gone meanwhile (replaced, or dropped by a logged act), the records are taken once more.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import Engine, create_engine

from blocks.canonical import digest_file
from blocks.disk import FULL, durable, write_whole
from blocks.errors import LedgerError
from blocks.home import Home
from blocks.ledger import Ledger
from blocks.ledger.copies import copy_sqlite
from blocks.ledger.copying import copy_rows, sums
from blocks.ledger.database import engine_of, explained
from blocks.ledger.revisions import head, make
from tasks.keep.named import Named, named_in_store, named_segments, place
from tasks.publish.log.own import log_verifier

FORMAT = 1
MANIFEST, FILES, PARTIAL = "backup.json", "files.sha256", "backup.partial"
_TRIES = 5

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Backup:
    """What was made. `missing` and `altered` are files that the records name and that were not in order."""

    folder: Path
    rows: int
    files: int
    bytes: int
    missing: tuple[str, ...]
    altered: tuple[str, ...]


def back_up(home: Home, ledger: Ledger, folder: Path, *, keys: bool = False, tell: Tell = lambda _: None) -> Backup:
    """Make a backup in `folder`, which is empty, new, or holds a backup that was cut short (which is gone on with).

    Raises LedgerError; then the folder is no complete backup, and the ledger is as it was.
    """
    with _writing(folder):
        _begin(folder)
        for number in range(1, _TRIES + 1):
            tell("copying the records")
            _copy_records(ledger, folder / "ledger.db")
            with _opened(folder / "ledger.db").connect() as records:
                tables = sums(records)
                wanted = [*named_segments(records), *named_in_store(records)]
            tell(f"copying {len(wanted)} files")
            digests, missing, altered = _copy_files(ledger, folder, wanted)
            if not missing or number == _TRIES or not _gone_since(ledger, missing):
                break
        _remove_others(folder, digests)
        if keys:
            digests |= {f"keys/{p.name}": _copied(p, folder / "keys" / p.name) for p in _files_in(home.keys)}
        elif verifier := log_verifier(home, ledger):
            write_whole(folder / "keys" / home.log_public.name, f"{verifier}\n".encode())
            name = f"keys/{home.log_public.name}"
            digests[name] = digest_file(folder / name)
        digests["ledger.db"] = digest_file(folder / "ledger.db")
        _end(folder, digests, tables={name: made.to_json() for name, made in tables.items()}, keys=keys,
             missing=[named.path for named in missing], altered=altered)  # fmt: skip
    size = sum((folder / name).stat().st_size for name in digests)
    rows = sum(made.rows for made in tables.values())
    return Backup(folder, rows, len(digests), size, tuple(named.path for named in missing), tuple(altered))


def _begin(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if any(folder.iterdir()) and not (folder / PARTIAL).exists():
        raise LedgerError(f"{folder} is not empty.", kept="It was left as it is.", do="Name a new folder.")
    (folder / PARTIAL).write_text("This backup is not complete. `commonfleet backup` on this folder goes on with it.\n")
    (folder / MANIFEST).unlink(missing_ok=True)


def _copy_records(ledger: Ledger, copy: Path) -> None:
    copy.unlink(missing_ok=True)
    if ledger.engine.dialect.name == "sqlite":
        copy_sqlite(Path(str(ledger.engine.url.database)), copy)
        return
    aside = copy.with_name(".tmp-ledger.db")
    aside.unlink(missing_ok=True)
    engine = engine_of(f"sqlite:///{aside}")
    try:
        with explained(), ledger.read() as source, engine.begin() as target:
            target.exec_driver_sql("BEGIN")
            make(target)
            copy_rows(source, target)
    finally:
        engine.dispose()
    with contextlib.closing(sqlite3.connect(aside)) as made:
        made.execute("PRAGMA journal_mode = DELETE")
    durable(aside)
    aside.rename(copy)


def _copy_files(ledger: Ledger, folder: Path, wanted: Iterable[Named]) -> tuple[dict[str, str], list[Named], list[str]]:
    """Copy what is wanted; gives each copy's digest, what is missing, and what is not what its digest says."""
    digests: dict[str, str] = {}
    missing, altered = [], []
    for named in wanted:
        copy = folder / named.path
        try:
            if copy.exists() and digest_file(copy) == named.digest:
                digests[named.path] = named.digest  # from a try before
                continue
            digests[named.path] = _taken(ledger, named, copy)
        except FileNotFoundError:
            missing.append(named)
            continue
        if digests[named.path] != named.digest:
            altered.append(named.path)
    return digests, missing, altered


def _gone_since(ledger: Ledger, missing: list[Named]) -> bool:
    """Whether the records of now do without one of them: then they were replaced while we copied."""
    with ledger.read() as connection:
        now = {named.path for named in (*named_segments(connection), *named_in_store(connection))}
    return any(named.path not in now for named in missing)


def _remove_others(folder: Path, digests: dict[str, str]) -> None:
    for part in ("results", "store", "keys"):
        for path in _files_in(folder / part):
            if str(path.relative_to(folder)) not in digests:
                path.unlink()


def _end(folder: Path, digests: dict[str, str], **more: Any) -> None:
    lines = "".join(f"{digest.removeprefix('sha256:')}  {name}\n" for name, digest in sorted(digests.items()))
    write_whole(folder / FILES, lines.encode())
    manifest = {
        "format": FORMAT, "schema": head(), "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "files": len(digests), "files_digest": hashlib.sha256(lines.encode()).hexdigest(), **more,
    }  # fmt: skip
    for path in sorted({(folder / name).parent for name in digests}):
        durable(path)
    write_whole(folder / MANIFEST, (json.dumps(manifest, indent=1) + "\n").encode())
    (folder / PARTIAL).unlink()
    durable(folder)


# -- files ---------------------------------------------------------------------------------------------------------


def _taken(ledger: Ledger, named: Named, copy: Path) -> str:
    """Copy a file from where it is kept, durably; gives the digest of the copy. Raises FileNotFoundError."""
    if ledger.store.bucket is None:
        return _copied(place(ledger, named), copy)
    copy.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    ledger.store.bucket.fetch(named.path, copy)
    durable(copy)
    return digest_file(copy)


def _copied(source: Path, copy: Path) -> str:
    """Copy durably; gives the digest of what was copied. Raises FileNotFoundError."""
    hasher = hashlib.sha256()
    with source.open("rb") as reader:
        copy.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(copy, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, source.stat().st_mode & 0o777)
        with os.fdopen(descriptor, "wb") as writer:
            while chunk := reader.read(1 << 20):
                hasher.update(chunk)
                writer.write(chunk)
            writer.flush()
            os.fsync(writer.fileno())
    return f"sha256:{hasher.hexdigest()}"


def _files_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file()) if folder.exists() else []


def _opened(file: Path) -> Engine:
    """A SQLite file that nobody writes to, read without leaving anything beside it."""
    return create_engine(
        "sqlite://", creator=lambda: sqlite3.connect(f"file:{quote(str(file))}?mode=ro&immutable=1", uri=True)
    )


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        full = error.errno in FULL
        raise LedgerError(
            f"The disk is full: the backup {folder} is not complete." if full
            else f"The backup {folder} cannot be made: {error.strerror or error}.",
            kept="The ledger is as it was.",
            do="Free some space and call it again: it goes on where it was." if full else "Name another folder.",
        ) from error  # fmt: skip
