"""This machine without a run, for planning: there is nothing to drive, nothing is leased, and nothing is recorded."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import AsyncIterator

from blocks.catalog.models import PoolSpec
from blocks.errors import PlanError
from blocks.home import Home
from blocks.pools import local
from blocks.pools.base import Ground
from tasks.provision.held import Held, greeted, runner_file
from tasks.run.pipe import open_pipe


@contextlib.asynccontextmanager
async def take_local(home: Home, pool: str, spec: PoolSpec) -> AsyncIterator[Held]:
    """Have this machine answer for a while. Raises HostError when it does not, PlanError for another kind of pool."""
    if spec.kind != "local":
        raise PlanError(
            f"A plan without a run is made on this machine, and the pool `{pool}` is of kind {spec.kind}.",
            do="Name a pool of kind local first in the profile, or plan with a run.",
        )
    here = local.open_pool(pool, spec, Ground(home.machine, runner_file(home.machine)))
    machine = here.machine(submission="", expires=0.0)
    async with open_pipe(machine.id, functools.partial(here.connect, machine)) as pipe:
        yield await greeted(here, machine, spec, pipe)
