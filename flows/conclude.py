"""The end of a run: nothing left open, results cut, failures judged, the run closed, the report written."""

from __future__ import annotations

import asyncio
import datetime
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from blocks.catalog.models import Catalog
from blocks.errors import CommonfleetError
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
    cut_segments(ledger, run=seat.run, everything=True)
    judgement = judge_run(ledger, seat.run, catalog.quarantine, datetime.datetime.now(datetime.UTC).date())
    exit_code, sentence = judgement.exit_code, judgement.sentence
    if state == "cancelled":
        units = run_summary(ledger, seat.run)["units"]
        exit_code = 1
        sentence = f"The run was cancelled: {units['ran']} of {units['planned']} units had run, the rest are not_run."
    close_run(ledger, seat, state, {"exit_code": exit_code, "sentence": sentence})
    return Conclusion(seat.run, exit_code, sentence, _report(home, ledger, seat.run), run_summary(ledger, seat.run))


def _report(home: Home, ledger: Ledger, run: str) -> Path | None:
    """The page; a page that cannot be written (a full disk) does not undo a run."""
    try:
        return write_report(ledger, run, home.reports / f"{run}.html")
    except (CommonfleetError, OSError):
        return None
