"""The desk: what an agent talks to. One interface, whatever the transport.

`LedgerDesk` is the desk of machines that we reach: its calls are transactions of this process, fenced by the
driver's seat. The vendors' gateway offers the same calls over HTTPS, and both end in the same functions.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from sqlalchemy import Connection, select

from blocks.canonical import canonical_json
from blocks.lease import Grant, Wait
from blocks.ledger import Ledger, record, schema
from tasks.collect.admit import Admission, admit
from tasks.collect.driver import OPEN, Seat, fence
from tasks.collect.grant import Asking
from tasks.collect.leases import give_back, renew
from tasks.collect.turn import asked, turn

T = TypeVar("T")


class Desk(Protocol):
    """Where an agent asks for work and delivers what came of it. Calls raise CommonfleetError kinds only."""

    async def ask(self, asking: Asking) -> Grant | Wait: ...

    async def renew(self, lease: str) -> float: ...

    async def deliver(self, envelope: dict[str, Any], public: bytes) -> Admission: ...

    async def turn(self, envelope: dict[str, Any], public: bytes, asking: Asking) -> tuple[Admission, Grant | Wait]:
        """`deliver` the last part of a lease, give the lease back, and `ask` for the slot's next one, in one step."""
        ...

    async def give_back(self, lease: str, *, died: bool, in_hand: str | None) -> int: ...

    async def refuse(self, lease: str, envelope: dict[str, Any], why: str) -> None:
        """Keep a part that cannot be admitted, as evidence, and say so in the log."""
        ...

    async def abandoned(self, runs: Collection[str]) -> set[str]:
        """Which of these runs are over, so that whatever a machine still does for them can end."""
        ...


@dataclass(frozen=True)
class LedgerDesk:
    """The desk of a driver, beside its ledger."""

    ledger: Ledger
    seat: Seat

    async def ask(self, asking: Asking) -> Grant | Wait:
        return await asyncio.to_thread(asked, self.ledger, asking, self.seat)

    async def renew(self, lease: str) -> float:
        return await self._fenced(lambda connection: renew(connection, lease))

    async def deliver(self, envelope: dict[str, Any], public: bytes) -> Admission:
        return await asyncio.to_thread(admit, self.ledger, envelope, public, seat=self.seat)

    async def turn(self, envelope: dict[str, Any], public: bytes, asking: Asking) -> tuple[Admission, Grant | Wait]:
        return await asyncio.to_thread(turn, self.ledger, envelope, public, asking, self.seat)

    async def give_back(self, lease: str, *, died: bool, in_hand: str | None) -> int:
        return await self._fenced(lambda connection: give_back(connection, lease, died=died, in_hand=in_hand))

    async def refuse(self, lease: str, envelope: dict[str, Any], why: str) -> None:
        digest = await asyncio.to_thread(self.ledger.store.put_bytes, canonical_json(envelope))
        said: dict[str, Any] = {"lease": lease, "digest": digest, "why": why[:2000]}
        await self._fenced(lambda connection: record(connection, "bundle.refused", run=self.seat.run, **said))

    async def abandoned(self, runs: Collection[str]) -> set[str]:
        def closed() -> set[str]:
            with self.ledger.read() as connection:
                known = select(schema.runs.c.id, schema.runs.c.state).where(schema.runs.c.id.in_(runs))
                return {run for run, state in connection.execute(known) if state not in OPEN}

        return await asyncio.to_thread(closed)

    async def _fenced(self, act: Callable[[Connection], T]) -> T:
        def transact() -> T:
            with self.ledger.write() as connection:
                fence(connection, self.seat)
                return act(connection)

        return await asyncio.to_thread(transact)
