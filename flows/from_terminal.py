"""A run started in a terminal while the operator's Prefect server is up: shown there, and not dependent on it.

The flow run is only a page that the work stands on: it is opened, the work runs beside it in its context, and at the
end it is told how that went. So the work is stopped by Ctrl-C as without Prefect, and no failure of Prefect's
engine reaches it.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import signal
from dataclasses import asdict, dataclass
from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State

from blocks.errors import CommonfleetError
from blocks.home import Home
from flows.bookkeeping import LINGER_SECONDS, quiet
from flows.conclude import Conclusion
from flows.drive import drive
from flows.request import Request
from flows.shown import cancelled, ended, failed, shown
from tasks.run.watch import Watch

OPENING_SECONDS = 10.0
"""How long Prefect may take to open a flow run before the work goes on without one."""


async def drive_as_flow(request: Request, *, home: Home, name: str, watch: Watch) -> Conclusion:
    """Drive under a flow run of Prefect's; without one where the server does not open it."""
    page = await opened(request, name)
    if page is None:
        watch.tell("Prefect's server does not answer: this run has no page there")
        return await drive(request, home=home, flow=name, watch=watch)
    loop, us = asyncio.get_running_loop(), asyncio.current_task()
    assert us is not None
    # Prefect's engine has put its own handler in the place of ours.
    loop.add_signal_handler(signal.SIGTERM, us.cancel)
    work = loop.create_task(shown(request, home=home, flow=name, watch=watch), context=page.context)
    try:
        conclusion = await work
    except asyncio.CancelledError:
        await closed(page, cancelled(watch.run))
        raise
    except CommonfleetError as error:
        await closed(page, failed(watch.run, error))
        raise
    await closed(page, ended(conclusion))
    return conclusion


@dataclass(frozen=True)
class Page:
    """An open flow run: the context that the work's traces need, and how it is told the end."""

    context: contextvars.Context
    over: asyncio.Future[State[Any]]
    shadow: asyncio.Task[None]


async def opened(request: Request, name: str) -> Page | None:
    """A flow run of that name with the request as its parameters; None when Prefect does not open it in time."""
    loop = asyncio.get_running_loop()
    begun: asyncio.Future[contextvars.Context] = loop.create_future()
    over: asyncio.Future[State[Any]] = loop.create_future()

    @flow(name=name.replace("_", "-"), persist_result=False, validate_parameters=False)
    async def from_terminal(request: dict[str, Any]) -> State[Any]:
        begun.set_result(contextvars.copy_context())
        return await over

    shadow = asyncio.create_task(quiet(from_terminal(asdict(request), return_state=True)))
    try:
        either: set[asyncio.Future[Any]] = {shadow, begun}
        await asyncio.wait(either, timeout=OPENING_SECONDS, return_when=asyncio.FIRST_COMPLETED)
    except asyncio.CancelledError:
        await abandoned(shadow)
        raise
    if begun.done():
        return Page(begun.result(), over, shadow)
    await abandoned(shadow)
    return None


async def closed(page: Page, state: State[Any]) -> None:
    """Tell the flow run how the work ended, as long as Prefect listens."""
    page.over.set_result(state)
    await asyncio.wait({page.shadow}, timeout=LINGER_SECONDS)
    await abandoned(page.shadow)


async def abandoned(shadow: asyncio.Task[None]) -> None:
    """End it: an engine that is cancelled turns to the server once more, so it is cancelled as often as it takes."""
    for _ in range(20):
        if shadow.done():
            return
        shadow.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait({shadow}, timeout=0.1)
