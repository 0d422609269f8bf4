"""A run started in a terminal while the operator's Prefect server is up: shown there, and not dependent on it."""

from __future__ import annotations

import contextlib
from typing import Any

from prefect import State, flow

from blocks.home import Home
from flows.bookkeeping import ended, prefect_stage
from flows.conclude import Conclusion
from flows.drive import drive
from flows.request import Request
from tasks.run.watch import Watch


async def drive_as_flow(request: Request, *, home: Home, name: str, watch: Watch) -> Conclusion:
    """Drive under a flow run of Prefect's. A server that fails before the run is opened is done without.

    Errors of the run itself are raised; errors of Prefect's after the work are of no account.
    """
    concluded: list[Conclusion] = []
    failed: list[Exception] = []

    @flow(name=name, persist_result=False)
    async def from_terminal() -> State[Any]:
        try:
            concluded.append(await drive(request, home=home, flow=name, watch=watch, stage=prefect_stage))
        except Exception as error:
            failed.append(error)
            raise
        return ended(concluded[0])

    with contextlib.suppress(Exception):
        await from_terminal(return_state=True)
    if failed:
        raise failed[0]
    if concluded:
        return concluded[0]
    watch.tell("Prefect's server did not answer: the run goes on without its page there")
    return await drive(request, home=home, flow=name, watch=watch)
