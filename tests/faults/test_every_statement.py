"""A process killed before each statement of an admission in turn, and after the last: all of it or nothing, once."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import event, func, select

from blocks.canonical import canonical_json
from blocks.ledger import Ledger
from blocks.ledger.schema import attempts, bundles, events, leases, settlements
from blocks.signing import BUNDLE_TYPE, sign
from tasks.collect.admit import admit
from tasks.collect.grant import Asking
from tasks.collect.segments import cut_segments
from tasks.collect.turn import asked, turn
from tasks.publish.log.verify_files import verify_files
from tests.ledger_fixtures import database_url as database_url
from tests.ledger_fixtures import ledger as ledger
from tests.ledger_fixtures import postgres as postgres
from tests.ledger_rows import new_key, open_made
from tests.tasks.collect.conftest import Night, finished, open_night, unit

UNITS = 2  # in a part: what is done for each of them is done twice
MOST = 200


def watch(ledger: Ledger, at: Callable[[], None]) -> None:
    """`at` is called before every statement that the driver of the database executes, and before the commit."""

    class Cursor(psycopg.Cursor[Any]):
        def execute(self, *given: Any, **named: Any) -> Any:
            at()
            return super().execute(*given, **named)

        def executemany(self, *given: Any, **named: Any) -> None:
            at()
            super().executemany(*given, **named)

    def connected(connection: Any, _: object) -> None:
        if ledger.engine.dialect.name == "sqlite":
            connection.set_trace_callback(lambda _: at())  # each row of `executemany`, and BEGIN and COMMIT
        else:
            connection.cursor_factory = Cursor

    def committed(_: object) -> None:
        if ledger.engine.dialect.name != "sqlite":
            at()

    event.listen(ledger.engine, "connect", connected)
    event.listen(ledger.engine, "commit", committed)


class _Dies:
    """Kills this process when it is called for the nth time."""

    def __init__(self, nth: int) -> None:
        self.left = nth

    def __call__(self) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture
def night(ledger: Ledger) -> Night:
    planned = [unit(number, estimate_seconds=1.0) for number in range(MOST * UNITS)]
    return open_night(ledger, new_key(), planned, slots=1)


def asking(night: Night) -> Asking:
    return Asking(night.seat.run, "m1", night.key.id, ("e",), target_seconds=float(UNITS))


def dies_at(root: Path, url: str | None, night: Night, envelope: dict[str, Any], nth: int) -> bool:
    """Take a turn in a process that dies before its nth statement; whether it came that far."""
    if (child := os.fork()) == 0:
        try:
            ledger = open_made(root, url)
            ledger.engine.dispose()  # what opening looked at is not counted
            watch(ledger, _Dies(nth))
            turn(ledger, envelope, night.key.public, asking(night), night.seat)
            os._exit(17)  # all of it was done; the answer is lost here
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.waitstatus_to_exitcode(status) == 17
    return False


def written(night: Night, lease: str) -> dict[str, int]:
    """What the books hold of a lease's part."""
    admitted = select(func.count()).select_from(events).where(events.c.kind == "bundle.admitted")
    counts = {
        "attempts": select(func.count()).select_from(attempts).where(attempts.c.lease == lease),
        "settlements": select(func.count()).select_from(settlements).where(settlements.c.lease == lease),
        "bundles": select(func.count()).select_from(bundles).where(bundles.c.lease == lease),
        "events": admitted.where(events.c.body.contains(lease)),
        "ended": select(func.count()).select_from(leases).where(leases.c.id == lease, leases.c.state == "done"),
    }
    with night.ledger.read() as connection:
        return {name: connection.scalar(query) or 0 for name, query in counts.items()}


NOTHING = dict.fromkeys(("attempts", "settlements", "bundles", "events", "ended"), 0)
ALL = {"attempts": UNITS, "settlements": UNITS, "bundles": 1, "events": 1, "ended": 1}


def test_a_kill_before_any_statement_of_a_turn_leaves_nothing_and_the_next_try_does_it_once(
    night: Night, database_url: str | None
) -> None:
    root = night.ledger.results.parent
    lease: Any = asked(night.ledger, asking(night), night.seat)
    for nth in range(1, MOST):
        records = [finished(granted["id"]) for granted in lease["units"]]
        assert len(records) == UNITS
        part = {"protocol": 1, "lease": lease["lease"], "part": 1, "records": records}
        envelope = sign(night.key, BUNDLE_TYPE, canonical_json(part))

        died = dies_at(root, database_url, night, envelope, nth)

        found = written(night, lease["lease"])
        if not died:
            break
        # The last kill is before a statement of the reading that follows the commit.
        assert found in (NOTHING, ALL), (nth, found)
        admission = admit(night.ledger, envelope, night.key.public, seat=night.seat)
        assert admission.fresh is (found == NOTHING), nth
        night.give_back(lease["lease"])
        assert written(night, lease["lease"]) == ALL, nth
        for unheard in live(night):
            night.give_back(unheard)
        lease = asked(night.ledger, asking(night), night.seat)
    assert found == ALL, nth
    assert nth > 20, "so few statements cannot have been all of them"
    assert not admit(night.ledger, envelope, night.key.public, seat=night.seat).fresh
    assert written(night, lease["lease"]) == ALL
    cut_segments(night.ledger, everything=True)
    checked = verify_files(night.ledger)
    assert checked.findings.count == 0, checked.findings.listed


def live(night: Night) -> list[str]:
    """A lease that was granted to a process that died before it heard of it."""
    with night.ledger.read() as connection:
        return list(connection.scalars(select(leases.c.id).where(leases.c.state == "live")))
