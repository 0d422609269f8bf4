"""Admitting and settling: both orders of arrival, duplicates, latecomers, conflicts and forgeries."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, func, select, update
from sqlalchemy.exc import DBAPIError

from blocks.canonical import canonical_json
from blocks.errors import ProtocolError, TrustError
from blocks.ledger import Ledger
from blocks.ledger.schema import attempts, bundles, events, settlements
from blocks.signing import BUNDLE_TYPE, Key, load_or_make_key, sign
from tasks.collect.admit import admit
from tasks.collect.leases import end_unfinished, expire
from tasks.collect.segments import cut_segments
from tasks.publish.log.verify_files import verify_files
from tests.ledger_fixtures import database_url as database_url
from tests.ledger_fixtures import ledger as ledger
from tests.postgres import postgres as postgres
from tests.tasks.collect.conftest import Night, finished, open_night, unit


@pytest.fixture
def one(ledger: Ledger, key: Key) -> Night:
    """A night of one unit on two machines."""
    return open_night(ledger, key, [unit(1)], machines_=("m1", "m2"))


@pytest.fixture(autouse=True)
def as_the_log_says(ledger: Ledger) -> Iterator[None]:
    """Whatever order things came in, `verify` accuses nobody of it."""
    yield
    cut_segments(ledger, everything=True)
    found = verify_files(ledger).findings
    assert found.count == 0, found.listed


def expired(night: Night) -> str:
    """A lease that was granted and has expired; its unit is back in the queue."""
    lease = night.granted("m1")["lease"]
    night.overdue(lease)
    with night.ledger.write() as connection:
        expire(connection)
    return lease


def counted(night: Night) -> list[tuple[str, bool, str]]:
    return [(row.lease, row.counted, row.reason) for row in night.attempts()]


def test_a_part_is_admitted_once_however_often_it_is_sent(one: Night) -> None:
    lease = one.granted()["lease"]
    record = finished(one.planned[0].id)

    assert one.deliver(lease, 1, [record]).fresh
    assert not one.deliver(lease, 1, [record]).fresh
    assert len(one.attempts()) == 1


def test_a_second_part_with_the_same_number_and_other_content_changes_nothing_and_is_told(one: Night) -> None:
    lease = one.granted()["lease"]
    one.deliver(lease, 1, [finished(one.planned[0].id, "passed")])

    one.deliver(lease, 1, [finished(one.planned[0].id, "failed")])

    assert [row.outcome for row in one.attempts()] == ["passed"]
    with one.ledger.read() as connection:
        kinds = connection.scalars(select(events.c.kind)).all()
    assert "bundle.conflict" in kinds


def test_work_of_an_expired_lease_counts_while_nobody_else_has_the_unit(one: Night) -> None:
    lease = expired(one)

    one.deliver(lease, 1, [finished(one.planned[0].id)])

    assert counted(one) == [(lease, True, "")]
    assert one.states() == {one.planned[0].id: "ran"}


def test_late_before_the_new_holder_is_kept_and_not_counted(one: Night) -> None:
    late, fresh = expired(one), one.granted("m2")["lease"]

    one.deliver(late, 1, [finished(one.planned[0].id, "failed")])
    one.deliver(fresh, 1, [finished(one.planned[0].id, "passed")])

    assert sorted(counted(one)) == sorted([(late, False, "late"), (fresh, True, "")])


def test_late_after_the_new_holder_is_kept_as_superseded(one: Night) -> None:
    late, fresh = expired(one), one.granted("m2")["lease"]

    one.deliver(fresh, 1, [finished(one.planned[0].id, "passed")])
    one.deliver(late, 1, [finished(one.planned[0].id, "failed")])

    assert sorted(counted(one)) == sorted([(fresh, True, ""), (late, False, "superseded")])
    with one.ledger.read() as connection:
        assert connection.scalar(select(func.count()).select_from(settlements)) == 1


def test_arrival_after_lost_adds_a_superseding_row_and_edits_nothing(ledger: Ledger, key: Key) -> None:
    night = open_night(ledger, key, [unit(1)], slots=1)
    leases = []
    for _ in range(3):
        leases.append(night.granted()["lease"])
        night.give_back(leases[-1], died=True)
    assert night.states() == {night.planned[0].id: "lost"}

    night.deliver(leases[0], 1, [finished(night.planned[0].id)])

    with ledger.read() as connection:
        rows = connection.execute(select(settlements).order_by(settlements.c.ordinal)).all()
    assert [(row.ordinal, row.terminal) for row in rows] == [(1, "lost"), (2, "ran")]
    assert counted(night) == [(leases[0], True, "")]


def test_arrival_after_a_cancelled_run_supersedes_not_run(one: Night) -> None:
    lease = one.granted()["lease"]
    with one.ledger.write() as connection:
        end_unfinished(connection, one.seat.run, "cancelled")

    one.deliver(lease, 1, [finished(one.planned[0].id)])

    assert one.states() == {one.planned[0].id: "ran"}


def test_two_latecomers_after_lost_count_once(ledger: Ledger, key: Key) -> None:
    night = open_night(ledger, key, [unit(1)], slots=1)
    leases = []
    for _ in range(3):
        leases.append(night.granted()["lease"])
        night.give_back(leases[-1], died=True)

    night.deliver(leases[0], 1, [finished(night.planned[0].id, "passed")])
    night.deliver(leases[1], 1, [finished(night.planned[0].id, "failed")])

    assert [row.counted for row in night.attempts()].count(True) == 1


def test_a_unit_whose_tests_all_skipped_themselves_is_skipped(one: Night) -> None:
    lease = one.granted()["lease"]

    one.deliver(lease, 1, [finished(one.planned[0].id, "skipped", "skipped")])

    assert one.states() == {one.planned[0].id: "skipped"}


def test_a_bundle_signed_with_another_key_is_refused(one: Night, tmp_path: Any) -> None:
    lease = one.granted()["lease"]
    stranger = load_or_make_key(tmp_path / "stranger.key")
    part = {"protocol": 1, "lease": lease, "part": 1, "records": [finished(one.planned[0].id)]}
    envelope = sign(stranger, BUNDLE_TYPE, canonical_json(part))

    with pytest.raises(TrustError):
        admit(one.ledger, envelope, one.key.public, seat=one.seat)

    assert one.attempts() == []


def test_a_part_cannot_tell_of_a_unit_that_was_not_granted(ledger: Ledger, key: Key) -> None:
    night = open_night(ledger, key, [unit(n, estimate_seconds=50) for n in range(4)])
    lease = night.granted()
    other = next(u.id for u in night.planned if u.id not in {g["id"] for g in lease["units"]})

    with pytest.raises(ProtocolError, match="never granted"):
        night.deliver(lease["lease"], 1, [finished(other)])


@pytest.mark.parametrize("change", [update(attempts).values(outcome="passed"), delete(attempts), delete(events)])
def test_facts_cannot_be_changed_with_sql(one: Night, change: Any) -> None:
    lease = one.granted()["lease"]
    one.deliver(lease, 1, [finished(one.planned[0].id, "failed")])

    with pytest.raises(DBAPIError, match="facts"), one.ledger.write() as connection:
        connection.execute(change)

    assert [row.outcome for row in one.attempts()] == ["failed"]


def test_the_raw_signed_bundle_is_kept(one: Night) -> None:
    lease = one.granted()["lease"]
    one.deliver(lease, 1, [finished(one.planned[0].id)])

    with one.ledger.read() as connection:
        digest = connection.scalar(select(bundles.c.digest))

    assert one.ledger.store.has(str(digest))


def test_a_unit_that_two_parts_tell_of_is_refused_in_the_second_and_leaves_nothing(one: Night) -> None:
    lease = one.granted()["lease"]
    one.deliver(lease, 1, [finished(one.planned[0].id)])
    stored = files(one)

    with pytest.raises(ProtocolError, match="another part told of"):
        one.deliver(lease, 2, [finished(one.planned[0].id)])

    assert not one.deliver(lease, 1, [finished(one.planned[0].id)]).fresh
    assert (len(one.attempts()), files(one)) == (1, stored)


@pytest.mark.parametrize("lease", ["l-unknown", ""])
def test_a_part_of_no_lease_is_refused_before_it_is_stored(one: Night, lease: str) -> None:
    one.granted()

    with pytest.raises(ProtocolError):
        one.deliver(lease, 1, [])

    assert files(one) == []


def test_one_part_from_four_sides_at_once_is_fresh_for_one_of_them(one: Night) -> None:
    lease = one.granted()["lease"]
    part = {"protocol": 1, "lease": lease, "part": 1, "records": [finished(one.planned[0].id)]}
    envelope = sign(one.key, BUNDLE_TYPE, canonical_json(part))
    together = threading.Barrier(4)

    def deliver(_: int) -> bool:
        together.wait(30)
        return admit(one.ledger, envelope, one.key.public, seat=None).fresh

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(deliver, range(4))) == [False, False, False, True]
    assert len(one.attempts()) == 1


def files(night: Night) -> list[str]:
    """What the store holds."""
    return sorted(path.name for path in night.ledger.store.root.rglob("*") if path.is_file())


# -- units whose tests are planned ---------------------------------------------------------------------------------


def told(unit_id: str, *results: dict[str, Any], alone: list[tuple[str, dict[str, Any]]] | None = None) -> Any:
    """A record with these results in company, and then the tries alone: (test, result)."""
    record = finished(unit_id, attempts=1 + len(alone or []))
    record["attempts"][0]["results"] = list(results)
    for attempt, (test, result) in zip(record["attempts"][1:], alone or [], strict=True):
        attempt.update(mode="alone", test=test, results=[result])
    return record


def case(name: str, outcome: str = "passed", *, file: str = "test_api", cls: str = "A") -> dict[str, Any]:
    return {"file": file, "cls": cls, "name": name, "outcome": outcome, "seconds": 0.1}


@pytest.fixture
def planned(ledger: Ledger, key: Key) -> tuple[Night, str, str]:
    """A night of one unit that plans A.x (a gtest) and test_y.py::C::y[a::b], its lease, and the unit's id."""
    night = open_night(ledger, key, [unit(1, tests=("A.x", "test_y.py::C::y[a::b]"))])
    return night, night.granted()["lease"], night.planned[0].id


def test_results_of_planned_tests_are_admitted_however_the_plan_spells_them(planned: tuple[Night, str, str]) -> None:
    night, lease, unit_id = planned
    tests = [case("x", "failed"), case("y[a::b]", "failed", file="test_y.py", cls="C")]

    night.deliver(lease, 1, [told(unit_id, *tests, alone=[("A.x", tests[0]), ("test_y.py::C::y[a::b]", tests[1])])])

    assert len(night.attempts()) == 3


STRANGE: list[Callable[[str], Any]] = [
    lambda unit_id: told(unit_id, case("x"), case("z")),
    lambda unit_id: told(unit_id, case("x", cls="B")),
    lambda unit_id: told(unit_id, case("x"), alone=[("A.z", case("z"))]),
    lambda unit_id: told(unit_id, case("x"), alone=[("A.x", case("y[a::b]", file="test_y.py", cls="C"))]),
]


@pytest.mark.parametrize("strange", STRANGE)
def test_a_unit_cannot_speak_for_tests_that_it_does_not_plan(
    planned: tuple[Night, str, str], strange: Callable[[str], Any]
) -> None:
    night, lease, unit_id = planned

    with pytest.raises(ProtocolError, match=r"plan|tried alone"):
        night.deliver(lease, 1, [strange(unit_id)])

    assert (night.attempts(), files(night)) == ([], [])


def test_only_the_agent_that_was_granted_the_lease_may_speak_for_it(one: Night, tmp_path: Path) -> None:
    lease = one.granted()["lease"]
    stranger = load_or_make_key(tmp_path / "stranger.key")

    with pytest.raises(TrustError, match=f"signed by {stranger.id}.* granted to {one.key.id}"):
        dataclasses.replace(one, key=stranger).deliver(lease, 1, [finished(one.planned[0].id)])

    assert one.attempts() == []
    assert one.deliver(lease, 1, [finished(one.planned[0].id)]).fresh


def test_a_time_that_is_an_integer_beyond_what_a_database_holds_is_a_number_like_any_other(one: Night) -> None:
    lease = one.granted()["lease"]
    record = finished(one.planned[0].id)
    record["attempts"][0]["seconds"] = 2**63

    assert one.deliver(lease, 1, [record]).fresh
    assert [row.seconds for row in one.attempts()] == [float(2**63)]
