"""Upkeep: what must be put right when a process died that cannot put it right itself."""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed

from blocks.home import open_home
from flows.drive import resume_stalled


@flow(name="upkeep")
async def upkeep() -> State[Any]:
    """Resume every run whose driver has stopped beating, until it is complete.

    The installation does this by itself twice a minute; this deployment shows it, and does it on demand.
    """
    resumed = await resume_stalled(open_home())
    told = " ".join(f"{conclusion.run}: {conclusion.sentence}" for conclusion in resumed)
    return Completed(message=told or "No run had lost its driver.")
