"""The plan in the ledger, on real SQLite."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection, func, insert, select

from blocks.errors import LedgerError
from blocks.ledger.database import Ledger, open_ledger
from blocks.ledger.schema import attempts, events, now, plan_units, plans, runs, units
from blocks.plan import Environment, Plan, Skip, Unit, longest_first, unit_from_json, with_estimate
from blocks.store import Store
from tasks.plan.estimates import measured
from tasks.plan.summary import plan_summary
from tasks.plan.write import Planned, estimated_seconds, planned, write_plan


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = open_ledger(f"sqlite:///{tmp_path}/ledger.db", tmp_path / "results", Store(tmp_path / "store"))
    yield opened
    opened.close()


def new_run(connection: Connection, name: str) -> str:
    connection.execute(
        insert(runs).values(id=name, flow="nightly", created=now(), state="planning", request="{}", epoch=1)
    )
    return name


def made_plan(count: int = 5) -> Plan:
    made = [
        Unit("s", "cpu", f"u{i}", "gtest", {"binary": f"b{i}"}, (f"A.t{i}", "A.same"), estimate_seconds=i % 97)
        for i in range(count)
    ]
    command = Unit("c", "cpu", "cmd", "command", {"argv": ["true"]}, exclusive=True, estimate_seconds=9999)
    skips = (Skip("s", "cpu", "protoc", "no test"),)
    return Plan((Environment("cpu", "b", "sha256:0"),), longest_first([*made, command]), skips, {"s": "sha256:1"})


def test_what_is_written_is_what_is_read(ledger: Ledger) -> None:
    plan = made_plan()
    with ledger.write() as connection:
        write_plan(connection, new_run(connection, "r1"), plan)
    with ledger.read() as connection:
        assert connection.scalar(select(runs.c.plan)) == plan.id
        document = json.loads(connection.scalar(select(plans.c.document).where(plans.c.id == plan.id)) or "")
        bodies = list(connection.scalars(select(plan_units.c.body).where(plan_units.c.plan == plan.id)))
    again = Plan(
        tuple(Environment(**body) for body in document["environments"]),
        tuple(unit_from_json(json.loads(body)) for body in bodies),
        tuple(Skip(**body) for body in document["left_out"]),
        document["sources"],
    )
    assert again.id == plan.id
    assert sorted(again.units, key=lambda unit: unit.id) == sorted(plan.units, key=lambda unit: unit.id)
    assert again.left_out == plan.left_out
    assert again.sources == plan.sources


def test_a_driver_reads_what_it_has_to_know_and_no_unit(ledger: Ledger) -> None:
    plan = made_plan()
    with ledger.write() as connection:
        assert planned(connection, new_run(connection, "r1")) is None
        write_plan(connection, "r1", plan)
        known = planned(connection, "r1")
    seconds = sum(unit.estimate_seconds for unit in plan.units)
    assert known == Planned(plan.id, plan.environments, plan.sources, len(plan.units), pytest.approx(seconds))


def test_the_estimate_of_some_units_is_that_of_this_run(ledger: Ledger) -> None:
    plan = made_plan()
    doubled = Plan(
        plan.environments,
        tuple(with_estimate(unit, 2 * unit.estimate_seconds) for unit in plan.units),
        plan.left_out,
        plan.sources,
    )
    some = [unit.id for unit in plan.units if unit.name in ("u2", "u3")]
    with ledger.write() as connection:
        write_plan(connection, new_run(connection, "r1"), plan)
        write_plan(connection, new_run(connection, "r2"), doubled)
        assert estimated_seconds(connection, "r1", some) == 5
        assert estimated_seconds(connection, "r2", some) == 10
        assert estimated_seconds(connection, "r1", []) == 0


def test_the_runs_units_stand_in_dispatch_order_and_wait(ledger: Ledger) -> None:
    plan = made_plan()
    with ledger.write() as connection:
        write_plan(connection, new_run(connection, "r1"), plan)
    with ledger.read() as connection:
        rows = connection.execute(select(units).order_by(units.c.position)).all()
    assert [(row.position, row.unit) for row in rows] == [(i, unit.id) for i, unit in enumerate(plan.units)]
    assert rows[-1].name == "cmd"
    assert rows[-1].exclusive
    assert rows[-1].tests == 1
    assert {row.state for row in rows} == {"pending"}
    assert {row.tests for row in rows[:-1]} == {2}


def test_an_event_tells_it_in_the_same_transaction(ledger: Ledger) -> None:
    plan = made_plan()
    with ledger.write() as connection:
        write_plan(connection, new_run(connection, "r1"), plan)
    with ledger.read() as connection:
        (event,) = connection.execute(select(events).where(events.c.kind == "plan.written")).all()
    body = json.loads(event.body)["body"]
    assert body == {"plan": plan.id, "environments": 1, "units": 6, "tests": 11, "left_out": 1}


def test_a_failure_leaves_nothing_behind(ledger: Ledger) -> None:
    def interrupted() -> None:
        with ledger.write() as connection:
            write_plan(connection, new_run(connection, "r1"), made_plan())
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        interrupted()
    with ledger.read() as connection:
        for table in (plans, plan_units, units, events):
            assert connection.scalar(select(func.count()).select_from(table)) == 0


def test_the_same_plan_is_kept_once_whatever_was_estimated(ledger: Ledger) -> None:
    plan = made_plan()
    guessed = Plan(
        plan.environments,
        longest_first(with_estimate(unit, 100 - unit.estimate_seconds) for unit in plan.units),
        plan.left_out,
        plan.sources,
    )
    with ledger.write() as connection:
        write_plan(connection, new_run(connection, "r1"), plan)
        write_plan(connection, new_run(connection, "r2"), guessed)
        write_plan(connection, "r2", guessed)
        assert connection.scalar(select(func.count()).select_from(plans)) == 1
        assert connection.scalar(select(func.count()).select_from(plan_units)) == 6
        order = [
            list(connection.scalars(select(units.c.unit).where(units.c.run == run).order_by(units.c.position)))
            for run in ("r1", "r2")
        ]
    assert order[0] != order[1]
    assert sorted(order[0]) == sorted(order[1])


def test_a_run_keeps_its_plan_and_must_exist(ledger: Ledger) -> None:
    with ledger.write() as connection:
        write_plan(connection, new_run(connection, "r1"), made_plan(3))
        with pytest.raises(LedgerError, match="a run keeps its plan"):
            write_plan(connection, "r1", made_plan(4))
        with pytest.raises(LedgerError, match="no run r9"):
            write_plan(connection, "r9", made_plan(4))


def test_a_hundred_thousand_units_take_seconds(ledger: Ledger) -> None:
    plan = made_plan(100_000)
    started = time.process_time()
    with ledger.write() as connection:
        write_plan(connection, new_run(connection, "r1"), plan)
    seconds = time.process_time() - started
    with ledger.read() as connection:
        assert connection.scalar(select(func.count()).select_from(units)) == 100_001
    assert seconds < 60  # of processor time; some seconds in fact


def test_the_summary_adds_up() -> None:
    summary = plan_summary(made_plan())
    assert summary["units"] == 6
    assert sum(suite["units"] for suite in summary["suites"]) == summary["units"]
    assert sum(suite["tests"] for suite in summary["suites"]) == summary["tests"] == 11
    assert sum(suite["left_out"] for suite in summary["suites"]) == summary["left_out"] == 1
    assert summary["omissions"] == [{"suite": "s", "environment": "cpu", "name": "protoc", "reason": "no test"}]
    assert json.loads(json.dumps(summary)) == summary


def attempt(connection: Connection, run: str, unit: Unit, seconds: float, started: float, **changes: object) -> None:
    values: dict[str, object] = {
        "id": f"{run}-{unit.name}-{started}", "run": run, "unit": unit.id, "lease": f"l{started}", "part": 1,
        "ordinal": 1, "mode": "company", "outcome": "passed", "started": started, "seconds": seconds, "machine": "m",
        "slot": 0, "isolation": "none", "counted": True, "reason": "", "detail": "{}",
    }  # fmt: skip
    connection.execute(insert(attempts).values({**values, **changes}))


def test_estimates_are_the_mean_of_the_last_five_counted_attempts_in_company(ledger: Ledger) -> None:
    plan = made_plan()
    unit = next(unit for unit in plan.units if unit.name == "u1")
    with ledger.write() as connection:
        write_plan(connection, new_run(connection, "r1"), plan)
        for started, seconds in enumerate((1000, 10, 20, 30, 40, 50), start=1):
            attempt(connection, "r1", unit, seconds, started)
        attempt(connection, "r1", unit, 5000, 7, counted=False, reason="late")
        attempt(connection, "r1", unit, 5000, 8, mode="alone", test="A.same")
        known = measured(connection)
    assert known.seconds("s", "cpu", "u1", 2) == 30
    assert known.seconds("s", "cpu", "u2", 2) is None
    assert known.seconds("s", "other", "u1", 2) is None


def test_a_piece_that_is_new_is_estimated_from_its_file(ledger: Ledger) -> None:
    made = [Unit("s", "cpu", f"f [{i}/2]", "gtest", {"binary": "f"}, (f"A.{i}", f"B.{i}")) for i in (1, 2)]
    with ledger.write() as connection:
        write_plan(connection, new_run(connection, "r1"), Plan((), tuple(made)))
        attempt(connection, "r1", made[0], 6, 1)
        attempt(connection, "r1", made[1], 2, 2)
        known = measured(connection)
    assert known.seconds("s", "cpu", "f [1/2]", 2) == 6
    assert known.seconds("s", "cpu", "f [3/3]", 5) == 10
    assert known.seconds("s", "cpu", "f", 4) == 8
