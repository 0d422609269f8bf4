"""The end of a run: nothing left open, results cut, failures judged, the run closed, the report written."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import multiprocessing
import signal
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from blocks.catalog.models import Catalog, Quarantined
from blocks.errors import TrustError
from blocks.home import Home
from blocks.ledger import Ledger, open_ledger
from blocks.store import Store
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
    """Close the run. Everything here may be repeated by the next driver if this one dies in between.

    In a process of its own: to judge and to tell of a hundred thousand units takes memory that a driver, which may
    live for as long as its installation, would never give back.
    """
    url = ledger.engine.url.render_as_string(hide_password=False)
    spawn = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(1, mp_context=spawn, initializer=_deaf_to_ctrl_c)
    try:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(pool, _conclude, home, url, seat, catalog.quarantine, state)
    finally:
        pool.shutdown(wait=False)


def _deaf_to_ctrl_c() -> None:
    """Ctrl-C reaches every process of a terminal; that it comes too late for a run is for the driver to say."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _conclude(
    home: Home, url: str, seat: Seat, quarantine: Sequence[Quarantined], state: Literal["complete", "cancelled"]
) -> Conclusion:
    ledger = open_ledger(url, home.results, Store(home.store))
    try:
        return _closed(home, ledger, seat, quarantine, state)
    finally:
        ledger.close()


def _closed(
    home: Home, ledger: Ledger, seat: Seat, quarantine: Sequence[Quarantined], state: Literal["complete", "cancelled"]
) -> Conclusion:
    with ledger.write() as connection:
        fence(connection, seat)
        end_unfinished(connection, seat.run, "cancelled" if state == "cancelled" else "no machine could serve it")
    # A damaged bundle does not keep the run open: its rows are missing, and the judgement says so.
    with contextlib.suppress(TrustError):
        cut_segments(ledger, run=seat.run, everything=True)
    judgement = judge_run(ledger, seat.run, quarantine, datetime.datetime.now(datetime.UTC).date(), seat=seat)
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
