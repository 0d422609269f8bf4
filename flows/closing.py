"""The end of a run: nothing left open, results cut, failures judged, the run closed, the report written."""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Sequence
from typing import Literal

from blocks.catalog.models import Quarantined
from blocks.errors import TrustError
from blocks.home import Home
from blocks.ledger import Ledger
from flows.conclude import Conclusion, report_file
from tasks.collect.driver import Seat, close_run, fence
from tasks.collect.leases import end_unfinished
from tasks.collect.segments import cut_segments
from tasks.judge.judge import judge_run
from tasks.publish.log.own import append_to_log
from tasks.publish.report import write_report
from tasks.publish.summary import run_summary, unit_summary


def closed(
    home: Home, ledger: Ledger, seat: Seat, quarantine: Sequence[Quarantined], state: Literal["complete", "cancelled"]
) -> Conclusion:
    """Close the run. Everything here may be repeated by the next driver. Raises StaleDriver."""
    with ledger.write() as connection:
        fence(connection, seat)
        end_unfinished(connection, seat.run, "cancelled" if state == "cancelled" else "no machine could serve it")
    # A damaged bundle does not keep the run open: its rows are missing, and the judgement says so.
    with contextlib.suppress(TrustError):
        cut_segments(ledger, run=seat.run, everything=True)
    judgement = judge_run(ledger, seat.run, quarantine, datetime.datetime.now(datetime.UTC).date(), seat=seat)
    exit_code, sentence = judgement.exit_code, judgement.sentence
    if state == "cancelled":
        units = unit_summary(ledger, seat.run)
        exit_code = 1
        sentence = f"The run was cancelled: {units['ran']} of {units['planned']} units had run, the rest are not_run."
    close_run(ledger, seat, state, {"exit_code": exit_code, "sentence": sentence})
    # What comes now does not undo a run that is closed, whatever its trouble is.
    trouble, report = "", None
    try:
        append_to_log(home, ledger)
    except TrustError as error:  # no later try mends it: somebody has to
        trouble = f"Not all of its events are in the log: {error} "
    except Exception as error:  # noqa: BLE001
        trouble = f"Its events are not in the log yet ({error}); the next run, or upkeep, appends them. "
    summary = run_summary(ledger, seat.run)
    try:
        report = write_report(ledger, seat.run, report_file(home, seat.run))
    except Exception as error:  # noqa: BLE001
        trouble += f"The report was not written: {error}"
    return Conclusion(seat.run, exit_code, sentence, report, summary, trouble=trouble.strip())
