"""The end of a run: nothing left open, results cut, failures judged, the run closed, the report written."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from blocks.catalog.models import Catalog
from blocks.errors import TrustError
from blocks.home import Home
from blocks.ledger import Ledger
from tasks.collect.driver import Seat, close_run, fence
from tasks.collect.leases import end_unfinished
from tasks.collect.segments import cut_segments
from tasks.judge.judge import judge_run
from tasks.publish.report import write_report
from tasks.publish.summary import run_summary


@dataclass(frozen=True)
class Conclusion:
    """How a run ended. `exit_code`: 0 nothing new is broken, 1 something broke (or the run was cancelled)."""

    run: str
    exit_code: int
    sentence: str
    report: Path | None
    summary: dict[str, Any]
    trouble: str = ""
    """What went wrong after the run itself was over, in a sentence."""


async def conclude(
    home: Home, ledger: Ledger, seat: Seat, catalog: Catalog, state: Literal["complete", "cancelled"]
) -> Conclusion:
    """Close the run. Everything here may be repeated by the next driver if this one dies in between."""
    return await asyncio.to_thread(_conclude, home, ledger, seat, catalog, state)


def _conclude(
    home: Home, ledger: Ledger, seat: Seat, catalog: Catalog, state: Literal["complete", "cancelled"]
) -> Conclusion:
    with ledger.write() as connection:
        fence(connection, seat)
        end_unfinished(connection, seat.run, "cancelled" if state == "cancelled" else "no machine could serve it")
    # A damaged bundle does not keep the run open: its rows are missing, and the judgement says so.
    with contextlib.suppress(TrustError):
        cut_segments(ledger, run=seat.run, everything=True)
    judgement = judge_run(ledger, seat.run, catalog.quarantine, datetime.datetime.now(datetime.UTC).date(), seat=seat)
    exit_code, sentence = judgement.exit_code, judgement.sentence
    if state == "cancelled":
        units = run_summary(ledger, seat.run)["units"]
        exit_code = 1
        sentence = f"The run was cancelled: {units['ran']} of {units['planned']} units had run, the rest are not_run."
    close_run(ledger, seat, state, {"exit_code": exit_code, "sentence": sentence})
    summary = run_summary(ledger, seat.run)
    try:
        report = write_report(ledger, seat.run, report_file(home, seat.run))
    except Exception as error:  # noqa: BLE001 - a page that cannot be written does not undo a run, whatever the reason
        return Conclusion(seat.run, exit_code, sentence, None, summary, trouble=f"The report was not written: {error}")
    return Conclusion(seat.run, exit_code, sentence, report, summary)


def report_file(home: Home, run: str) -> Path:
    """Where a run's page stands."""
    return home.reports / f"{run}.html"
