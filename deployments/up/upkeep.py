"""The loop that resumes runs whose driver died: a process of its own beside the worker.

It needs the ledger and nothing of Prefect, so it goes on while the server is down. A flow run every half minute
would cost five seconds of processor each; the hourly `upkeep` deployment does the same, for people to see.
"""

from __future__ import annotations

import asyncio
import time

from blocks.errors import CommonfleetError
from blocks.home import Home, open_home

PERIOD_SECONDS = 30.0


async def watch_over(home: Home) -> None:
    """Look every half minute, for ever. Trouble is told in the log and does not end the loop."""
    from flows.drive import resume_stalled

    while True:
        try:
            await resume_stalled(home)
        except CommonfleetError as error:
            print(f"{time.strftime('%FT%TZ', time.gmtime())} {error}", flush=True)
        await asyncio.sleep(PERIOD_SECONDS)


def main() -> None:
    asyncio.run(watch_over(open_home()))


if __name__ == "__main__":
    main()
