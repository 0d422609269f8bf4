"""What the desk promises to slots: who gets which units, and what becomes of a lease that ends."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select, update

from blocks.errors import ProtocolError
from blocks.ledger import Ledger, now
from blocks.ledger.schema import leases, runs, units
from blocks.signing import Key
from tasks.collect.grant import batch
from tasks.collect.leases import end_unfinished, expire, renew
from tests.ledger_fixtures import database_url as database_url
from tests.ledger_fixtures import ledger as ledger
from tests.postgres import postgres as postgres
from tests.tasks.collect.conftest import Night, finished, open_night, unit


@pytest.fixture
def night(ledger: Ledger, key: Key) -> Night:
    return open_night(ledger, key, [unit(n, estimate_seconds=5.0) for n in range(20)])


def test_each_unit_is_granted_to_one_slot_at_a_time(night: Night) -> None:
    first, second = night.granted(), night.granted()

    ids = [u["id"] for u in first["units"] + second["units"]]

    assert len(ids) == len(set(ids))
    assert first["slot"] != second["slot"]


def test_a_machine_with_all_slots_taken_says_wait_and_not_dry(night: Night) -> None:
    night.granted()
    night.granted()

    assert night.ask() == {"seconds": 0.5, "dry": False, "why": "all slots of the machine are taken"}


def test_a_lease_that_expires_gives_its_units_back(night: Night) -> None:
    lease = night.granted()
    night.overdue(lease["lease"])

    with night.ledger.write() as connection:
        assert expire(connection) == [lease["lease"]]
    again = night.granted()

    assert [u["id"] for u in again["units"]] == [u["id"] for u in lease["units"]]


def test_an_expired_lease_cannot_be_renewed(night: Night) -> None:
    lease = night.granted()["lease"]
    night.overdue(lease)

    with night.ledger.write() as connection, pytest.raises(ProtocolError, match="not live"):
        renew(connection, lease)


def test_a_renewed_lease_does_not_expire(night: Night) -> None:
    lease = night.granted()["lease"]
    night.overdue(lease)
    with night.ledger.write() as connection:
        # The clock is the database's: moving the deadline forward again is what a renewal in time amounts to.
        connection.execute(update(leases).where(leases.c.id == lease).values(deadline=now() + 1))
        renew(connection, lease)
        assert expire(connection) == []


def test_two_runs_share_the_slots_of_a_machine(ledger: Ledger, key: Key) -> None:
    one = open_night(ledger, key, [unit(n) for n in range(5)])
    two = open_night(ledger, key, [unit(n) for n in range(5)])

    slots = {one.granted()["slot"], two.granted()["slot"]}

    assert slots == {0, 1}
    assert "dry" in one.ask()
    assert "dry" in two.ask()


def test_a_unit_that_needs_the_machine_alone_waits_until_it_is_idle_and_then_has_it(ledger: Ledger, key: Key) -> None:
    shared, alone = unit(1, estimate_seconds=2.0), unit(2, exclusive=True)
    night = open_night(ledger, key, [shared, alone])
    first = night.granted()
    assert [u["id"] for u in first["units"]] == [shared.id]

    assert night.ask() == {"seconds": 0.2, "dry": False, "why": "the next unit wants the machine to itself"}
    night.deliver(first["lease"], 1, [finished(shared.id)])
    night.give_back(first["lease"])
    second = night.granted()

    assert [u["id"] for u in second["units"]] == [alone.id]
    assert "dry" in night.ask()


def test_while_a_machine_is_wanted_alone_other_runs_get_nothing_new_on_it(ledger: Ledger, key: Key) -> None:
    busy = open_night(ledger, key, [unit(n, estimate_seconds=100) for n in range(4)])
    wanting = open_night(ledger, key, [unit(9, exclusive=True)])
    held = busy.granted()

    assert wanting.ask()["dry"] is False
    assert busy.ask() == {"seconds": 0.5, "dry": False, "why": "another run waits to have the machine to itself"}
    busy.deliver(held["lease"], 1, [finished(u["id"]) for u in held["units"]])
    busy.give_back(held["lease"])

    assert "lease" in wanting.ask()


def test_a_unit_in_hand_when_two_leases_died_is_tried_alone_and_then_lost(ledger: Ledger, key: Key) -> None:
    poison, good = unit(1, estimate_seconds=3), unit(2, estimate_seconds=3)
    night = open_night(ledger, key, [poison, good], slots=1)
    for _ in range(2):
        lease = night.granted(target_seconds=1000)
        night.give_back(lease["lease"], died=True, in_hand=poison.id)

    alone = night.granted(target_seconds=1000)
    assert [u["id"] for u in alone["units"]] == [poison.id]
    night.give_back(alone["lease"], died=True, in_hand=poison.id)

    assert night.states() == {poison.id: "lost", good.id: "open"}


def test_units_of_a_machine_that_has_gone_come_back_to_the_others(ledger: Ledger, key: Key) -> None:
    night = open_night(ledger, key, [unit(1)], machines_=("m1", "m2"))
    gone = night.granted("m1")
    assert night.ask("m2")["dry"] is False
    night.overdue(gone["lease"])

    assert night.ask("m2")["seconds"] == 0.0
    assert [u["id"] for u in night.granted("m2")["units"]] == [night.planned[0].id]


def test_an_outage_of_the_driver_is_no_unit_s_death(ledger: Ledger, key: Key) -> None:
    night = open_night(ledger, key, [unit(1)], slots=1)
    for heartbeat_age, deaths in ((600, 0), (0, 1)):
        lease = night.granted()["lease"]
        night.overdue(lease)
        with ledger.write() as connection:
            connection.execute(update(runs).values(heartbeat=now() - heartbeat_age))
            expire(connection)
        with ledger.read() as connection:
            assert connection.scalar(select(units.c.deaths)) == deaths


def test_a_lease_that_ends_twice_gives_back_once(night: Night) -> None:
    lease = night.granted()

    assert night.give_back(lease["lease"]) == len(lease["units"])
    assert night.give_back(lease["lease"]) == 0


def test_a_cancelled_run_leaves_every_unit_in_a_terminal_state(night: Night) -> None:
    night.granted()

    with night.ledger.write() as connection:
        assert end_unfinished(connection, night.seat.run, "cancelled") == 20

    assert set(night.states().values()) == {"not_run"}


def test_the_queue_is_dry_only_when_nothing_can_come_back(ledger: Ledger, key: Key) -> None:
    night = open_night(ledger, key, [unit(1)])
    lease = night.granted()

    assert night.ask()["dry"] is False
    night.deliver(lease["lease"], 1, [finished(u["id"]) for u in lease["units"]])
    night.give_back(lease["lease"])

    assert night.ask()["dry"] is True


class Queued:
    """A row of the queue, as `batch` reads it."""

    def __init__(self, seconds: float, deaths: int = 0) -> None:
        self.estimate_seconds = seconds
        self.deaths = deaths


@given(st.lists(st.floats(0, 100), min_size=1, max_size=50), st.floats(1, 100))
def test_batches_are_the_head_of_the_queue_never_empty_and_no_longer_than_asked(
    seconds: list[float], limit: float
) -> None:
    queue = [Queued(s) for s in sorted(seconds, reverse=True)]

    chosen = batch(queue, limit)

    assert chosen == queue[: len(chosen)]
    assert chosen
    assert len(chosen) == 1 or sum(q.estimate_seconds for q in chosen) <= limit + 1e-6
