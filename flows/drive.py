"""Driving a run: build, plan, lease until the queue is dry, judge, close. The one sentence behind every flow.

Nothing here reads Prefect's state: the flows pass `stage`, which makes a Prefect task run of each step, and without
a Prefect server the same sentence is driven plainly. All decisions are made from the ledger, so a driver may die at
any instant and the next one goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol, TypeVar

from sqlalchemy import select

from blocks.errors import CommonfleetError, NothingToTake, StaleDriver
from blocks.home import Home
from blocks.ledger import Ledger, open_ledger
from blocks.ledger.belonging import check_store, take_bucket
from blocks.ledger.place import ledger_url, store_of
from blocks.ledger.schema import leases, runs
from blocks.signing import Key, load_or_make_key
from flows.conclude import CLOSING, Conclusion, conclude, cut_due
from flows.planning import PLANNING, Planning, discovery_on, write_down_plan
from flows.request import Request, request_from_json
from flows.stages import Desired, build_all, builds_of, desired, ready_builds, ready_sources
from tasks.beside import Beside, beside
from tasks.collect.desk import LedgerDesk
from tasks.collect.driver import (
    BEAT_SECONDS,
    OPEN,
    Seat,
    beat,
    fence,
    leave_run,
    open_run,
    set_state,
    stalled_runs,
    take_run,
)
from tasks.collect.leases import end_unfinished
from tasks.plan.write import Planned, estimated_seconds, planned, settled
from tasks.provision.acquire import acquired
from tasks.provision.held import Held
from tasks.run.agent import Agent
from tasks.run.prepare import ready
from tasks.run.watch import Watch

T = TypeVar("T")

CUT_SECONDS = 20.0


class Stage(Protocol):
    """How a step is run: plainly, or as a Prefect task run of that name."""

    async def __call__(self, name: str, function: Callable[..., Awaitable[T]], *arguments: Any) -> T: ...


async def plainly(name: str, function: Callable[..., Awaitable[T]], *arguments: Any) -> T:
    """Without Prefect: the step is just awaited."""
    return await function(*arguments)


def never() -> bool:
    """A driver that is stopped was meant to stop its run."""
    return False


@dataclass
class Driven:
    """A run in our hands."""

    home: Home
    ledger: Ledger
    seat: Seat
    key: Key
    want: Desired
    watch: Watch
    stage: Stage
    leave: Callable[[], bool]
    other: Beside
    """The process beside this one that cuts results and closes the run."""
    agents: list[Agent] = field(default_factory=list)
    stopping: bool = False


def ledger_of(home: Home) -> Ledger:
    """The ledger of an installation, with the store that its files stand in. Raises LedgerError."""
    ledger = open_ledger(ledger_url(home), home.results, store_of(home))
    try:
        check_store(ledger)
        take_bucket(ledger)
    except BaseException:
        ledger.close()
        raise
    return ledger


async def drive(
    request: Request,
    *,
    home: Home,
    flow: str,
    run: str | None = None,
    watch: Watch | None = None,
    stage: Stage = plainly,
    leave: Callable[[], bool] = never,
) -> Conclusion:
    """Drive a new run (or with `run`, resume that one) to its end.

    Raises CommonfleetError when the system itself failed: the run then stays open and can be resumed. When the task
    is cancelled, the machines are stopped, every unit gets its terminal state, and CancelledError goes on. Where
    `leave()` says then that only this driver is to stop, the machines are stopped and the rest of the run stays open
    for the next driver.
    """
    watch = watch or Watch()
    ledger = ledger_of(home)
    try:
        want = desired(request)
        seat = take_run(ledger, run) if run else open_run(ledger, flow, asdict(request))
        watch.run = seat.run
        key = load_or_make_key(home.keys / "agent.key")
        async with beside(CLOSING) as other:
            driven = Driven(home, ledger, seat, key, want, watch, stage, leave, other)
            async with _kept_warm(driven):
                return await _to_the_end(driven)
    finally:
        ledger.close()


async def resume(
    run: str,
    *,
    home: Home,
    watch: Watch | None = None,
    stage: Stage = plainly,
    leave: Callable[[], bool] = never,
) -> Conclusion:
    """Resume an open run with the request it was opened with. Raises NothingToTake when it is closed or driven."""
    ledger = ledger_of(home)
    try:
        with ledger.read() as connection:
            row = connection.execute(select(runs.c.request, runs.c.flow).where(runs.c.id == run)).one()
    finally:
        ledger.close()
    request = request_from_json(json.loads(row.request))
    return await drive(request, home=home, flow=row.flow, run=run, watch=watch, stage=stage, leave=leave)


def stalled(home: Home) -> list[str]:
    """Open runs whose driver died, oldest first."""
    ledger = ledger_of(home)
    try:
        return stalled_runs(ledger)
    finally:
        ledger.close()


def under_way(home: Home, flow: str) -> list[str]:
    """Open runs of that flow that somebody drives, or will when upkeep has seen that the driver died; oldest first."""
    ledger = ledger_of(home)
    query = select(runs.c.id).where(runs.c.flow == flow, runs.c.state.in_(OPEN), runs.c.driver.is_not(None))
    try:
        with ledger.read() as connection:
            return list(connection.scalars(query.order_by(runs.c.created)))
    finally:
        ledger.close()


async def resume_stalled(home: Home, leave: Callable[[], bool] = never) -> list[Conclusion]:
    """Finish the runs whose driver died, side by side. A run that somebody takes first is theirs.

    Raises the first error when all of them have ended: one run that cannot be resumed does not keep the others.
    """
    ends = await asyncio.gather(*(resume(run, home=home, leave=leave) for run in stalled(home)), return_exceptions=True)
    for end in ends:
        if isinstance(end, Exception) and not isinstance(end, StaleDriver | NothingToTake):
            raise end
    return [end for end in ends if isinstance(end, Conclusion)]


async def _to_the_end(driven: Driven) -> Conclusion:
    try:
        async with contextlib.AsyncExitStack() as stack:
            taking = asyncio.ensure_future(_all_taken(driven, stack))
            try:
                machines = await asyncio.shield(taking)
            except asyncio.CancelledError:
                # A machine may work for this run since before our time: it is reached first, and then stopped.
                await asyncio.shield(_stopped(driven, await taking))
                raise
            await _worked_off(driven, machines)
    except asyncio.CancelledError:
        if not _stays_open(driven):
            await asyncio.shield(_concluded(driven, "cancelled"))
        raise
    driven.watch.at("judge", "looking at what failed")
    closing = asyncio.ensure_future(driven.stage("judge and report", _concluded, driven, "complete"))
    try:
        return await asyncio.shield(closing)
    except asyncio.CancelledError:
        # Everything has run: what came too late to stop it does not undo it.
        return await closing


async def _all_taken(driven: Driven, stack: contextlib.AsyncExitStack) -> list[Held]:
    return [await stack.enter_async_context(_taken(driven, pool)) for pool in driven.want.pools]


async def _worked_off(driven: Driven, machines: list[Held]) -> None:
    """Everything that needs the machines. When it is cancelled, they are stopped before they are let go."""
    try:
        if _state(driven) == "cancelling":
            raise asyncio.CancelledError  # the driver before us died while it was stopping the run
        await _ready(driven, machines)
        driven.watch.testing_since = time.monotonic()
        await driven.other.start()  # beside the tests, so that their end need not wait for it
        cutting = asyncio.create_task(_cut_now_and_then(driven))
        try:
            await asyncio.gather(
                *(
                    driven.stage(f"machine {agent.ready.machine}", agent.work, _live_leases(driven, agent))
                    for agent in driven.agents
                )
            )
        finally:
            cutting.cancel()
        if _state(driven) == "cancelling":
            raise asyncio.CancelledError  # asked for since the last beat: the lanes have found the desk closed
        _end_unfinished(driven, "no machine could serve it")
    except asyncio.CancelledError:
        await asyncio.shield(_stopped(driven, machines))
        raise


async def _stopped(driven: Driven, machines: list[Held]) -> None:
    """Stop the run on every machine, known to an agent or not: a run that is resumed may have runners from before.

    Raises StaleDriver without touching anything, and the first error of a machine that could not be stopped.
    """
    driven.stopping = True
    try:
        if not _stays_open(driven) and not set_state(driven.ledger, driven.seat, "cancelling", when="running"):
            set_state(driven.ledger, driven.seat, "cancelling", when="planning")
    except StaleDriver:
        raise
    except CommonfleetError:
        pass  # a ledger that cannot be written is no reason to let the machines work on
    driven.watch.at("stopping", "ending what the machines have in hand")
    await asyncio.gather(*(_agent(driven, ready(held, driven.want.catalog, {}, {}, 0)).stop() for held in machines))


async def _concluded(driven: Driven, state: Literal["complete", "cancelled"]) -> Conclusion:
    return await conclude(driven.other, driven.home, driven.ledger, driven.seat, driven.want.catalog, state)


def _stays_open(driven: Driven) -> bool:
    """Whether only we are to stop, and nobody has asked for the end of the run. Raises StaleDriver."""
    return beat(driven.ledger, driven.seat) != "cancelling" and driven.leave()


async def _ready(driven: Driven, machines: list[Held]) -> None:
    """From the request to agents that know their machines, with the plan written down."""
    ledger, want, watch, stage = driven.ledger, driven.want, driven.watch, driven.stage
    with ledger.read() as connection:
        plan = planned(connection, driven.seat.run)
    async with beside(PLANNING) as planner:
        if plan is None:
            await planner.start()  # it imports what it needs while we build
            made = await stage("build", build_all, want, driven.home, ledger, driven.key, watch)
        else:
            made = builds_of(ledger, plan)
        for held in machines:
            places = await stage(f"unpack on {held.machine}", ready_builds, held, want, made, ledger, driven.key, watch)
            trees = await ready_sources(held, want, ledger, plan)
            if plan is None:
                planning = Planning(
                    want, made, places, trees, held.machine, held.hello, held.slots, driven.home.discovery
                )
                discover = discovery_on(held)
                plan = await stage("plan", write_down_plan, planning, discover, planner, ledger, driven.seat, watch)
            made_ready = ready(held, want.catalog, places, trees, want.request.slots)
            driven.agents.append(_agent(driven, made_ready))
    assert plan is not None  # a profile without pools is no profile
    set_state(ledger, driven.seat, "running", when="planning")
    _show(driven, plan)


def _agent(driven: Driven, made_ready: Any) -> Agent:
    return Agent(
        desk=LedgerDesk(driven.ledger, driven.seat),
        ready=made_ready,
        run=driven.seat.run,
        epoch=driven.seat.epoch,
        key=driven.key,
        target_seconds=driven.want.lease_seconds,
        delivered=lambda part: _show_delivered(driven, part),
    )


def _show_delivered(driven: Driven, part: Mapping[str, Any]) -> None:
    """Only what was delivered is looked up: the plan, which may have a hundred thousand units, is not kept here."""
    with driven.ledger.read() as connection:
        seconds = estimated_seconds(connection, driven.seat.run, [line["unit"] for line in part["records"]])
    driven.watch.delivered(part, seconds)


def _show(driven: Driven, plan: Planned) -> None:
    watch = driven.watch
    watch.planned, watch.planned_seconds = plan.units, plan.estimate_seconds
    with driven.ledger.read() as connection:
        watch.resumed(*settled(connection, driven.seat.run))
    watch.agents = driven.agents
    watch.at("test")


@contextlib.asynccontextmanager
async def _taken(driven: Driven, pool: str) -> AsyncIterator[Held]:
    spec = driven.want.catalog.pools[pool]
    driven.watch.at("machines", pool)
    async with acquired(driven.home.machine, driven.ledger, driven.seat, pool, spec, driven.watch.tell) as held:
        yield held


@contextlib.asynccontextmanager
async def _kept_warm(driven: Driven) -> AsyncIterator[None]:
    """Hold the seat: beat, notice when it is lost or a cancel is asked for, and leave it properly on failure."""
    us = asyncio.current_task()
    assert us is not None
    lost: list[StaleDriver] = []

    async def beats() -> None:
        while True:
            await asyncio.sleep(BEAT_SECONDS)
            try:
                state = await asyncio.to_thread(beat, driven.ledger, driven.seat)
            except StaleDriver as error:
                lost.append(error)
                us.cancel()
                return
            except CommonfleetError:
                continue  # a ledger that is full or locked stops the work itself; we must not stop beating for it
            if state == "cancelling" and not driven.stopping:
                driven.stopping = True
                us.cancel()

    beating = asyncio.create_task(beats())
    try:
        yield
    except asyncio.CancelledError:
        if lost:
            raise lost[0] from None
        raise
    except Exception as error:
        # The run stays open, without a driver: a person decides when to resume. Where somebody else has it by now,
        # that is the reason for whatever we met (a lease that they have finished is gone from the machine).
        try:
            leave_run(driven.ledger, driven.seat, str(error)[:2000])
        except StaleDriver as stale:
            raise stale from error
        except CommonfleetError:
            pass  # the ledger itself is what failed; the heartbeat ends by itself
        raise
    finally:
        beating.cancel()


async def _cut_now_and_then(driven: Driven) -> None:
    while True:
        await asyncio.sleep(CUT_SECONDS)
        # Shielded: what is being cut when the tests end is not thrown away; closing waits for it.
        await asyncio.shield(_cut(driven))


async def _cut(driven: Driven) -> None:
    # A damaged bundle is told at the end of the run, where a person reads it; the others are cut meanwhile.
    # A ledger that is full or locked stops the work itself.
    with contextlib.suppress(CommonfleetError):
        await cut_due(driven.other, driven.ledger)


def _end_unfinished(driven: Driven, reason: str) -> None:
    with driven.ledger.write() as connection:
        fence(connection, driven.seat)
        end_unfinished(connection, driven.seat.run, reason)


def _state(driven: Driven) -> str:
    with driven.ledger.read() as connection:
        return str(connection.scalar(select(runs.c.state).where(runs.c.id == driven.seat.run)))


def _live_leases(driven: Driven, agent: Agent) -> list[str]:
    with driven.ledger.read() as connection:
        return list(
            connection.scalars(
                select(leases.c.id).where(
                    leases.c.run == driven.seat.run, leases.c.machine == agent.ready.machine, leases.c.state == "live"
                )
            )
        )
