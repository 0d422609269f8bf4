"""Commands that check the ledger without trusting it, and publish what others need to check it."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blocks.errors import CommonfleetError
from blocks.home import Home, located, open_home
from blocks.ledger import Ledger
from blocks.ledger.reading import opened_to_read
from flows.drive import ledger_of
from tasks.publish.log.export import export_log
from tasks.publish.log.findings import Audit, Finding
from tasks.publish.log.own import append_to_log, log_signer, log_verifier
from tasks.publish.log.verify_events import verify_events
from tasks.publish.log.verify_files import verify_files
from tasks.publish.log.verify_log import verify_log


@dataclass(frozen=True)
class Against:
    """What whoever checks has brought along: the log's key, witnesses' keys, checkpoints, a memory of their own."""

    key: str | None
    witnesses: Sequence[str]
    seen: Sequence[Path]
    memory: Path | None

    def __post_init__(self) -> None:
        for path in self.seen:
            if not path.is_file():
                raise CommonfleetError(
                    f"There is no file {path}.", kept="Nothing was checked.", do="Name a checkpoint that was kept."
                )
        if self.memory is not None and self.memory.is_dir():
            raise CommonfleetError(
                f"{self.memory} is a folder.", kept="Nothing was checked.", do="Name the file that remembers."
            )


def verify_ledger(against: Against, *, as_json: bool) -> int:
    """`commonfleet verify`: this installation's events against its log, and its files against the records."""
    home = located()
    with _reading(home.root), opened_to_read(home) as ledger:
        audit = verify_events(
            ledger,
            against.key or _own_key(home, ledger),
            remembered=against.memory or home.last_checkpoint,
            witnesses=against.witnesses,
            seen=against.seen,
            pinned=against.key is not None,
        )
        checked = verify_files(ledger)
    appends = "the end of a run, or upkeep, appends them"
    if os.access(home.keys, os.X_OK) and not home.log_key.exists():
        appends = f"{home.log_key} is missing"
    findings, count = [*audit.findings, *checked.findings.listed], audit.count + checked.findings.count
    more = {"files": checked.files, "dropped": checked.dropped, "waiting": audit.waiting, **vars(checked.rows)}
    return _told(audit, findings, count, as_json, more, appends)


def _own_key(home: Home, ledger: Ledger) -> str:
    try:
        key = log_verifier(home, ledger)
    except PermissionError as error:
        raise CommonfleetError(
            f"The key of the log cannot be read here: {error.filename}.",
            kept="Nothing was changed.",
            do="Give the log's public key with --key; its owner has it from `commonfleet export-log`.",
        ) from error
    if key is None:
        raise CommonfleetError(
            "There is no log to check against: nothing has been appended to one here, or its key is gone.",
            kept="Nothing was changed.",
            do="Run something first. Where there was a log, its public key will do: give it with --key, or put "
            f"{home.log_public} or {home.log_key} back from a backup.",
        )
    return key


def verify_published(folder: Path, against: Against, *, as_json: bool) -> int:
    """`commonfleet verify --log DIR --key PUB`: a published log, with nothing else at hand."""
    if against.key is None:
        raise CommonfleetError(
            "A published log is checked with its key.",
            do="Give --key; `commonfleet export-log` prints it, and the log's owner publishes it elsewhere, too.",
        )
    _refuse_no_folder(folder)
    memory = against.memory or _remembered(folder)
    with _reading(folder):
        audit = verify_log(folder, against.key, remembered=memory, witnesses=against.witnesses, seen=against.seen)
    return _told(audit, audit.findings, audit.count, as_json, {})


def _refuse_no_folder(folder: Path) -> None:
    """What was never looked at must not be called altered."""
    if folder.is_dir():
        return
    if re.match(r"[a-z][a-z0-9+.-]+:/", str(folder)):
        raise CommonfleetError(
            "--log takes a folder, and that is an address.",
            kept="Nothing was checked.",
            do="Copy the log's files into a folder first; docs/auditing.md says which there are.",
        )
    raise CommonfleetError(
        f"There is no folder {folder}.", kept="Nothing was checked.", do="Name the folder that the log was copied to."
    )


def publish_log(folder: Path, *, as_json: bool) -> int:
    """`commonfleet export-log DIR`."""
    home = open_home()
    ledger = ledger_of(home)
    try:
        append_to_log(home, ledger)
        with _writing(folder):
            exported = export_log(ledger, folder)
        key = str(log_signer(home, ledger).verifier)
    finally:
        ledger.close()
    if as_json:
        print(json.dumps({"folder": str(folder), "events": exported.size, "before": exported.before, "key": key}))
        return 0
    print(f"{folder} holds the log up to {exported.size:,} events ({exported.size - exported.before:,} of them new).")
    print("Check it anywhere, with this key and nothing else:")
    print(f"  commonfleet verify --log {folder} --key {key}")
    return 0


@contextlib.contextmanager
def _reading(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CommonfleetError(
            f"{error.filename or folder} cannot be read: {error.strerror or error}.",
            kept="Nothing was changed, and nothing is said about what was read before.",
            do="Make it readable for whoever checks, or check a copy.",
        ) from error


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CommonfleetError(
            f"{error.filename or folder} cannot be read or written: {error.strerror or error}.",
            kept="What stood there before is whole.",
            do="Free some space or name another folder, then start again: it goes on where it was.",
        ) from error


def _remembered(folder: Path) -> Path:
    """Beside the folder, not in it: whoever publishes the log must not write what we remember of it."""
    return folder.absolute().with_name(f".{folder.absolute().name}.last-checkpoint")


def _told(
    audit: Audit, findings: Sequence[Finding], count: int, as_json: bool, more: dict[str, Any], appends: str = ""
) -> int:
    if as_json:
        listed = [{"kind": finding.kind, "where": finding.where, "says": finding.says} for finding in findings]
        said = {"good": count == 0, "origin": audit.origin, "events": audit.size, "assurance": audit.assurance}
        print(json.dumps({**said, "findings": listed, "count": count, "not_kept": audit.not_kept, **more}, indent=1))
        return 1 if count else 0
    for finding in findings:
        print(f"  {finding}")
    if count > len(findings):
        print(f"  ... and {count - len(findings):,} more.")
    print(audit.assurance)
    if "files" in more:
        _tell_files(more, wrong=count - audit.count)
    if more.get("waiting"):
        print(f"{more['waiting']:,} events wait for their leaf{'' if audit.count else f'; {appends}'}.")
    if audit.not_kept:
        print(f"The next check will not know of this one: {audit.not_kept}.")
        print("Name a file that can be written with --memory, and it is remembered there.")
    return 1 if count else 0


def _tell_files(more: dict[str, Any], wrong: int) -> None:
    if wrong:
        print(
            f"{more['files']:,} files of results and bundles were read: {wrong:,} findings on them and on their rows."
        )
    else:
        print(f"All {more['files']:,} files of results and bundles are what was recorded.")
    print(f"The {more['rows']:,} rows of {more['bundles']:,} bundles are those that were admitted.")
    if more["summed_up"]:
        print(f"The rows of {more['summed_up']:,} bundles were summed up by day, as the log says.")
    if more["dropped"]:
        print(f"{more['dropped']:,} raw bundles were dropped, as the log says.")
    if more["unproven"]:
        print(f"{more['unproven']:,} bundles of an older commonfleet: only the number of their rows was compared.")
