"""Commands that look at the ledger, and the one that asks a run to stop."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import IO

from blocks.errors import CatalogError
from blocks.home import open_home
from blocks.ledger import Ledger
from blocks.ledger.query import asked
from blocks.ledger.schema import INGESTED
from deployments.cli import tables
from flows.conclude import report_file
from flows.drive import ledger_of
from tasks.collect.driver import ask_to_cancel
from tasks.publish.accounting import dark_anywhere
from tasks.publish.summary import resolve_run, run_list, run_summary


def list_runs(limit: int, *, as_json: bool) -> int:
    """`commonfleet runs`."""
    rows = run_list(_ledger(), limit=limit)
    if as_json:
        print(json.dumps(rows, indent=1))
    else:
        tables.print_runs(rows)
    return 0


def show_run(run: str, html: Path | None, *, as_json: bool) -> int:
    """`commonfleet show`."""
    ledger = _ledger()
    run = resolve_run(ledger, run)
    summary = {**run_summary(ledger, run), "dark_anywhere": dark_anywhere(ledger)}
    if html is not None:
        from tasks.publish.report import write_report

        write_report(ledger, run, html)
    if as_json:
        print(json.dumps(summary, indent=1))
        return 0
    tables.print_summary(summary)
    if summary["sentence"]:
        print(summary["sentence"])
    if html is not None:
        print(f"Written to {html}{'' if summary['finished'] else ': the run as it stands now'}.")
    report = report_file(open_home(), run)
    if summary["finished"] and summary["flow"] != INGESTED and not report.exists():
        from tasks.publish.report import write_report

        write_report(ledger, run, report)  # the driver died between closing the run and writing its page
    if report.exists():
        print(f"Report: {report}")
    return 0


def query_ledger(sql: str, wanted: str | None, out: Path | None, *, as_json: bool) -> int:
    """`commonfleet query`."""
    from tasks.publish import answer

    kind = answer.chosen_format("json" if as_json and wanted is None else wanted, out)
    home = open_home()
    with asked(ledger_of(home), sql) as reader:
        if kind == "table" and out is None:
            tables.print_answer(*reader.stream(sql))
            return 0
        writers = {
            "table": answer.as_text(lambda target: tables.print_answer(*reader.stream(sql), file=target)),
            "csv": answer.as_text(lambda target: answer.write_csv(reader, sql, target)),
            "json": answer.as_text(lambda target: answer.write_json(reader, sql, target)),
            "parquet": lambda target: answer.write_parquet(reader, sql, target),
        }
        if out is None:
            answer.to_output(writers[kind])
            return 0
        written = answer.to_file(out, writers[kind], keep_out_of=home.root)
    print(f"{written:,} rows are in {out}.")
    return 0


def export(kind: str, run: str, out: Path | None, *, origin: str) -> int:
    """`commonfleet export`."""
    from tasks.publish import answer
    from tasks.publish.export import exported

    home = open_home()
    pieces = exported(kind, ledger_of(home), run, origin=origin)

    def write(target: IO[str]) -> int:
        target.writelines(pieces)
        return 0

    if out is None:
        answer.to_output(answer.as_text(write))
        return 0
    answer.to_file(out, answer.as_text(write), keep_out_of=home.root)
    print(f"The export is in {out}.")
    return 0


def cancel_run(run: str) -> int:
    """`commonfleet cancel`: a driver sees it at its next heartbeat, within five seconds; without one we end the run."""
    home, ledger = open_home(), _ledger()
    run = resolve_run(ledger, run)
    if ask_to_cancel(ledger, run):
        print(f"Run {run} is asked to stop; `commonfleet show {run}` tells when it has.")
        return 0
    import asyncio

    from flows.drive import resume

    # Nobody drives it: we take it over for as long as it takes to stop what its machines have in hand.
    with contextlib.suppress(asyncio.CancelledError):
        asyncio.run(resume(run, home=home))
    print(f"Run {run} had no driver: its machines are stopped and every unit has a terminal state.")
    return 0


def print_imported_matrix(file: Path, job: str) -> int:
    """`commonfleet import-matrix`: the entries on standard output, what people should know on standard error."""
    import yaml

    from blocks.catalog.test_matrix import import_test_matrix

    try:
        text = file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise CatalogError(f"{file} cannot be read: {error}.", do="Name a file that holds the matrix.") from error
    imported = import_test_matrix(text, job=job)
    print(yaml.safe_dump(imported["catalog"], sort_keys=False), end="")
    for note in imported["notes"]:
        print(f"note: {note}", file=sys.stderr)
    for kept in imported["kept"]:
        print(f"kept aside: {kept['config']} shard {kept['shard']}: {kept['keys']}", file=sys.stderr)
    return 0


def print_schema() -> int:
    """`commonfleet schema`."""
    from blocks.catalog.schema import export_schema

    print(json.dumps(export_schema(), indent=2))
    return 0


def _ledger() -> Ledger:
    return ledger_of(open_home())
