"""The loop that resumes runs whose driver died: a process of its own beside the worker.

It needs the ledger and nothing of Prefect, so it goes on while the server is down. A flow run every ten seconds
would cost five seconds of processor each; the hourly `upkeep` deployment does the same, for people to see.
"""

from __future__ import annotations

import asyncio
import signal
import time
import traceback

from blocks.errors import CommonfleetError, NothingToTake, StaleDriver
from blocks.home import Home, open_home

PERIOD_SECONDS = 10.0
TIDY_SECONDS = 3600.0
APPEND_SECONDS = 60.0
"""Each look that finds new events signs a checkpoint, and whoever verifies reads them all: not more often."""


async def watch_over(home: Home) -> None:
    """Look every ten seconds, for ever. What was resumed goes on beside the looking, each run on its own."""
    from flows.drive import stalled
    from flows.tidy import bring_log_up_to_date

    in_hand: dict[str, asyncio.Task[None]] = {}
    tidied, appended = -TIDY_SECONDS, -APPEND_SECONDS
    try:
        while True:
            in_hand = {run: task for run, task in in_hand.items() if not task.done()}
            try:
                for run in stalled(home):
                    if run not in in_hand:
                        in_hand[run] = asyncio.create_task(resumed(home, run))
                if time.monotonic() - tidied >= TIDY_SECONDS and "tidy" not in in_hand:
                    tidied = time.monotonic()
                    in_hand["tidy"] = asyncio.create_task(tidied_up(home))  # may take long: nobody waits for it
                if time.monotonic() - appended >= APPEND_SECONDS:
                    appended = time.monotonic()
                    await asyncio.to_thread(bring_log_up_to_date, home)
            except CommonfleetError as error:
                tell(str(error))
            await asyncio.sleep(PERIOD_SECONDS)
    finally:
        for task in in_hand.values():
            task.cancel()
        await asyncio.gather(*in_hand.values(), return_exceptions=True)


async def tidied_up(home: Home) -> None:
    """Tidy once. Trouble is told, and the next time may do better."""
    from flows.tidy import tidy

    try:
        await asyncio.to_thread(tidy, home)
    except CommonfleetError as error:
        tell(str(error))
    except Exception:  # noqa: BLE001 - the runs need us more than the files
        tell(traceback.format_exc())


async def resumed(home: Home, run: str) -> None:
    """Finish one run. Trouble is told in the log and ends neither the loop nor the other runs."""
    from flows.drive import resume

    tell(f"{run}: its driver died, it is resumed")
    try:
        conclusion = await resume(run, home=home, leave=stopped_only)
        tell(f"{run}: {conclusion.sentence}")
    except (StaleDriver, NothingToTake) as error:
        tell(f"{run}: somebody else has it ({error})")
    except CommonfleetError as error:
        tell(f"{run}: {error}")
    except Exception:  # noqa: BLE001 - one run that cannot be resumed must not end the installation
        tell(f"{run}: {traceback.format_exc()}")


def stopped_only() -> bool:
    """We are asked to end only with the installation: runs stay open, and the next start resumes them."""
    return True


def tell(text: str) -> None:
    print(f"{time.strftime('%FT%TZ', time.gmtime())} {text}", flush=True)


async def until_stopped(home: Home) -> None:
    """Watch over until SIGTERM, which lets the machines go of what is in hand."""
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
