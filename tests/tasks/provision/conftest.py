"""A pool of kind local whose machine is answered for by a function, on SQLite and on a real PostgreSQL."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from blocks.catalog.models import PoolSpec
from blocks.ledger import Ledger, now
from blocks.ledger.schema import events, machines, runs, submissions
from blocks.pools import registry
from blocks.pools.base import Channel, Ground, Machine, Submission
from blocks.pools.local import Local
from tasks.collect.driver import Seat, open_run, take_run
from tests.ledger_fixtures import database_url as database_url
from tests.ledger_fixtures import ledger as ledger
from tests.ledger_fixtures import postgres as postgres
from tests.tasks.run.far_end import FarEnd

HELLO: dict[str, Any] = {
    "runtime": {"arch": "x86_64", "libc": "glibc 2.36", "python": {"cp311": "/usr/bin/python3"}, "toolchain": ["c++"]},
    "fingerprint": {"memory_bytes": 8 << 30},
    "accelerators": [{"class": "cpu", "count": 2}],
    "sandbox": {"kind": "none", "why": "it is a test"},
    "slots_hint": 2,
}


@dataclass
class Host(Local):
    """This machine, with a far end that only says hello, and `said` in place of some of it. `before` is called ahead of
    each call that matters."""

    before: Callable[[str, str], None] = lambda call, submission: None
    greets: bool = True
    said: dict[str, Any] = field(default_factory=dict)

    async def submit(self, submission: Submission) -> Machine:
        self.before("submit", submission.id)
        machine = await super().submit(submission)
        self.before("submitted", submission.id)
        return machine

    async def release(self, machine: Machine) -> Machine:
        self.before("release", machine.submission)
        gone = await super().release(machine)
        self.before("gone", machine.submission)
        return gone

    async def connect(self, machine: Machine) -> Channel:
        return FarEnd(lambda request: {"ok": self.greets, "error": "broken", **HELLO, **self.said})


@dataclass
class Books:
    """The records and the one host, as a test looks at them."""

    ledger: Ledger
    root: Path
    host: Callable[..., None] = lambda **_: None
    settings: dict[str, Any] = field(default_factory=dict)

    def opened(self) -> Seat:
        return open_run(self.ledger, "nightly", {})

    def taken(self, seat: Seat) -> Seat:
        """The seat of the next driver, after this one has died."""
        with self.ledger.write() as connection:
            dead = {"driver": "elsewhere:1:2", "heartbeat": now() - 60}
            connection.execute(update(runs).where(runs.c.id == seat.run).values(**dead))
        return take_run(self.ledger, seat.run)

    def closed(self, seat: Seat) -> None:
        with self.ledger.write() as connection:
            connection.execute(update(runs).where(runs.c.id == seat.run).values(state="complete", driver=None))

    def submissions(self) -> list[Any]:
        with self.ledger.read() as connection:
            return list(connection.execute(select(submissions).order_by(submissions.c.created)).all())

    def states(self) -> list[str]:
        return [row.state for row in self.submissions()]

    def machine(self) -> Any:
        with self.ledger.read() as connection:
            return connection.execute(select(machines)).one_or_none()

    def events(self, kind: str = "submission.") -> list[str]:
        with self.ledger.read() as connection:
            rows = connection.execute(select(events.c.kind, events.c.body).order_by(events.c.seq)).all()
        return [row.kind for row in rows if row.kind.startswith(kind) and json.loads(row.body)["kind"] == row.kind]

    def held(self) -> list[str]:
        """The submissions that the host itself knows of."""
        return sorted(file.name.split(".")[0] for file in (self.root / "held").glob("*.held.json"))


@pytest.fixture
def books(ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Books:
    made = Books(ledger, tmp_path / "machine")

    def open_pool(name: str, spec: PoolSpec, ground: Ground) -> Host:
        return Host(name, ground, spec, hello=HELLO, **made.settings)

    monkeypatch.setitem(registry.KINDS, "local", open_pool)
    return made
