"""Commands that look at the ledger, and the one that asks a run to stop."""

from __future__ import annotations

import json
from pathlib import Path

from sqlalchemy import update

from blocks.errors import LedgerError
from blocks.home import open_home
from blocks.ledger import Ledger, record
from blocks.ledger.query import run_query
from blocks.ledger.schema import runs
from deployments.cli import tables
from flows.drive import ledger_of
from tasks.publish.summary import resolve_run, run_list, run_summary


def list_runs(limit: int, *, as_json: bool) -> int:
    """`commonfleet runs`."""
    rows = run_list(_ledger())[:limit]
    if as_json:
        print(json.dumps(rows, indent=1))
    else:
        tables.print_runs(rows)
    return 0


def show_run(run: str, html: Path | None, *, as_json: bool) -> int:
    """`commonfleet show`."""
    ledger = _ledger()
    run = resolve_run(ledger, run)
    summary = run_summary(ledger, run)
    if html is not None:
        from tasks.publish.report import write_report

        write_report(ledger, run, html)
    if as_json:
        print(json.dumps(summary, indent=1))
        return 0
    tables.print_summary(summary)
    if summary["sentence"]:
        print(summary["sentence"])
    report = open_home().reports / f"{run}.html"
    if report.exists():
        print(f"Report: {report}")
    return 0


def query_ledger(sql: str, *, as_json: bool) -> int:
    """`commonfleet query`."""
    rows = run_query(_ledger(), sql)
    if as_json:
        print(json.dumps(rows, indent=1))
    else:
        tables.print_rows(rows)
    return 0


def cancel_run(run: str) -> int:
    """`commonfleet cancel`: the driver sees it at its next heartbeat, within five seconds."""
    ledger = _ledger()
    run = resolve_run(ledger, run)
    with ledger.write() as connection:
        changed = connection.execute(
            update(runs).where(runs.c.id == run, runs.c.state.in_(("planning", "running"))).values(state="cancelling")
        )
        if changed.rowcount != 1:
            raise LedgerError(f"Run {run} is not under way.", do=f"See `commonfleet show {run}`.")
        record(connection, "run.cancelling", run=run)
    print(f"Run {run} is asked to stop; `commonfleet show {run}` tells when it has.")
    return 0


def print_schema() -> int:
    """`commonfleet schema`."""
    from blocks.catalog.schema import export_schema

    print(json.dumps(export_schema(), indent=2))
    return 0


def _ledger() -> Ledger:
    return ledger_of(open_home())
