"""The agent against a machine that is out of reach for a while: what it may conclude from silence, and what not."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from blocks.lease import Grant, Wait
from blocks.signing import load_or_make_key
from tasks.run import agent
from tasks.run.agent import Agent, Ready

UNIT = {
    "id": "u", "suite": "s", "name": "u", "kind": "command", "spec": {"argv": ["true"]},
    "tests": [], "timeout_seconds": 9.0, "test_timeout_seconds": 9.0, "memory_bytes": 1, "exclusive": False,
}  # fmt: skip


@dataclass
class Desk:
    """A desk with one lease to give."""

    said: list[Any] = field(default_factory=list)

    async def ask(self, asking: Any) -> Grant | Wait:
        if "granted" in self.said:
            return Wait(seconds=0, dry=True)
        self.said.append("granted")
        return Grant(lease="l", token="t", deadline_seconds=120.0, slot=0, environment="e", suite="s", units=[UNIT])

    async def renew(self, lease: str) -> float:
        self.said.append("renewed")
        return 120.0

    async def give_back(self, lease: str, *, died: bool, in_hand: str | None) -> int:
        self.said.append({"died": died})
        return 0

    async def abandoned(self, runs: Any) -> set[str]:
        return set()


class Machine:
    """A pipe to a machine that has a lease from its start on, and is seen at work on it in so many `looks`."""

    def __init__(self, at: Callable[[str], Awaitable[None]], looks: int = 0, forgetful: bool = False) -> None:
        self.at, self.looks, self.forgetful = at, looks, forgetful
        self.leases: list[str] = []
        self.asked: list[str] = []

    async def call(self, op: str, **arguments: Any) -> dict[str, Any]:
        self.asked.append(op)
        known = list(self.leases)
        await self.at(op)
        if op == "start" and not self.forgetful:
            self.leases.append(arguments["order"]["lease"])
        working = bool(known) and op == "status" and self.looks > 0
        self.looks -= working
        one = {"run": "r", "pid": 1, "alive": working, "done": not working, "in_hand": None, "spooled": 0, "acked": 0}
        answers: dict[str, dict[str, Any]] = {
            "claim": {}, "start": {}, "forget": {},
            "status": {"runners": [{"lease": lease, **one} for lease in known]},
            "collect": {"part": None, "done": True, "in_hand": None},
        }  # fmt: skip
        return answers[op]

    greet = call


def served(desk: Desk, machine: Machine, folder: Path) -> Agent:
    ready = Ready(
        machine="m", pipe=machine, slots=1, threads=1, python={"cp311": "python"}, builds={"e": "/b"}, sources={},  # type: ignore[arg-type]
        accelerators={"e": [{}]}, environments={"e": {"python": "cp311", "env": {}}},
        suites={"s": {"env": {}, "retry_alone": 0}},
    )  # fmt: skip
    return Agent(desk, ready, "r", 1, load_or_make_key(folder / "key"))  # type: ignore[arg-type]


async def test_a_lease_is_not_gone_because_nobody_could_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent, "GONE_SECONDS", 0.2)

    async def away(op: str) -> None:
        if op == "status" and "start" in machine.asked:
            await asyncio.sleep(1.0)

    desk, machine = Desk(), Machine(away)
    await served(desk, machine, tmp_path).work([])

    assert desk.said == ["granted", {"died": False}]
    assert machine.asked[-1] == "forget"


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
