"""Taking a machine of a pool for a run, and giving it back: the same for every kind of pool.

    offers ─► written down ─► submit ─► accepted ─► pipe, hello ─► ready, leased ... ─► releasing ─► released

Each state is committed before the call that it announces. So whoever comes after a crash knows what may have been
done: a call that was out is made again with the same token, a machine that was there is found by its submission.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

from blocks.catalog.models import PoolSpec
from blocks.errors import HostError, StaleDriver
from blocks.ledger import Ledger
from blocks.machine import State
from blocks.pools.base import Ground, Machine, Pool
from blocks.pools.registry import open_pool
from blocks.requirement import Requirement
from tasks.collect.driver import Seat
from tasks.provision.held import Held, greeted, runner_file
from tasks.provision.submissions import Hold, Submissions, left_over, of_driver
from tasks.run.line import Patience
from tasks.run.pipe import PATIENCE, open_pipe

GIVEN_UP: frozenset[State] = frozenset({"failed", "lost", "quarantined", "releasing"})
ANY = Requirement()
"""What the units need is known once they are planned, on this very machine."""


@dataclass
class _Taking:
    """One acquisition under way."""

    submissions: Submissions
    pool: Pool
    spec: PoolSpec
    told: Callable[[str], None]


@contextlib.asynccontextmanager
async def acquired(
    root: Path,
    ledger: Ledger,
    seat: Seat,
    pool: str,
    spec: PoolSpec,
    told: Callable[[str], None] = lambda _: None,
    patience: Patience = PATIENCE,
) -> AsyncIterator[Held]:
    """Hold a machine of this pool for the run: the one that an earlier driver has left, or a new one.

    It is given back when the run needs it no more, cancelled or not. Where the system fails it stays held, with all
    that its runners have not delivered yet, for the driver that resumes the run. `root` is this machine's own folder.
    Raises PlanError for a kind of pool that there is not, HostError, StaleDriver.
    """
    taking = _Taking(of_driver(ledger, seat), open_pool(pool, spec, Ground(root, runner_file(root))), spec, told)
    try:
        await _give_back_left_over(taking, ledger)
        hold, machine = await _accepted(taking)
        async with _in_use(taking, hold, machine, patience) as held:
            yield held
    finally:
        await taking.pool.close()


@contextlib.asynccontextmanager
async def _in_use(taking: _Taking, hold: Hold, machine: Machine, patience: Patience) -> AsyncIterator[Held]:
    reopened = functools.partial(taking.submissions.reopened, hold)
    connect = functools.partial(taking.pool.connect, machine)
    try:
        async with open_pipe(machine.id, connect, patience, reopened) as pipe:
            held = await greeted(taking.pool, machine, taking.spec, pipe)
            hold = await taking.submissions.ready(hold, held, taking.spec.vendor)
            yield held
    except HostError:
        if hold.state in ("accepted", "booting"):  # it has never worked for us
            await _give_back(taking, await taking.submissions.move(hold, "failed"))
        raise
    except asyncio.CancelledError:
        await asyncio.shield(_give_back_as_it_is(taking))
        raise
    else:
        await asyncio.shield(_give_back(taking, hold))


async def _accepted(taking: _Taking) -> tuple[Hold, Machine]:
    """A machine that was made for this run: found again, or made now."""
    submissions, pool = taking.submissions, taking.pool
    hold = await submissions.open(pool.name)
    while True:
        if hold is not None and hold.state in GIVEN_UP:
            await _give_back(taking, hold)
            hold = None
        if hold is None:
            offers = await pool.offers(ANY)
            if not offers:
                raise HostError(f"The pool `{pool.name}` has nothing to offer.", do="Use another pool.")
            hold = await submissions.write_down(offers[0])
        if hold.state in ("planned", "submitting"):
            return await _submitted(taking, hold)
        machine = await pool.find(hold.submission)
        if machine is not None and machine.presence in ("coming", "here"):
            return hold, machine
        hold = await submissions.move(hold, "lost")


async def _submitted(taking: _Taking, hold: Hold) -> tuple[Hold, Machine]:
    if hold.state == "planned":
        hold = await taking.submissions.move(hold, "submitting")
    try:
        machine = await taking.pool.submit(hold.submission)
    except HostError:
        await _give_back(taking, await taking.submissions.move(hold, "failed"))
        raise
    return await taking.submissions.move(hold, "accepted", machine.id), machine


async def _give_back(taking: _Taking, hold: Hold) -> None:
    """Release what the submission may have made. Where the owner does not confirm that it is gone, it stays
    `releasing`, and whoever comes next goes on with it."""
    submissions, pool = taking.submissions, taking.pool
    if hold.state == "planned":
        await submissions.move(hold, "released")
        return
    hold = await submissions.move(hold, "releasing")
    try:
        machine = await pool.find(hold.submission)
        gone = machine is None or (await pool.release(machine)).presence == "gone"
    except HostError as error:
        taking.told(f"{hold.machine} could not be given back yet: {error.what}")
        return
    if gone:
        await submissions.move(hold, "released")


async def _give_back_as_it_is(taking: _Taking) -> None:
    """Give back what the run holds by now: a change that was being written when the cancel came has been written."""
    hold = await taking.submissions.open(taking.pool.name)
    if hold is not None:
        await _give_back(taking, hold)


async def _give_back_left_over(taking: _Taking, ledger: Ledger) -> None:
    """What closed runs still hold of this pool, because their driver died in that instant."""
    for theirs, hold in await asyncio.to_thread(left_over, ledger, taking.pool.name):
        with contextlib.suppress(StaleDriver):  # another driver is at it
            await _give_back(_Taking(theirs, taking.pool, taking.spec, taking.told), hold)
