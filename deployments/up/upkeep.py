"""The loop that resumes runs whose driver died: a process of its own beside the worker.

It needs the ledger and nothing of Prefect, so it goes on while the server is down. A flow run every half minute
would cost five seconds of processor each; the hourly `upkeep` deployment does the same, for people to see.
"""

from __future__ import annotations

import asyncio
import signal
import time
import traceback

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
        except Exception:  # noqa: BLE001 - one run that cannot be resumed must not end the installation
            print(f"{time.strftime('%FT%TZ', time.gmtime())} {traceback.format_exc()}", flush=True)
        await asyncio.sleep(PERIOD_SECONDS)


async def until_stopped(home: Home) -> None:
    """Watch over until SIGTERM, which stops a run in hand as a cancelled one: its machines are let go."""
    watching = asyncio.create_task(watch_over(home))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, watching.cancel)
    try:
        await watching
    except asyncio.CancelledError:
        pass  # as we were asked to


def main() -> None:
    asyncio.run(until_stopped(open_home()))


if __name__ == "__main__":
    main()
