"""Upkeep: what must be put right when a process died that cannot put it right itself."""

from __future__ import annotations

import asyncio
from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Cancelled, Completed

from blocks.home import open_home
from flows.drive import resume_stalled
from flows.shown import sigterm_cancels


@flow(name="upkeep")
async def upkeep() -> State[Any]:
    """Resume every run whose driver has stopped beating, until it is complete.

    The installation does this by itself every ten seconds; this deployment shows it, and does it on demand.
    Cancelling it cancels none of the runs.
    """
    work = asyncio.create_task(resume_stalled(open_home(), leave=lambda: True))
    with sigterm_cancels(work):
        try:
            resumed = await work
        except asyncio.CancelledError:
            return Cancelled(
                message="Runs that it had resumed stay open: the installation's own upkeep goes on with them."
            )
    told = " ".join(f"{conclusion.run}: {conclusion.sentence}" for conclusion in resumed)
    return Completed(message=told or "No run had lost its driver.")
