"""A slot's turn: the last part in, the lease over and the next one granted, all of it or nothing."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from sqlalchemy import select, update

from blocks.canonical import canonical_json
from blocks.errors import ProtocolError, StaleDriver
from blocks.lease import PROTOCOL
from blocks.ledger import Ledger
from blocks.ledger.schema import events, leases, runs
from blocks.signing import BUNDLE_TYPE, Key, sign
from tasks.collect import grant
from tasks.collect.driver import set_state
from tasks.collect.grant import Asking
from tasks.collect.turn import turn
from tests.ledger_fixtures import database_url as database_url
from tests.ledger_fixtures import ledger as ledger
from tests.postgres import postgres as postgres
from tests.tasks.collect.conftest import Night, finished, open_night, unit


@pytest.fixture
def two(ledger: Ledger, key: Key) -> Night:
    """A night of two units, granted one by one, on one slot."""
    return open_night(ledger, key, [unit(1, estimate_seconds=60.0), unit(2, estimate_seconds=60.0)], slots=1)


def taken(night: Night, lease: str, *records: dict[str, Any], number: int = 1) -> Any:
    part = {"protocol": PROTOCOL, "lease": lease, "part": number, "records": list(records)}
    asking = Asking(night.seat.run, "m1", night.key.id, ("e",), 30.0)
    return turn(night.ledger, sign(night.key, BUNDLE_TYPE, canonical_json(part)), night.key.public, asking, night.seat)


def lease_states(night: Night) -> dict[str, str]:
    with night.ledger.read() as connection:
        return {row.id: row.state for row in connection.execute(select(leases.c.id, leases.c.state))}


def test_the_last_part_comes_in_and_the_next_lease_goes_out(two: Night) -> None:
    first = two.granted()

    admission, second = taken(two, first["lease"], finished(first["units"][0]["id"]))

    assert admission.settled == (first["units"][0]["id"],)
    assert [one["id"] for one in second["units"]] == [two.planned[1].id]
    assert lease_states(two) == {first["lease"]: "done", second["lease"]: "live"}
    with two.ledger.read() as connection:
        kinds = connection.scalars(select(events.c.kind).order_by(events.c.seq)).all()
    assert kinds[-3:] == ["bundle.admitted", "lease.done", "lease.granted"]


def test_the_last_turn_says_that_the_queue_is_dry(two: Night) -> None:
    first = two.granted()
    _, second = taken(two, first["lease"], finished(first["units"][0]["id"]))

    _, answer = taken(two, second["lease"], finished(second["units"][0]["id"]))

    assert answer["dry"]
    assert set(two.states().values()) == {"ran"}


def test_units_that_the_runner_did_not_get_to_go_back(ledger: Ledger, key: Key) -> None:
    night = open_night(ledger, key, [unit(number, estimate_seconds=0.1) for number in range(3)], slots=1)
    first = night.granted()
    assert len(first["units"]) == 3

    _, second = taken(night, first["lease"], finished(first["units"][0]["id"]))

    assert lease_states(night)[first["lease"]] == "given_back"
    assert {one["id"] for one in second["units"]} == {one["id"] for one in first["units"][1:]}


def test_a_run_that_is_being_stopped_gives_out_nothing_more(two: Night) -> None:
    first = two.granted()
    assert set_state(two.ledger, two.seat, "cancelling", when="running")

    admission, answer = taken(two, first["lease"], finished(first["units"][0]["id"]))

    assert admission.fresh
    assert answer["dry"]
    assert lease_states(two) == {first["lease"]: "done"}


def test_a_turn_whose_answer_was_lost_is_taken_again_and_tells_nothing_twice(two: Night) -> None:
    first = two.granted()
    record = finished(first["units"][0]["id"])
    _, unheard = taken(two, first["lease"], record)

    again, answer = taken(two, first["lease"], record)

    assert not again.fresh
    assert "dry" in answer  # the slot is held by the lease that its machine has never heard of
    two.give_back(unheard["lease"])  # as the next adoption does
    assert two.granted()["units"][0]["id"] == two.planned[1].id
    assert len(two.attempts()) == 1


@pytest.mark.parametrize("fault", ["stale driver", "part that was never granted"])
def test_a_turn_that_is_refused_has_changed_nothing(two: Night, fault: str) -> None:
    first = two.granted()
    told = finished(first["units"][0]["id"])
    if fault == "stale driver":
        with two.ledger.write() as connection:
            connection.execute(update(runs).values(epoch=two.seat.epoch + 1))
    else:
        told = finished(two.planned[1].id)

    with pytest.raises((StaleDriver, ProtocolError)):
        taken(two, first["lease"], told)

    assert lease_states(two) == {first["lease"]: "live"}
    assert two.attempts() == []


def test_runs_that_share_a_machine_do_not_wait_for_each_other_for_ever(
    ledger: Ledger, key: Key, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One run's turn and another's grant, which ends the first one's overdue lease, want the same two rows."""
    ours = open_night(ledger, key, [unit(1, estimate_seconds=60.0), unit(2, estimate_seconds=60.0)], slots=3)
    theirs = open_night(ledger, key, [unit(3, estimate_seconds=60.0), unit(4, estimate_seconds=60.0)], slots=3)
    lease = theirs.granted()
    theirs.overdue(lease["lease"])
    turning, look = threading.Event(), grant._look

    def slow(connection: Any, machine: str) -> Any:
        if threading.current_thread().name == "turn":
            turning.set()  # it holds what a turn holds before it grants
            time.sleep(0.5)
        return look(connection, machine)

    monkeypatch.setattr(grant, "_look", slow)
    ended: dict[str, Any] = {}

    def run(name: str, act: Any) -> None:
        try:
            ended[name] = act()
        except Exception as error:  # noqa: BLE001 - whatever it is, it is what the test looks at
            ended[name] = error

    turner = threading.Thread(
        target=run, name="turn", args=("turn", lambda: taken(theirs, lease["lease"], finished(lease["units"][0]["id"])))
    )
    turner.start()
    assert turning.wait(20)
    run("ask", ours.ask)
    turner.join(60)

    assert not [error for error in ended.values() if isinstance(error, Exception)], ended
