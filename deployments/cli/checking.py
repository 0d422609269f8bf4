"""Commands that check the ledger without trusting it, and publish what others need to check it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from blocks.errors import CommonfleetError
from blocks.home import open_home
from flows.drive import ledger_of
from flows.tidy import LOG_KEY, append_to_log, log_signer
from tasks.publish.log.export import export_log
from tasks.publish.log.findings import Audit, Finding
from tasks.publish.log.verify_events import verify_events
from tasks.publish.log.verify_files import verify_files
from tasks.publish.log.verify_log import verify_log

LAST_SEEN = "last-checkpoint"
"""In the state folder: the last checkpoint of this ledger that a check has seen."""


def verify_ledger(*, as_json: bool) -> int:
    """`commonfleet verify`: this installation's events against its log, and its files against the records."""
    home = open_home()
    if not (home.keys / LOG_KEY).exists():
        raise CommonfleetError(
            "There is no log to check against: nothing has been appended to one here, or its key is gone.",
            kept="Nothing was changed.",
            do=f"Run something first; where there was a log, restore {home.keys / LOG_KEY} from a backup.",
        )
    ledger = ledger_of(home)
    try:
        audit = verify_events(ledger, str(log_signer(home, ledger).verifier), remembered=home.root / LAST_SEEN)
        checked = verify_files(ledger)
    finally:
        ledger.close()
    findings, count = [*audit.findings, *checked.findings.listed], audit.count + checked.findings.count
    more = {"files": checked.files, "dropped": checked.dropped, "waiting": audit.waiting, **vars(checked.rows)}
    return _told(audit, findings, count, as_json, more)


def verify_published(folder: Path, key: str | None, witnesses: Sequence[str], *, as_json: bool) -> int:
    """`commonfleet verify --log DIR --key PUB`: a published log, with nothing else at hand."""
    if key is None:
        raise CommonfleetError(
            "A published log is checked with its key.",
            do="Give --key; `commonfleet export-log` prints it, and the log's owner publishes it elsewhere, too.",
        )
    with _writing(folder.absolute().parent):
        audit = verify_log(folder, key, remembered=_remembered(folder), witnesses=witnesses)
    return _told(audit, audit.findings, audit.count, as_json, {})


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
    return folder.absolute().with_name(f".{folder.absolute().name}.{LAST_SEEN}")


def _told(audit: Audit, findings: Sequence[Finding], count: int, as_json: bool, more: dict[str, Any]) -> int:
    if as_json:
        listed = [{"kind": finding.kind, "where": finding.where, "says": finding.says} for finding in findings]
        said = {"good": count == 0, "origin": audit.origin, "events": audit.size, "assurance": audit.assurance}
        print(json.dumps({**said, "findings": listed, "count": count, **more}, indent=1))
        return 1 if count else 0
    for finding in findings:
        print(f"  {finding}")
    if count > len(findings):
        print(f"  ... and {count - len(findings):,} more.")
    print(audit.assurance)
    if "files" in more:
        _tell_files(more, wrong=count - audit.count)
    if more.get("waiting"):
        print(f"{more['waiting']:,} events wait for their leaf; the end of a run, or upkeep, appends them.")
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
