"""The plan in the ledger: written before anything runs, all of it or nothing."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import Connection, Table, func, insert, select, update

from blocks.canonical import canonical_json
from blocks.errors import LedgerError
from blocks.ledger.events import record
from blocks.ledger.schema import now, plan_units, plans, runs, units
from blocks.plan import Environment, Plan, Unit

BATCH = 1000


@dataclass(frozen=True)
class Planned:
    """A written plan without its units and omissions: what a driver has to know of it."""

    id: str
    environments: tuple[Environment, ...]
    sources: Mapping[str, str]
    """suite -> digest of the suite's own files"""
    units: int
    estimate_seconds: float


def write_plan(connection: Connection, run_id: str, plan: Plan) -> None:
    """Write `plan` (once, whoever makes it again), the run's units in dispatch order, and the event `plan.written`.

    Runs in the caller's transaction. Writing the same plan for the same run again changes nothing. Raises LedgerError
    when the run is unknown or has another plan.
    """
    plan_id = plan.id
    if _already(connection, run_id, plan_id):
        return
    known = connection.scalar(select(plans.c.id).where(plans.c.id == plan_id)) is not None
    if not known:
        document = canonical_json(plan_document(plan)).decode()
        connection.execute(insert(plans).values(id=plan_id, created=now(), document=document))
    for batch in _batches(plan):
        bodies = [(position, unit, unit.to_json()) for position, unit in batch]
        if not known:
            _insert(connection, plan_units, [_planned(plan_id, unit, body) for _, unit, body in bodies])
        _insert(connection, units, [_queued(run_id, position, unit, body["id"]) for position, unit, body in bodies])
    connection.execute(update(runs).where(runs.c.id == run_id).values(plan=plan_id))
    record(connection, "plan.written", run=run_id, plan=plan_id, **counts(plan))


def planned(connection: Connection, run_id: str) -> Planned | None:
    """What a run has planned; None when it had not come so far."""
    query = select(plans.c.id, plans.c.document).join(runs, runs.c.plan == plans.c.id).where(runs.c.id == run_id)
    row = connection.execute(query).first()
    if row is None:
        return None
    document = json.loads(row.document)
    sums = select(func.count(), func.sum(units.c.estimate_seconds)).where(units.c.run == run_id)
    count, seconds = connection.execute(sums).one()
    environments = tuple(Environment(**body) for body in document["environments"])
    return Planned(row.id, environments, document["sources"], count, seconds)


def estimated_seconds(connection: Connection, run_id: str, chosen: Collection[str]) -> float:
    """What these units of the run were expected to take."""
    some = select(func.sum(units.c.estimate_seconds)).where(units.c.run == run_id, units.c.unit.in_(chosen))
    return float(connection.scalar(some) or 0.0)


def settled(connection: Connection, run_id: str) -> tuple[int, float]:
    """How many units of the run have their terminal state, and what they were expected to take."""
    there = select(func.count(), func.sum(units.c.estimate_seconds))
    count, seconds = connection.execute(there.where(units.c.run == run_id, units.c.state == "terminal")).one()
    return int(count), float(seconds or 0.0)


def plan_document(plan: Plan) -> dict[str, Any]:
    """All of the plan but its units, which have rows of their own."""
    return {
        "environments": [asdict(environment) for environment in plan.environments],
        "left_out": [asdict(skip) for skip in plan.left_out],
        "sources": dict(plan.sources),
        # Said here so that a run's accounts need not count 100,000 rows each time that somebody looks.
        "planned": [
            {"suite": suite, "environment": environment, "units": number}
            for (suite, environment), number in sorted(
                Counter((unit.suite, unit.environment) for unit in plan.units).items()
            )
        ],
    }


def counts(plan: Plan) -> dict[str, int]:
    """How much there is of everything."""
    return {
        "environments": len(plan.environments),
        "units": len(plan.units),
        "tests": sum(expected_results(unit) for unit in plan.units),
        "left_out": len(plan.left_out),
    }


def expected_results(unit: Unit) -> int:
    """How many results a unit gives at least: its tests, or one where nothing can be listed beforehand."""
    return max(1, len(unit.tests))


def _already(connection: Connection, run_id: str, plan_id: str) -> bool:
    row = connection.execute(select(runs.c.plan).where(runs.c.id == run_id)).first()
    if row is None:
        raise LedgerError(f"The ledger has no run {run_id}.", do="Look at `commonfleet runs`.")
    if row.plan not in (None, plan_id):
        raise LedgerError(
            f"The run {run_id} already has the plan {row.plan}, and a run keeps its plan.",
            kept="Nothing was changed.",
            do="Resume the run, or start a new one.",
        )
    return row.plan is not None


def _batches(plan: Plan) -> Iterator[list[tuple[int, Unit]]]:
    numbered = enumerate(plan.units)
    while batch := list(itertools.islice(numbered, BATCH)):
        yield batch


def _insert(connection: Connection, table: Table, rows: list[dict[str, Any]]) -> None:
    connection.execute(insert(table), rows)


def _planned(plan_id: str, unit: Unit, body: dict[str, Any]) -> dict[str, Any]:
    return {
        "plan": plan_id,
        "unit": body["id"],
        "suite": unit.suite,
        "environment": unit.environment,
        "name": unit.name,
        "body": canonical_json(body).decode(),
    }


def _queued(run_id: str, position: int, unit: Unit, identity: str) -> dict[str, Any]:
    return {
        "run": run_id,
        "unit": identity,
        "position": position,
        "suite": unit.suite,
        "environment": unit.environment,
        "name": unit.name,
        "exclusive": unit.exclusive,
        "cpus": unit.cpus,
        "devices": unit.devices,
        "tests": expected_results(unit),
        "estimate_seconds": unit.estimate_seconds,
        "state": "pending",
        "epoch": 0,
        "deaths": 0,
    }
