"""The agent against a machine that is out of reach for a while, and one that talks nonsense: what it may conclude from
silence, what it delivers, and what it believes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from blocks.errors import HostError
from blocks.lease import Grant, Wait
from blocks.signing import BUNDLE_TYPE, load_or_make_key, verify
from tasks.collect.admit import Admission
from tasks.collect.checks import part_from
from tasks.run import agent
from tasks.run.agent import Agent, Ready
from tests.tasks.collect.conftest import finished

UNIT = {
    "id": "u", "suite": "s", "name": "u", "kind": "command", "spec": {"argv": ["true"]},
    "tests": [], "timeout_seconds": 9.0, "test_timeout_seconds": 9.0, "memory_bytes": 1, "exclusive": False,
}  # fmt: skip


@dataclass
class Desk:
    """A desk with one lease to give, and `slow_seconds` to think about it. Of parts it takes the well-formed ones."""

    said: list[Any] = field(default_factory=list)
    slow_seconds: float = 0.0

    async def ask(self, asking: Any) -> Grant | Wait:
        await asyncio.sleep(self.slow_seconds)
        if "granted" in self.said:
            return Wait(seconds=0, dry=True, why="")
        self.said.append("granted")
        return Grant(lease="l", token="t", deadline_seconds=120.0, slot=0, environment="e", suite="s", units=[UNIT])

    async def renew(self, lease: str) -> float:
        self.said.append("renewed")
        return 120.0

    async def deliver(self, envelope: dict[str, Any], public: bytes) -> Admission:
        return self._taken("delivered", envelope, public)

    async def turn(self, envelope: dict[str, Any], public: bytes, asking: Any) -> tuple[Admission, Grant | Wait]:
        return self._taken("turned", envelope, public), Wait(seconds=0, dry=True, why="")

    def _taken(self, how: str, envelope: dict[str, Any], public: bytes) -> Admission:
        part = part_from(verify(envelope, BUNDLE_TYPE, public))
        self.said.append((how, part["part"]))
        return Admission(part["lease"], part["part"], True)

    async def refuse(self, lease: str, envelope: dict[str, Any], why: str) -> None:
        self.said.append(("refused", lease, sorted(envelope)))

    async def give_back(self, lease: str, *, died: bool, in_hand: str | None) -> int:
        self.said.append({"died": died})
        return 0

    async def abandoned(self, runs: Any) -> set[str]:
        return set()


class Machine:
    """A pipe to a machine that has a lease from its start on, is seen at work on it in so many `looks`, and then gives
    these `parts`. `died`: its runner has not said that it is done. `nonsense` is what it answers instead, by operation.
    """

    name = "m"

    def __init__(
        self,
        at: Callable[[str], Awaitable[None]] | None = None,
        looks: int = 0,
        forgetful: bool = False,
        parts: Sequence[Any] = (),
        died: bool = False,
        nonsense: dict[str, Any] | None = None,
    ) -> None:
        self.at, self.looks, self.forgetful = at, looks, forgetful
        self.parts, self.died, self.nonsense = parts, died, nonsense or {}
        self.leases: list[str] = []
        self.asked: list[str] = []
        self.orders: list[dict[str, Any]] = []

    async def call(self, op: str, **arguments: Any) -> dict[str, Any]:
        self.asked.append(op)
        known = list(self.leases)
        if self.at is not None:
            await self.at(op)
        if op == "start":
            self.orders.append(arguments["order"])
            if not self.forgetful:
                self.leases.append(arguments["order"]["lease"])
        working = bool(known) and op == "status" and self.looks > 0
        self.looks -= working
        done, acked = not working and not self.died, arguments.get("acked", 0)
        one = {"run": "r", "pid": 1, "alive": working, "done": done, "in_hand": None, "spooled": 0, "acked": 0}
        part = self.parts[acked] if acked < len(self.parts) else None
        answers: dict[str, dict[str, Any]] = {
            "claim": {}, "start": {}, "stop": {}, "forget": {},
            "status": {"runners": [{"lease": lease, **one} for lease in known]},
            "collect": {"part": part, "done": done, "in_hand": None, "spooled": len(self.parts)},
        }  # fmt: skip
        if op in self.nonsense and known:
            return {"ok": True, **self.nonsense[op]}
        return answers[op]

    greet = call


def served(desk: Desk, machine: Machine, folder: Path) -> Agent:
    ready = Ready(
        machine="m", pipe=machine, slots=1, threads=1, python={"cp311": "python"}, builds={"e": "/b"}, sources={},  # type: ignore[arg-type]
        accelerators={"e": [{}]}, environments={"e": {"python": "cp311", "env": {}}},
        suites={"s": {"env": {}, "retry_alone": 0}},
    )  # fmt: skip
    return Agent(desk, ready, "r", 1, load_or_make_key(folder / "key"))  # type: ignore[arg-type]


def part_of(number: int, lease: str = "l") -> dict[str, Any]:
    """A part with one record, the one of that number."""
    return {"protocol": 1, "lease": lease, "part": number, "records": [{**finished("u"), "seq": number}]}


async def test_a_lease_is_not_gone_because_nobody_could_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent, "GONE_SECONDS", 0.2)

    async def away(op: str) -> None:
        if op == "status" and "start" in machine.asked:
            await asyncio.sleep(1.0)

    desk, machine = Desk(), Machine(away)
    await served(desk, machine, tmp_path).work([])

    assert desk.said == ["granted", {"died": False}]
    assert "forget" in machine.asked


async def test_a_lease_that_is_missing_at_every_look_is_given_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent, "GONE_SECONDS", 0.2)

    async def here(op: str) -> None:
        pass

    desk, machine = Desk(), Machine(here, forgetful=True)
    await served(desk, machine, tmp_path).work([])

    assert desk.said == ["granted", {"died": True}]


async def test_a_start_that_took_long_is_followed_by_a_renewal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent, "RENEW_SECONDS", 1.0)

    async def slow(op: str) -> None:
        if op == "start":
            await asyncio.sleep(1.2)

    desk, machine = Desk(), Machine(slow, looks=4)
    await served(desk, machine, tmp_path).work([])

    assert desk.said == ["granted", "renewed", {"died": False}]


async def test_only_the_last_part_ends_its_lease_and_asks_for_the_next_one(tmp_path: Path) -> None:
    desk, machine = Desk(), Machine(parts=[part_of(1), part_of(2), part_of(3)])
    await served(desk, machine, tmp_path).work([])

    assert desk.said == ["granted", ("delivered", 1), ("delivered", 2), ("turned", 3)]
    assert machine.asked[-1] == "forget"


async def test_a_runner_that_died_asks_for_nothing_with_its_last_part(tmp_path: Path) -> None:
    desk, machine = Desk(), Machine(parts=[part_of(1)], died=True)
    await served(desk, machine, tmp_path).work([])

    assert desk.said == ["granted", ("delivered", 1), {"died": True}]


async def test_the_time_that_a_grant_took_to_arrive_is_off_its_deadline(tmp_path: Path) -> None:
    """The desk counts from when it granted; a runner that counted from its own start would outlive its lease."""
    desk, machine = Desk(slow_seconds=0.3), Machine()
    await served(desk, machine, tmp_path).work([])

    (order,) = machine.orders
    assert order["deadline_seconds"] <= 120.0 - 0.3


def deep(levels: int) -> Any:
    inner: list[Any] = []
    for _ in range(levels):
        inner = [inner]
    return inner


@pytest.mark.parametrize("died", [False, True], ids=["done", "died"])
@pytest.mark.parametrize(
    "part",
    [
        {**part_of(1), "records": []},
        {**part_of(1), "records": {}},
        {**part_of(1), "records": [{}]},
        {**part_of(1), "records": [7]},
        {**part_of(1), "records": deep(100_000)},
        {**part_of(1), "part": "1"},
        {"protocol": 1},
        part_of(1, lease="another"),
        part_of(0),
        [],
        "text",
        7,
    ],
    ids=[
        "no record", "records {}", "record {}", "record 7", "deep", "part text", "hardly a part", "another lease",
        "a part of before", "list", "text", "number",
    ],
)  # fmt: skip
async def test_a_part_that_is_none_costs_its_lease_and_nothing_else(tmp_path: Path, part: Any, died: bool) -> None:
    desk, machine = Desk(), Machine(parts=[part], died=died)
    async with asyncio.timeout(20):
        await served(desk, machine, tmp_path).work([])

    assert desk.said == ["granted", ("refused", "l", ["part"]), {"died": True}]
    assert [op for op in machine.asked if op != "status"][-2:] == ["stop", "forget"]


async def test_a_part_that_comes_again_and_again_keeps_nobody_busy(tmp_path: Path) -> None:
    desk, machine = Desk(), Machine(parts=[part_of(1), part_of(1)])
    async with asyncio.timeout(20):
        await served(desk, machine, tmp_path).work([])

    assert desk.said == ["granted", ("delivered", 1), ("refused", "l", ["part"]), {"died": True}]


LINE = {"lease": "l", "run": "r", "pid": 1, "alive": True, "done": False, "in_hand": None, "spooled": 0, "acked": 0}


@pytest.mark.parametrize(
    ("op", "answer"),
    [
        ("status", {}),
        ("status", {"runners": {}}),
        ("status", {"runners": [7]}),
        ("status", {"runners": [{**LINE, "lease": ["l"]}]}),
        ("status", {"runners": [{**LINE, "acked": "0"}]}),
        ("status", {"runners": [{**LINE, "spooled": None}]}),
        ("status", {"runners": [{**LINE, "in_hand": {}}]}),
        ("status", {"runners": [{key: value for key, value in LINE.items() if key != "alive"}]}),
        ("collect", {}),
        ("collect", {"part": None, "done": True, "in_hand": [], "spooled": 0}),
        ("collect", {"part": None, "done": "yes", "in_hand": None, "spooled": 0}),
        ("collect", {"part": part_of(1), "done": True, "in_hand": None}),
    ],
)
async def test_an_answer_that_is_none_is_an_error_about_its_machine(
    tmp_path: Path, op: str, answer: dict[str, Any]
) -> None:
    desk, machine = Desk(), Machine(nonsense={op: answer})
    with pytest.raises(HostError, match=f"m answered `{op}` with nonsense: .* must be") as error:
        async with asyncio.timeout(20):
            await served(desk, machine, tmp_path).work([])
    assert error.value.do
