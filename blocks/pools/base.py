"""The standard runner interface: what every kind of pool answers, whoever owns the machines behind it.

    requirement --offers--> offers --submit--> machine --connect--> channel, --observe--> ... --release--> gone

A kind is one file beside this one with a class that fulfils `Pool`, and a row in `registry.py`; a new kind touches
nothing else. Calls may be cut at any instant, so `submit` is repeatable: the name and token come from the submission,
which is written down before the call, and the same submission never makes two machines. `release` is repeatable too.
A pool keeps no state of its own: what it says comes from where the machines are.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from blocks.requirement import MachineFacts, Requirement, facts_from_json, facts_to_json

Presence = Literal["coming", "here", "leaving", "gone"]
"""What the owner says about a machine. What we have decided about it is the ledger's (`blocks.machine`)."""


@dataclass(frozen=True)
class Offer:
    """What a pool can give for a requirement now. None where the pool does not know."""

    pool: str
    type: str
    zone: str
    market: Literal["own", "on_demand", "spot"]
    facts: MachineFacts
    slots: int
    usd_per_hour: float | None
    start_seconds: float | None


def offer_to_json(offer: Offer) -> dict[str, Any]:
    """The offer as it is written down."""
    body = {name: getattr(offer, name) for name in Offer.__dataclass_fields__}
    return {**body, "facts": facts_to_json(offer.facts)}


def offer_from_json(text: str) -> Offer:
    """The offer that was written down."""
    body = json.loads(text)
    return Offer(**{**body, "facts": facts_from_json(body["facts"])})


@dataclass(frozen=True)
class Submission:
    """One numbered try at one offer, as it was written down before the call."""

    id: str
    name: str
    token: str
    run: str
    offer: Offer
    expires: float
    """Seconds since the epoch, UTC: the machine's hard end, set when it is made."""


@dataclass(frozen=True)
class Machine:
    """A machine as its owner sees it. `submission` is the id it was made for, as its tag says."""

    id: str
    pool: str
    submission: str
    presence: Presence
    address: str
    expires: float


@dataclass(frozen=True)
class Health:
    """Whether the pool can be used at all, with a sentence for people where it cannot."""

    usable: bool
    why_not: str = ""


@dataclass(frozen=True)
class Ground:
    """What a kind may need of the installation that opens it."""

    root: Path
    """Where this machine keeps what it works on, should it be a machine of the pool."""
    runner: Path
    """The runner's file, which every machine gets."""


class Channel(Protocol):
    """Two streams of bytes to the runner on a machine (`runner serve`), whatever carries them."""

    async def read(self) -> bytes:
        """Some bytes, as they come; none once the far end is gone. Raises OSError."""
        ...

    async def write(self, data: bytes) -> None:
        """Send all of it. Raises OSError when the far end is gone."""
        ...

    async def close(self, grace_seconds: float) -> None:
        """Let the far end see that nothing more comes, and cut it off when it has not ended after the grace."""
        ...


class Pool(Protocol):
    """A source of machines under one owner."""

    @property
    def name(self) -> str: ...

    async def offers(self, requirement: Requirement) -> list[Offer]:
        """What could be had for this now, best first by the pool's own order; empty when nothing fits."""
        ...

    async def submit(self, submission: Submission) -> Machine:
        """Make the machine, or give the one that this submission has made already. Raises HostError."""
        ...

    async def find(self, submission: Submission) -> Machine | None:
        """The machine that this submission has made, after a crash between the call and its answer."""
        ...

    async def connect(self, machine: Machine) -> Channel:
        """A new channel to the runner on this machine. Raises OSError, HostError when it cannot be reached now."""
        ...

    async def bring(self, machine: Machine, file: Path) -> str:
        """Have a file of the store on the machine; gives its path there. Raises OSError, HostError."""
        ...

    async def observe(self, machine: Machine) -> Machine:
        """The same machine as its owner sees it now; `gone` only on the owner's word."""
        ...

    async def release(self, machine: Machine) -> Machine:
        """Give it back. Again for one that is gone already changes nothing."""
        ...

    async def inventory(self) -> list[Machine]:
        """Every machine with our tags, known to the ledger or not."""
        ...

    async def health(self) -> Health:
        """Whether the pool answers and our credentials hold. Never raises for what a person has to put right."""
        ...

    async def close(self) -> None:
        """Let go of the pool's own connections. Machines stay, and so do channels that were handed out."""
        ...
