"""Planning a run, in a process beside its driver: a plan may have a hundred thousand units, the driver stays small."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blocks.ledger import Ledger
from blocks.plan import Plan
from flows.reopen import Address, address_of, reopened
from flows.stages import Desired, Signed
from tasks.beside import Ask, Beside
from tasks.collect.driver import Seat, fence
from tasks.plan.check import check_hosts
from tasks.plan.discovery import Discover
from tasks.plan.estimates import measured
from tasks.plan.make import Progress, make_plan
from tasks.plan.place import SourceTree, Unpacked
from tasks.plan.write import Planned, planned, write_plan
from tasks.provision.held import Held
from tasks.run.watch import Watch

PLANNING = "flows.planning"
DISCOVER_SECONDS = 600.0


@dataclass(frozen=True)
class Planning:
    """What a plan is made from, beside the pipe to the machine that lists the tests."""

    want: Desired
    builds: Mapping[str, Signed]
    places: Mapping[str, Unpacked]
    sources: Mapping[str, SourceTree]
    machine: str
    hello: Mapping[str, Any]
    slots: int
    cache: Path


def discovery_on(held: Held) -> Discover:
    """How this machine is asked for the tests of a file."""

    async def discover(request: dict[str, Any]) -> Mapping[str, Any]:
        return _plain(await held.pipe.call("discover", timeout=DISCOVER_SECONDS, **request))

    return discover


def _plain(answer: Mapping[str, Any]) -> dict[str, Any]:
    """What is asked for, and only in the shape that it should have: a host may answer anything."""
    if answer.get("error"):
        return {"error": str(answer["error"]) if isinstance(answer["error"], str) else "its error is no text"}
    lists = {key: answer.get(key, []) for key in ("tests", "disabled")}
    plain = all(isinstance(x, list) and all(isinstance(name, str) for name in x) for x in lists.values())
    return lists if plain and "tests" in answer else {}


def progress_to(watch: Watch) -> Progress:
    return lambda suite, done, total: watch.tell(f"{suite}: {done} of {total} files listed")


async def plan_of(planning: Planning, ledger: Ledger, discover: Discover, progress: Progress) -> Plan:
    """Discover the units and check that the machine can run them. Raises PlanError, HostError."""
    with ledger.read() as connection:
        estimates = measured(connection)
    plan = await make_plan(
        planning.want.catalog,
        planning.want.request.profile,
        environments=planning.places,
        sources=planning.sources,
        discover=discover,
        root=planning.want.root,
        estimates=estimates,
        cache=planning.cache,
        at_once=planning.slots,
        progress=progress,
    )
    builds = {name: signed.build for name, signed in planning.builds.items()}
    check_hosts(plan, builds, {planning.machine: planning.hello})
    return plan


async def write_down_plan(
    planning: Planning, discover: Discover, other: Beside, ledger: Ledger, seat: Seat, watch: Watch
) -> Planned:
    """Have the plan made and written into the ledger, before anything runs. Raises PlanError, HostError, StaleDriver.

    Only the tests of the files that are being listed pass through here, on their way from the machine.
    """
    watch.at("plan", "listing the tests")
    progress = progress_to(watch)

    async def answer(question: dict[str, Any] | tuple[str, int, int]) -> Mapping[str, Any] | None:
        if isinstance(question, dict):
            return await discover(question)
        progress(*question)
        return None

    return await other.call(_written_down, planning, address_of(ledger), seat, answer=answer)


def _written_down(planning: Planning, address: Address, seat: Seat, ask: Ask) -> Planned:
    async def discover(request: dict[str, Any]) -> Mapping[str, Any]:
        answer: Mapping[str, Any] = await asyncio.wrap_future(ask(request))
        return answer

    def progress(suite: str, done: int, total: int) -> None:
        ask((suite, done, total))

    with reopened(address) as ledger:
        plan = asyncio.run(plan_of(planning, ledger, discover, progress))
        with ledger.write() as connection:
            fence(connection, seat)
            write_plan(connection, seat.run, plan)
            written = planned(connection, seat.run)
    assert written is not None
    return written
