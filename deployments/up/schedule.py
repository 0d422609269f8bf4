"""Whether a cron line is one, asked before anything starts: the server would only say so half a minute later."""

from __future__ import annotations

import subprocess
import sys

from blocks.errors import CommonfleetError

WRONG = 3
ASK = f"""
import datetime, sys
from prefect.client.schemas.schedules import CronSchedule
from prefect._vendor.croniter import croniter
try:
    CronSchedule(cron=sys.argv[1])
    croniter(sys.argv[1], datetime.datetime.now(datetime.timezone.utc)).get_next()
except ValueError:
    sys.exit({WRONG})
"""
"""Prefect's own check, and whether the line ever comes due (30 February does not): the registration fails over both. In
a process of its own, since Prefect takes 70 MB, which `up` would then keep for as long as it serves."""


def check_schedule(schedule: str) -> None:
    """Raises CommonfleetError when this is no cron line that ever comes due."""
    if len(schedule.split()) == 5:
        # -P: a folder called prefect where somebody stands is not Prefect.
        argv = [sys.executable, "-P", "-c", ASK, schedule]
        if subprocess.run(argv, capture_output=True, check=False).returncode != WRONG:
            return  # right, or Prefect itself is broken, which is then said by what starts first
    raise CommonfleetError(
        f"{schedule!r} is no cron line that ever comes due.",
        kept="Nothing was started.",
        do='Five fields are needed (minute, hour, day, month, weekday), such as "0 2 * * *".',
    )
