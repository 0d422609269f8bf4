"""The agent: a machine's working life for one run. It asks the desk for leases, starts runners, delivers what they
spool, signs it, and gives back what is left.

    adopt what a dead agent left ─► per slot: ask ─► start ─► (watch, deliver, renew)* ─► give back ─► ask ...

Nothing here is needed for finished work to survive: the runner outlives this process, and the next agent finds its
lease folders by asking the machine. A pipe that is lost is opened again below us (`tasks.run.pipe`); calls then take
longer, and nothing may be concluded from what was not heard meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from blocks.canonical import canonical_json
from blocks.errors import HostError, ProtocolError, TrustError, innermost
from blocks.lease import PROTOCOL, Grant, Order, OrderedUnit, Wait
from blocks.signing import BUNDLE_TYPE, Key, sign
from tasks.collect.admit import Admission
from tasks.collect.desk import Desk
from tasks.collect.grant import Asking
from tasks.collect.leases import LEASE_SECONDS
from tasks.run.answers import COLLECT, STATUS, answered
from tasks.run.pipe import Pipe

POLL_SECONDS = 0.05
DELIVER_SECONDS = 2.0
RENEW_SECONDS = LEASE_SECONDS / 4
STOP_SECONDS = 5.0
GONE_SECONDS = 15.0
"""How long a lease may be missing on its machine before we believe that it is gone."""

REFUSED_CHARACTERS = 1 << 20


T = TypeVar("T")
Said = tuple[Grant | Wait, float]
"""What the desk said to a slot that asked, and when it was asked, by our own clock."""


class Refused(Exception):
    """A part is not taken: it is malformed, not the one that was asked for, or tells of what was never granted."""

    def __init__(self, part: Any, why: str) -> None:
        super().__init__(why)
        self.part = part
        self.why = why


@dataclass(frozen=True)
class Ready:
    """A machine that is ready for a run's environments: where the builds and sources stand on it."""

    machine: str
    pipe: Pipe
    slots: int
    threads: int
    python: Mapping[str, str]  # interpreter tag -> path
    builds: Mapping[str, str]  # environment -> root of its unpacked build
    sources: Mapping[str, str]  # suite -> root of its unpacked files
    accelerators: Mapping[str, Sequence[Mapping[str, Any]]]  # environment -> by slot: class, devices, env, nodes
    environments: Mapping[str, Mapping[str, Any]]  # environment -> python tag, env
    suites: Mapping[str, Mapping[str, Any]]  # suite -> env, retry_alone
    sandbox: str = "auto"
    output_cap_bytes: int = 256 << 10


@dataclass
class Lane:
    """What one slot is doing, for those who watch."""

    lease: str = ""
    in_hand: str = ""
    waits: str = ""
    """Why it got no lease when it asked last."""

    names: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Agent:
    """One machine serving one run. `delivered` is called with each part that was admitted for the first time."""

    desk: Desk
    ready: Ready
    run: str
    epoch: int
    key: Key
    target_seconds: float = 30.0
    delivered: Callable[[Mapping[str, Any]], None] = lambda _: None
    lanes: list[Lane] = field(default_factory=list)
    status: dict[str, dict[str, Any]] = field(default_factory=dict)
    looked: float = 0.0
    """When the machine was asked for `status`, by the loop's clock. While the pipe is lost this stands still."""

    async def work(self, leased: Collection[str]) -> None:
        """Serve until the queue is dry. `leased`: this run's live leases on this machine, from before our time."""
        self.lanes[:] = [Lane() for _ in range(self.ready.slots)]
        try:
            async with asyncio.TaskGroup() as watching:
                watcher = watching.create_task(self._watch())
                async with asyncio.TaskGroup() as group:
                    for life in await self._adopt(leased):
                        group.create_task(life)
                    for lane in self.lanes:
                        group.create_task(self._lane(lane))
                watcher.cancel()
        except BaseExceptionGroup as group:
            # What people and callers meet is the error itself, not the fact that lanes run side by side.
            raise innermost(group) from group

    async def stop(self) -> None:
        """End every runner of this run on this machine, then deliver what they had finished.

        The machine is told first that the run is over there, so that a start which is still on its way is refused.
        """
        await self.ready.pipe.greet("claim", run=self.run, epoch=self.epoch, over=True)
        ours = [runner for runner in await self._runners() if runner["run"] == self.run]
        await asyncio.gather(*(self._end(runner["lease"], runner["acked"]) for runner in ours))

    async def _lane(self, lane: Lane) -> None:
        held = len(self.ready.accelerators[next(iter(self.ready.accelerators))])
        asking = Asking(self.run, self.ready.machine, self.key.id, tuple(self.ready.builds), self.target_seconds, held)
        clock = asyncio.get_running_loop().time
        said: Said | None = None
        while True:
            answer, asked = said or (None, clock())
            if answer is None:
                answer = await self.desk.ask(asking)
            said = None
            if "dry" in answer:
                lane.waits = answer["why"]
                if answer["dry"]:
                    return
                await asyncio.sleep(answer["seconds"])
                continue
            lane.lease, lane.waits = answer["lease"], ""
            lane.names = {unit["id"]: unit["name"] for unit in answer["units"]}
            await self.ready.pipe.call("start", order=self._order(answer, clock() - asked))
            said = await self._follow(lane, answer["lease"], 0, asked, asking)
            lane.lease, lane.in_hand = "", ""

    async def _follow(
        self, lane: Lane, lease: str, acked: int, renewed: float, asking: Asking | None = None
    ) -> Said | None:
        """Watch one runner to its end, delivering and renewing on the way. `acked` is the last part delivered,
        `renewed` when the lease was granted or renewed: a start over a lost pipe may have taken a while.

        With `asking`, the slot's next lease may come with the end of this one."""
        clock = asyncio.get_running_loop().time
        spooled, delivered, seen = 0, clock(), clock()
        lost = False
        while True:
            await asyncio.sleep(POLL_SECONDS)
            state = self.status.get(lease)
            if state is None or state["pid"] is None:
                # The watcher has looked before it was started, or in the middle of that; or it is gone for good.
                if self.looked - seen > GONE_SECONDS:
                    await self.desk.give_back(lease, died=True, in_hand=None)
                    return None
                continue
            seen = clock()
            lane.in_hand = lane.names.get(state["in_hand"] or "", "")
            if state["done"] or not state["alive"]:
                break
            if state["spooled"] > spooled and clock() - delivered >= DELIVER_SECONDS:
                spooled, delivered = state["spooled"], clock()
                try:
                    acked = await self._deliver(lease, acked)
                except Refused as refused:
                    await self._refused(lease, refused)
                    return None
            if not lost and clock() - renewed >= RENEW_SECONDS:
                renewed, lost = clock(), not await self._renew(lease)
                if lost:
                    await self.ready.pipe.call("stop", lease=lease, grace_seconds=STOP_SECONDS)
        return await self._finish(lease, acked, asking)

    async def _renew(self, lease: str) -> bool:
        try:
            await self.desk.renew(lease)
        except ProtocolError:
            return False  # it expired: its units may be with somebody else by now
        return True

    async def _deliver(self, lease: str, acked: int) -> int:
        """Deliver the next part, if there is one; returns the number of the last part delivered. Raises Refused,
        HostError."""
        part = (await self._collected(lease, acked))["part"]
        return acked if part is None else await self._admit(part)

    async def _end(self, lease: str, acked: int) -> None:
        await self.ready.pipe.call("stop", lease=lease, grace_seconds=STOP_SECONDS)
        await self._finish(lease, acked)

    async def _finish(self, lease: str, acked: int, asking: Asking | None = None) -> Said | None:
        """The runner is over, however it ended: deliver the rest, give back what is left, forget the folder."""
        said: Said | None = None
        try:
            while not said and (answer := await self._collected(lease, acked))["part"] is not None:
                if asking is not None and answer["done"] and _last_seq(answer["part"]) == answer["spooled"]:
                    said = await self._turned(answer["part"], asking)
                else:
                    acked = await self._admit(answer["part"])
        except Refused as refused:
            await self._refused(lease, refused)
            return None
        if not said:
            await self.desk.give_back(lease, died=not answer["done"], in_hand=answer["in_hand"])
        await self.ready.pipe.call("forget", lease=lease)
        return said

    async def _collected(self, lease: str, acked: int) -> dict[str, Any]:
        """The machine's answer, with the next part of this lease or None. Raises Refused for any other part, HostError
        for an answer that is none."""
        answer = await answered(self.ready.pipe, COLLECT, "collect", lease=lease, acked=acked)
        part = answer["part"]
        if part is not None and not _is_next(part, lease, acked):
            raise Refused(part, f"It is not the part of lease {lease} that comes after {acked}.")
        return answer

    async def _admit(self, part: Mapping[str, Any]) -> int:
        admission = await self._sent(part, self.desk.deliver)
        self._told(part, admission)
        return int(part["part"])

    async def _turned(self, part: Mapping[str, Any], asking: Asking) -> Said:
        """Deliver the last part of a lease whose runner has finished, and ask for the next one with it."""
        asked = asyncio.get_running_loop().time()
        admission, answer = await self._sent(part, lambda envelope, key: self.desk.turn(envelope, key, asking))
        self._told(part, admission)
        return answer, asked

    async def _sent(self, part: Mapping[str, Any], send: Callable[[dict[str, Any], bytes], Awaitable[T]]) -> T:
        """Sign a part and send it. Raises Refused where the desk does not take it."""
        try:
            return await send(sign(self.key, BUNDLE_TYPE, canonical_json(part)), self.key.public)
        except (ProtocolError, TrustError, ValueError, RecursionError) as error:
            raise Refused(part, str(error)) from error

    def _told(self, part: Mapping[str, Any], admission: Admission) -> None:
        if admission.fresh:
            self.delivered(part)

    async def _refused(self, lease: str, refused: Refused) -> None:
        """A part that the desk does not take ends its lease, as a death would: the other lanes go on."""
        await self.ready.pipe.call("stop", lease=lease, grace_seconds=STOP_SECONDS)
        await self.desk.refuse(lease, {"part": _shown(refused.part)}, refused.why)
        await self.desk.give_back(lease, died=True, in_hand=None)
        await self.ready.pipe.call("forget", lease=lease)

    async def _adopt(self, leased: Collection[str]) -> list[Coroutine[Any, Any, object]]:
        """What dead agents left on this machine: running runners are followed, finished ones delivered.

        The claim comes first: from then on the machine obeys no driver of this run that was before us. Runners of
        runs that are over are ended too; what they finished still arrives, as late evidence.
        """
        await self.ready.pipe.greet("claim", run=self.run, epoch=self.epoch)
        runners = await self._runners()
        found = {runner["lease"]: runner for runner in runners if runner["run"] == self.run}
        for lease in set(leased) - set(found):  # granted, but the machine never heard of it
            await self.desk.give_back(lease, died=False, in_hand=None)
        lives: list[Coroutine[Any, Any, object]] = []
        for lease, runner in found.items():
            still_ours = runner["alive"] and lease in leased and await self._renew(lease)
            acked, renewed = runner["acked"], asyncio.get_running_loop().time()
            lives.append(self._follow(Lane(lease), lease, acked, renewed) if still_ours else self._end(lease, acked))
        over = await self.desk.abandoned({str(runner["run"]) for runner in runners} - {self.run})
        lives.extend(self._end(runner["lease"], runner["acked"]) for runner in runners if runner["run"] in over)
        return lives

    async def _runners(self) -> list[dict[str, Any]]:
        return list((await answered(self.ready.pipe, STATUS, "status"))["runners"])

    async def _watch(self) -> None:
        """One look at the machine for all lanes."""
        clock = asyncio.get_running_loop().time
        while True:
            asked = clock()
            self.status = {runner["lease"]: runner for runner in await self._runners()}
            self.looked = asked
            await asyncio.sleep(POLL_SECONDS)

    def _order(self, grant: Grant, late_seconds: float) -> Order:
        ready, environment = self.ready, grant["environment"]
        facts = ready.environments[environment]
        python = ready.python.get(facts["python"])
        if python is None:
            raise HostError(f"{ready.machine} has no {facts['python']} interpreter any more.", do="Install it again.")
        suite = grant["suite"]
        alone = any(unit["exclusive"] for unit in grant["units"])
        return Order(
            protocol=PROTOCOL,
            lease=grant["lease"],
            run=self.run,
            epoch=self.epoch,
            slot=grant["slot"],
            units=[_ordered(unit) for unit in grant["units"]],
            build=ready.builds[environment],
            sources={suite: ready.sources[suite]} if suite in ready.sources else {},
            python=python,
            accelerator=dict(ready.accelerators[environment][grant["slot"]]),
            threads=ready.threads * ready.slots if alone else ready.threads,
            deadline_seconds=grant["deadline_seconds"] - late_seconds,
            sandbox=ready.sandbox,  # type: ignore[typeddict-item]
            retry_alone=ready.suites[suite]["retry_alone"],
            output_cap_bytes=ready.output_cap_bytes,
            env={**facts["env"], **ready.suites[suite]["env"]},
        )


def _is_next(part: Any, lease: str, acked: int) -> bool:
    """Whether it is a later part of this lease. (A lease whose folder was removed leaves numbers out.)"""
    if not isinstance(part, dict) or part.get("lease") != lease:
        return False
    number = part.get("part")
    return type(number) is int and number > acked


def _last_seq(part: Mapping[str, Any]) -> int | None:
    """The number of the part's last record. Nobody has checked the part yet: None where there is no telling."""
    try:
        seq = part["records"][-1]["seq"]
    except (IndexError, KeyError, TypeError):
        return None
    return seq if type(seq) is int else None


def _shown(part: Any) -> str:
    try:
        return repr(part)[:REFUSED_CHARACTERS]
    except RecursionError:
        return "(nested too deeply to be shown)"


def _ordered(unit: Mapping[str, Any]) -> OrderedUnit:
    return OrderedUnit(
        unit=unit["id"],
        name=unit["name"],
        kind=unit["kind"],
        spec=unit["spec"],
        tests=unit["tests"],
        suite=unit["suite"],
        timeout_seconds=unit["timeout_seconds"],
        test_timeout_seconds=unit["test_timeout_seconds"],
        memory_bytes=unit["memory_bytes"],
        exclusive=unit["exclusive"],
    )
