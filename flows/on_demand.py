"""On demand: the suites somebody chooses, now, over the same plan, leases and ledger as the nightly."""

from __future__ import annotations

from typing import Annotated, Any

from prefect import flow
from prefect.client.schemas.objects import State
from pydantic import Field

from flows.request import Profile, Request, Suite
from flows.shown import driven

Share = Annotated[float, Field(gt=0, le=1)]
Glob = Annotated[str, Field(min_length=1, max_length=200)]
SlotLimit = Annotated[int, Field(ge=0, le=1024)]
RetryLimit = Annotated[int, Field(ge=0, le=10_000)]


@flow(name="on-demand", validate_parameters=True)
async def on_demand(
    suites: list[Suite] = list(Suite),  # noqa: B006 - Prefect shows the default in the form and never changes it
    sample: Share = 1.0,
    include: list[Glob] = [],  # noqa: B006
    environments: list[Glob] = [],  # noqa: B006
    profile: Profile = Profile.EMBEDDED,
    slots: SlotLimit = 0,
    retry_alone: RetryLimit = 50,
) -> State[Any]:
    """Run what you choose, now. Runs share the machine's slots, so this may be started while another run goes on.

    Args:
        suites: The suites to run.
        sample: Share of the chosen tests, more than 0 and at most 1. The same share always holds the same tests.
        include: Only tests that match one of these patterns, such as `*Tensor*`. Empty: all of them.
        environments: Only environments whose name matches one of these patterns. Empty: all of the profile.
        profile: Which profile of the catalog to choose from.
        slots: At most this many lanes of work at once. 0 takes all that the pool allows.
        retry_alone: How many failed or crashed tests of one unit are tried once more, each alone in its process.
    """
    request = Request(
        profile=profile.value,
        suites=tuple(suite.value for suite in suites),
        environments=tuple(environments),
        include=tuple(include),
        sample=sample,
        slots=slots,
        retry_alone=retry_alone,
    )
    return await driven("on_demand", request)
