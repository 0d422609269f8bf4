"""A run as a flow run of Prefect's: what the pool's block allows, the stages, the progress, the summary, the end."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from prefect.client.schemas.objects import State, StateType
from prefect.states import Cancelled, Completed, Failed

from blocks.errors import CommonfleetError, PlanError
from blocks.home import Home, open_home
from blocks.pools.block import THIS_MACHINE, LocalPool
from flows.bookkeeping import attempted, prefect_stage, progress_shown, summary_written
from flows.conclude import Conclusion
from flows.drive import drive, never
from flows.request import Request
from flows.server import is_stopping
from tasks.run.watch import Watch

SETTLE_SECONDS = 0.3
"""When a machine goes down, everybody gets SIGTERM at once: so long the installation has to say that it stops."""


async def driven(flow: str, request: Request) -> State[Any]:
    """Drive one run to its end under this flow run, and say in Prefect's words how it ended.

    SIGTERM (Prefect's way of cancelling, and of `up` to stop) cancels the run, unless the installation is stopping.
    """
    home, watch = open_home(), Watch()
    work = asyncio.create_task(shown(request, home=home, flow=flow, watch=watch, leave=lambda: is_stopping(home)))
    with sigterm_cancels(work):
        try:
            return ended(await work)
        except asyncio.CancelledError:
            return left(watch.run) if is_stopping(home) else cancelled(watch.run)
        except CommonfleetError as error:
            return failed(watch.run, error)


async def shown(
    request: Request, *, home: Home, flow: str, watch: Watch, leave: Callable[[], bool] = never
) -> Conclusion:
    """Drive a new run, with its traces under the flow run around us. Raises PlanError where the pool is closed."""
    pool = await attempted(LocalPool.aload(THIS_MACHINE)) or LocalPool()
    if pool.state == "closed":
        raise PlanError(
            "This machine's pool is closed: nothing was run.",
            do=f"Open it to start runs (block {THIS_MACHINE} in Prefect's UI).",
        )
    async with progress_shown(watch):
        conclusion = await drive(
            limited(request, pool.slots), home=home, flow=flow, watch=watch, stage=prefect_stage, leave=leave
        )
        watch.at("over")
    await attempted(summary_written(conclusion))
    return conclusion


def limited(request: Request, slots: int) -> Request:
    """The request with the smaller of its own and the pool's number of slots (0 is no limit)."""
    limits = [limit for limit in (request.slots, slots) if limit > 0]
    return replace(request, slots=min(limits, default=0))


@contextlib.contextmanager
def sigterm_cancels(work: asyncio.Task[Any]) -> Iterator[None]:
    """SIGTERM cancels exactly this task, once.

    Prefect's own way raises an exception in whatever runs at that instant, or cancels every task of the process at
    once, the pipe to the machine among them: nothing could then be stopped in order.
    """
    loop, before = asyncio.get_running_loop(), signal.getsignal(signal.SIGTERM)
    asked: list[asyncio.TimerHandle] = []

    def ask() -> None:
        if not asked:
            asked.append(loop.call_later(SETTLE_SECONDS, work.cancel))

    loop.add_signal_handler(signal.SIGTERM, ask)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGTERM)
        signal.signal(signal.SIGTERM, before)


def ended(conclusion: Conclusion) -> State[Any]:
    """Completed where everything is accounted for and nothing new is broken, else Failed, with the sentence."""
    return (Completed if conclusion.exit_code == 0 else Failed)(message=conclusion.sentence)


def cancelled(run: str) -> State[Any]:
    """Somebody has cancelled it, here, in the ledger or in Prefect."""
    if not run:
        return Cancelled(message="Cancelled before a run was opened.")
    return Cancelled(message=f"Run {run} was cancelled: its machines are stopped, every unit has a terminal state.")


def left(run: str) -> State[Any]:
    """The installation was stopped under it."""
    told = f"Run {run} stays open" if run else "No run was opened"
    return State(
        type=StateType.CANCELLED,
        name="Interrupted",
        message=f"The installation was stopped. {told}; the next `commonfleet up` resumes open runs.",
    )


def failed(run: str, error: CommonfleetError) -> State[Any]:
    """The system itself failed; the run, if there is one, can be resumed."""
    return Failed(message=f"{error} The run is {run}: `commonfleet resume {run}`." if run else str(error))
