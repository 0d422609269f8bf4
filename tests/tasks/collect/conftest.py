"""A ledger with an open run, and a machine's side of the protocol reduced to what admission sees."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert, select, update

from blocks.canonical import canonical_json
from blocks.lease import PROTOCOL, Grant
from blocks.ledger import Ledger, now, open_ledger
from blocks.ledger.schema import attempts, machines, plan_units, plans, runs, settlements, units
from blocks.plan import Unit
from blocks.signing import BUNDLE_TYPE, Key, load_or_make_key, sign
from blocks.store import Store
from tasks.collect.admit import Admission, admit
from tasks.collect.driver import Seat, open_run, set_state
from tasks.collect.grant import Asking
from tasks.collect.leases import give_back
from tasks.collect.turn import asked


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = open_ledger(f"sqlite:///{tmp_path}/ledger.db", tmp_path / "results", Store(tmp_path / "store"))
    yield opened
    opened.close()


@pytest.fixture
def key(tmp_path: Path) -> Key:
    return load_or_make_key(tmp_path / "agent.key")


def unit(number: int, **values: Any) -> Unit:
    """A unit that stands for some work; the number makes it its own."""
    return Unit(suite="s", environment="e", name=f"unit-{number:05}", kind="command", spec={"argv": ["true"]}, **values)


@dataclass
class Night:
    """A run that is under way, seen from the desk."""

    ledger: Ledger
    key: Key
    seat: Seat
    planned: list[Unit] = field(default_factory=list)

    def ask(self, machine: str = "m1", target_seconds: float = 30.0) -> Any:
        return asked(self.ledger, Asking(self.seat.run, machine, self.key.id, ("e",), target_seconds), self.seat)

    def granted(self, machine: str = "m1", target_seconds: float = 30.0) -> Grant:
        answer = self.ask(machine, target_seconds)
        assert "lease" in answer, answer
        return answer

    def give_back(self, lease: str, **values: Any) -> int:
        with self.ledger.write() as connection:
            return give_back(connection, lease, **values)

    def deliver(self, lease: str, number: int, records: list[dict[str, Any]], seat: Seat | None = None) -> Admission:
        part = {"protocol": PROTOCOL, "lease": lease, "part": number, "records": records}
        envelope = sign(self.key, BUNDLE_TYPE, canonical_json(part))
        return admit(self.ledger, envelope, self.key.public, seat=seat or self.seat)

    def states(self) -> dict[str, str]:
        """unit -> its latest terminal state, `open` where it has none."""
        with self.ledger.read() as connection:
            rows = connection.execute(
                select(settlements.c.unit, settlements.c.terminal).order_by(settlements.c.ordinal)
            ).all()
        return {unit.id: "open" for unit in self.planned} | {row[0]: row[1] for row in rows}

    def attempts(self) -> list[Any]:
        with self.ledger.read() as connection:
            return list(connection.execute(select(attempts).order_by(attempts.c.unit, attempts.c.lease)).all())

    def overdue(self, lease: str) -> None:
        """Let the lease's deadline pass, by moving it into the past."""
        from blocks.ledger.schema import leases

        with self.ledger.write() as connection:
            connection.execute(update(leases).where(leases.c.id == lease).values(deadline=now() - 1))


def finished(unit_id: str, *outcomes: str, attempts: int = 1) -> dict[str, Any]:
    """A spool record of a unit whose tests ended with `outcomes`."""
    results = [
        {"file": "f", "cls": "", "name": f"t{index}", "outcome": outcome, "seconds": 0.1}
        for index, outcome in enumerate(outcomes or ("passed",))
    ]
    worst = next((o for o in outcomes if o not in ("passed", "skipped")), (outcomes or ("passed",))[0])
    attempt = {
        "mode": "company", "test": None, "started": 1.0, "seconds": 0.5, "outcome": worst,
        "results": results, "metrics": [], "processes": [], "output": "", "output_bytes": 0,
        "isolation": "none", "peak_memory_bytes": None, "survivors": 0, "note": "",
    }  # fmt: skip
    return {"unit": unit_id, "seq": 1, "attempts": [{**attempt, "ordinal": n + 1} for n in range(attempts)]}


def open_night(
    ledger: Ledger, key: Key, planned: list[Unit], slots: int = 2, machines_: tuple[str, ...] = ("m1",)
) -> Night:
    seat = open_run(ledger, "nightly", {})
    plan = f"plan-{seat.run}"
    with ledger.write() as connection:
        connection.execute(insert(plans).values(id=plan, created=now(), document="{}"))
        body = [
            {"plan": plan, "unit": u.id, "suite": u.suite, "environment": u.environment, "name": u.name,
             "body": canonical_json(u.to_json()).decode()}
            for u in planned
        ]  # fmt: skip
        connection.execute(insert(plan_units), body)
        rows = [
            {"run": seat.run, "unit": u.id, "position": index, "suite": u.suite, "environment": u.environment,
             "name": u.name, "exclusive": u.exclusive, "cpus": u.cpus, "devices": u.devices, "tests": len(u.tests),
             "estimate_seconds": u.estimate_seconds, "state": "pending"}
            for index, u in enumerate(planned)
        ]  # fmt: skip
        connection.execute(insert(units), rows)
        connection.execute(update(runs).where(runs.c.id == seat.run).values(plan=plan))
        for machine in machines_:
            known = connection.scalar(select(machines.c.id).where(machines.c.id == machine))
            if known is None:
                connection.execute(
                    insert(machines).values(
                        id=machine,
                        pool="local",
                        vendor="foundation",
                        state="ready",
                        slots=slots,
                        fingerprint="{}",
                        created=now(),
                        updated=now(),
                    )
                )
    set_state(ledger, seat, "running", when="planning")
    return Night(ledger, key, seat, planned)
