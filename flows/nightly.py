"""The nightly: build once, test everywhere, benchmark, and say in the morning what became of it."""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Cancelled

from blocks.home import open_home
from flows.drive import under_way
from flows.request import Profile, Request
from flows.shown import driven


@flow(name="nightly", validate_parameters=True)
async def nightly(profile: Profile = Profile.EMBEDDED) -> State[Any]:
    """Everything that a profile of the catalog plans, end to end.

    The run is complete when each planned unit has ended in exactly one state. It ends Failed when something broke
    that did not fail before, or when the system itself failed; the message is one plain sentence. A night that
    outlasts a day is followed by the next free night: while one is under way, another does not start.

    Args:
        profile: Which profile of the catalog: what is built, on which environments, with which suites.
    """
    before = under_way(open_home(), "nightly")
    if before:
        return Cancelled(message=f"Nothing was run: the nightly {before[0]} is still under way.")
    return await driven("nightly", Request(profile=profile.value))
