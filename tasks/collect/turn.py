"""A slot's turn: the last part of its lease comes in, the lease ends and the next one is granted, in one transaction.

Most leases end this way, with everything they did in one part. Three transactions would take the ledger's write lock
three times, and on SQLite each hand-over of the lock between processes costs as much again as the work under it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, TypeVar

from sqlalchemy import Connection

from blocks.lease import Grant, Wait
from blocks.ledger import Ledger
from tasks.collect.admit import Admission, Received, receive, write_down
from tasks.collect.driver import Seat, fence
from tasks.collect.grant import Asking, Crossed, Held, grant, hold_machine, told
from tasks.collect.leases import give_back

T = TypeVar("T")


def turn(
    ledger: Ledger, envelope: dict[str, Any], public: bytes, asking: Asking, seat: Seat
) -> tuple[Admission, Grant | Wait]:
    """Admit the last part of a lease whose runner has finished, end the lease, and grant the next.

    When the answer is lost on its way, the part is admitted, and the new lease is one that its machine never heard
    of: it goes back with the next adoption, or expires. Raises TrustError, ProtocolError and StaleDriver, and then
    nothing has changed.
    """
    return turned(ledger, receive(ledger, envelope, public), asking, seat)


def turned(ledger: Ledger, received: Received, asking: Asking, seat: Seat) -> tuple[Admission, Grant | Wait]:
    """`turn` for a part that has been received."""

    def act(connection: Connection) -> tuple[Admission, Held | Wait]:
        state = fence(connection, seat)
        hold_machine(connection, asking.machine)
        admission = write_down(connection, received)
        give_back(connection, admission.lease)
        return admission, _next(connection, state, asking)

    admission, answer = _until_not_crossed(ledger, act)
    return admission, told(ledger, asking.run, answer)


def asked(ledger: Ledger, asking: Asking, seat: Seat) -> Grant | Wait:
    """The next lease of a slot that has none."""
    answer = _until_not_crossed(ledger, lambda connection: _next(connection, fence(connection, seat), asking))
    return told(ledger, asking.run, answer)


def _next(connection: Connection, state: str, asking: Asking) -> Held | Wait:
    """A grant while the run is running; a run that is being stopped gives out nothing more."""
    if state == "running":
        return grant(connection, asking)
    return Wait(seconds=1.0, dry=True, why="the run is being stopped")


def _until_not_crossed(ledger: Ledger, act: Callable[[Connection], T]) -> T:
    while True:
        with contextlib.suppress(Crossed), ledger.write() as connection:
            return act(connection)
