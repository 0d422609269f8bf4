"""A machine that is held and answers: its pipe, what it said about itself, and what it is to the run."""

from __future__ import annotations

import functools
import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blocks.catalog.models import PoolSpec
from blocks.errors import HostError
from blocks.pools.base import Machine, Pool
from blocks.requirement import facts_from_hello, slots_of
from tasks.run.answers import HELLO, MOST_SLOTS, answered
from tasks.run.pipe import Pipe
from tasks.run.zipapp import make_zipapp


@dataclass(frozen=True)
class Held:
    """A machine that is held: its name in the ledger, the pipe to it, and what it said about itself."""

    machine: str
    pool: str
    pipe: Pipe
    bring: Callable[[Path], Awaitable[str]]
    """Has a file of the store on the machine and gives its path there."""
    hello: Mapping[str, Any]
    slots: int
    threads: int
    sandbox: str


async def greeted(pool: Pool, machine: Machine, spec: PoolSpec, pipe: Pipe) -> Held:
    """Ask the machine what it is. Raises HostError when it does not answer, talks nonsense, or is not what the pool
    demands."""
    hello = await answered(pipe, HELLO, "hello")
    threads = spec.threads_per_slot or 1
    if spec.sandbox == "bubblewrap" and hello["sandbox"]["kind"] != "bubblewrap":
        raise HostError(
            f"The pool `{pool.name}` demands bubblewrap, and {machine.id} cannot use it: "
            f"{hello['sandbox'].get('why') or 'it does not say why'}.",
            do="Install bubblewrap, or let the pool's `sandbox` be `auto`.",
        )
    slots = spec.slots or min(MOST_SLOTS, slots_of(facts_from_hello(hello), threads))
    bring = functools.partial(pool.bring, machine)
    return Held(machine.id, pool.name, pipe, bring, hello, slots, threads, spec.sandbox)


def runner_file(folder: Path) -> Path:
    """The runner as one file, named by its digest: a running runner keeps the very file it was started from."""
    folder.mkdir(parents=True, exist_ok=True)
    fresh = folder / f".runner-{os.getpid()}.pyz"
    digest = make_zipapp(fresh)
    target = folder / f"runner-{digest.removeprefix('sha256:')[:12]}.pyz"
    fresh.replace(target)
    return target
