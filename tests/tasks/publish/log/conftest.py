"""A ledger with events in its log, published, and ways to attack both."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import insert, select, text

from blocks.canonical import canonical_json, digest_bytes
from blocks.ledger import Ledger, log, record
from blocks.ledger.log_schema import log_leaves
from blocks.ledger.schema import IMMUTABLE, events
from tasks.publish.log.export import export_log
from tasks.publish.log.findings import Audit
from tasks.publish.log.sequence import Signer, sequence, signer_of
from tasks.publish.log.verify_events import verify_events
from tasks.publish.log.verify_log import verify_log
from tests.ledger_fixtures import database_url as database_url
from tests.ledger_fixtures import ledger as ledger
from tests.ledger_rows import new_key, open_made
from tests.postgres import postgres as postgres

EVENTS = 600
"""Two full tiles and a partial one."""
BATCH = 90
LONG = "x" * 70_000
"""Makes an event too long for an entry."""


def write_events(ledger: Ledger, count: int, *, first: int = 0, **body: str) -> list[str]:
    """Write `count` events in one transaction; returns their ids."""
    with ledger.write() as connection:
        return [record(connection, "lease.granted", run="r-1", lease=f"l-{first + i}", **body) for i in range(count)]


def slip_in(ledger: Ledger, **body: str) -> None:
    """An event past `record`: what an INSERT by hand makes, whose id is of another content."""
    content = canonical_json({"kind": "run.closed", "run": "r-1", "at": 1.5, "body": body, "nonce": "0"}).decode()
    with ledger.write() as connection:
        values = {"id": digest_bytes(b"another"), "kind": "run.closed", "run": "r-1", "at": 1.5, "body": content}
        connection.execute(insert(events).values(values))


def attack(ledger: Ledger, *statements: str) -> None:
    """Change facts the way somebody does who owns the database: triggers go first."""
    tables = [*IMMUTABLE, "log_leaves", "log_tiles", "log_checkpoints", "log_head"]
    with ledger.write() as connection:
        if ledger.engine.dialect.name == "sqlite":
            for name in connection.scalars(text("SELECT name FROM sqlite_master WHERE type = 'trigger'")).all():
                connection.execute(text(f"DROP TRIGGER {name}"))
        else:
            for table in tables:
                connection.execute(text(f"ALTER TABLE {table} DISABLE TRIGGER ALL"))
        for statement in statements:
            assert connection.exec_driver_sql(statement).rowcount, f"nothing was attacked: {statement}"


def leaf_order(ledger: Ledger) -> list[str]:
    """The ids of the events that have leaves, in the order of these."""
    with ledger.read() as connection:
        joined = select(events.c.id).join(log_leaves, log_leaves.c.seq == events.c.seq).order_by(log_leaves.c.leaf)
        return list(connection.scalars(joined))


def event_ids(ledger: Ledger) -> list[str]:
    """The ids of all events, in the order of their numbers."""
    with ledger.read() as connection:
        return list(connection.scalars(select(events.c.id).order_by(events.c.seq)))


def flip(path: Path, at: int) -> None:
    """Change one bit of a file."""
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


@pytest.fixture
def signer(ledger: Ledger) -> Signer:
    """Who signs the ledger's log."""
    return signer_of(ledger, new_key(), "log.example/ci")


@pytest.fixture
def check(ledger: Ledger, signer: Signer) -> Callable[..., Audit]:
    """Check the ledger against its log."""
    return lambda **how: verify_events(ledger, str(signer.verifier), **how)


@dataclass(frozen=True)
class Published:
    """A log in a folder, whose checkpoints were exported at several sizes on the way."""

    ledger: Ledger
    signer: Signer
    folder: Path
    ids: tuple[str, ...]

    @property
    def key(self) -> str:
        return str(self.signer.verifier)

    def grow(self, count: int, **body: str) -> None:
        """Write more events, sequence and export them."""
        write_events(self.ledger, count, first=1_000_000, **body)
        while sequence(self.ledger, self.signer, BATCH):
            pass
        export_log(self.ledger, self.folder)

    def verify(self, **how: object) -> Audit:
        return verify_log(self.folder, self.key, **how)  # type: ignore[arg-type]


@pytest.fixture
def published(tmp_path: Path) -> Iterator[Published]:
    """Six hundred events, the log of which is published; on SQLite, for the folder is the same from everywhere."""
    opened = open_made(tmp_path / "home")
    signer = signer_of(opened, new_key(), "log.example/ci")
    ids = write_events(opened, EVENTS)
    for _ in range(math.ceil(EVENTS / BATCH)):
        sequence(opened, signer, BATCH)
        export_log(opened, tmp_path / "published")
    yield Published(opened, signer, tmp_path / "published", tuple(ids))
    opened.close()


@pytest.fixture
def logged(ledger: Ledger, signer: Signer) -> Ledger:
    """A ledger whose six hundred events have their leaves."""
    write_events(ledger, EVENTS)
    while sequence(ledger, signer, BATCH):
        pass
    with ledger.read() as connection:
        head = log.head_of(connection)
    assert head is not None
    assert head.size == EVENTS
    return ledger
