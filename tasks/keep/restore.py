"""Restoring a backup into a state folder: checked as a whole aside, and only then put into place."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from blocks.canonical import digest_file
from blocks.disk import durable
from blocks.errors import LedgerError
from blocks.home import Home
from blocks.ledger.belonging import STORE
from blocks.ledger.copying import OWN
from blocks.ledger.revisions import head
from tasks.keep.backup import FILES, FORMAT, MANIFEST


@dataclass(frozen=True)
class Restored:
    """What was put back. `missing` and `altered` files were so when the backup was made."""

    rows: int
    files: int
    made: str
    missing: tuple[str, ...]
    altered: tuple[str, ...]


def restore(home: Home, folder: Path, tell: Callable[[str], None] = lambda _: None) -> Restored:
    """Put a complete backup into the state folder, which holds nothing yet (or a restore that was cut short).

    Raises LedgerError when the backup is incomplete, altered, or newer than we are, or the state folder is in use.
    """
    if os.environ.get("COMMONFLEET_LEDGER", "").strip():
        raise LedgerError(
            "A backup is restored into the state folder, and COMMONFLEET_LEDGER names a ledger elsewhere.",
            kept="Nothing was changed.",
            do="Unset it; after the restore, `commonfleet move-ledger --to URL` moves the ledger.",
        )
    if os.environ.get("COMMONFLEET_STORE", "").strip():
        raise LedgerError(
            "A backup is restored into the state folder, and COMMONFLEET_STORE names a bucket.",
            kept="Nothing was changed.",
            do="Unset it: a restored ledger keeps its files in the folder.",
        )
    manifest, files = _read(home, folder)
    _refuse_full(home)
    staging = home.restoring
    cut_short = staging.exists()  # then parts of it stand in the state folder, and only this folder says so
    try:
        _empty(staging)
        tell(f"copying and checking {len(files)} files")
        try:
            for name, digest in files.items():
                _copy(folder / name, staging / name, digest)
            rows = _check_rows(staging / "ledger.db", manifest["tables"])
            _keep_to_folder(staging / "ledger.db")
        except BaseException:
            _empty(staging)
            if not cut_short:
                staging.rmdir()
            raise
        _into_place(home, staging, files)
    except OSError as error:
        raise LedgerError(
            f"The backup cannot be restored into {home.root}: {error.strerror or error}.",
            kept="The backup is as it was.",
            do="Free some space or name another COMMONFLEET_HOME, and call it again.",
        ) from error
    return Restored(rows, len(files), manifest["made"], tuple(manifest["missing"]), tuple(manifest["altered"]))


def _read(home: Home, folder: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """The manifest, and each file with its digest."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        lines = (folder / FILES).read_text()
    except FileNotFoundError:
        raise LedgerError(
            f"{folder} is no complete backup: it was cut short, or is none.",
            kept="Nothing was changed.",
            do=f"Call `commonfleet backup {folder}` again, which goes on with it, or take an earlier one.",
        ) from None
    except (OSError, ValueError) as error:
        raise LedgerError(f"The backup {folder} cannot be read: {error}.", kept="Nothing was changed.") from error
    if manifest["format"] > FORMAT or manifest["schema"] > head():
        raise LedgerError(
            f"The backup has schema {manifest['schema']}; this commonfleet knows schemas up to {head()}.",
            kept="Nothing was changed.",
            do="Install the newer commonfleet.",
        )
    if hashlib.sha256(lines.encode()).hexdigest() != manifest["files_digest"]:
        raise _altered(folder / FILES)
    files = {name: digest for digest, _, name in (line.partition("  ") for line in lines.splitlines())}
    if any(Path(name).is_absolute() or ".." in Path(name).parts for name in files):
        raise _altered(folder / FILES)
    files.pop(home.last_checkpoint.name, None)  # of an older commonfleet: no memory of whoever checks from now on
    return manifest, files


def _refuse_full(home: Home) -> None:
    """Whatever a first command makes by itself (empty folders, the version) is nothing; so is a restore cut short."""
    if home.restoring.exists():
        return
    ours = {home.root / "version"}
    held = [path for path in home.root.rglob("*") if path.is_file() and path not in ours] if home.root.exists() else []
    if held:
        raise LedgerError(
            f"The state folder {home.root} is not empty: it has {held[0].relative_to(home.root)}.",
            kept="Nothing was changed.",
            do="Set COMMONFLEET_HOME to a new folder, or move this one away.",
        )


def _copy(source: Path, copy: Path, digest: str) -> None:
    copy.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not source.is_file():
        raise _altered(source)
    shutil.copyfile(source, copy)
    copy.chmod(source.stat().st_mode & 0o777)
    if digest_file(copy) != f"sha256:{digest}":
        raise _altered(source)
    durable(copy)


def _check_rows(file: Path, tables: dict[str, dict[str, Any]]) -> int:
    """The number of rows in all. Raises LedgerError where a table has another number than when it was backed up."""
    with contextlib.closing(sqlite3.connect(f"file:{quote(str(file))}?mode=ro&immutable=1", uri=True)) as records:
        for name, told in tables.items():
            own = f" WHERE key NOT IN ({', '.join(map(repr, OWN))})" if name == "meta" else ""
            (count,) = records.execute(f'SELECT count(*) FROM "{name}"{own}').fetchone()
            if count != told["rows"]:
                raise _altered(file)
    return sum(told["rows"] for told in tables.values())


def _keep_to_folder(file: Path) -> None:
    """Wherever its files stood: from now on they stand in the state folder."""
    with contextlib.closing(sqlite3.connect(file)) as records:
        records.execute("DELETE FROM meta WHERE key = ?", [STORE])
        records.commit()
    durable(file)


def _into_place(home: Home, staging: Path, files: dict[str, str]) -> None:
    """Rename everything from the staging folder; while that exists, no command takes the state folder for whole."""
    for name in sorted(files):
        target = home.root / name
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        (staging / name).rename(target)
    for folder in sorted({(home.root / name).parent for name in files}):
        durable(folder)
    durable(home.root)
    shutil.rmtree(staging)


def _empty(folder: Path) -> None:
    folder.mkdir(parents=True, mode=0o700, exist_ok=True)
    for path in folder.iterdir():
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink()


def _altered(path: Path) -> LedgerError:
    return LedgerError(
        f"The backup is not as it was made: {path} is missing or altered.",
        kept="Nothing of it counts in the state folder.",
        do="Take another backup.",
    )
