"""A ledger filled the way admission fills it: real plans, parts that are signed with a real key, rows as SQL has them.

    made = make_run(ledger, [made_unit("test_api", [Case("A.passes"), Case("A.fails", "failed", alone="passed")])])

Nothing here is shared with the code under test except the shapes of `blocks` (plan, lease, signing, store, schema).
"""

from __future__ import annotations

import gzip
import itertools
import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import Connection, insert, select

from blocks.canonical import canonical_json, digest_bytes
from blocks.lease import PROTOCOL, AttemptRecord, Metric, Outcome, Part, Result, UnitRecord, worst
from blocks.ledger import Ledger, open_ledger, record
from blocks.ledger import schema as s
from blocks.ledger.results import attempt_id
from blocks.ledger.roots import root_of_part
from blocks.plan import Environment, Plan, Skip, Unit
from blocks.signing import BUNDLE_TYPE, Key, sign
from blocks.store import Store

BASE_TIME = 1_790_000_000.0
"""When the first made run was created, seconds since the epoch (September 2026)."""


@dataclass(frozen=True)
class Case:
    """One test: its outcome in company, and alone where it was tried again. `name` is `Class.name` or a bare name."""

    name: str
    outcome: Outcome = "passed"
    alone: Outcome | None = None
    message: str = ""
    seconds: float | None = 0.01


@dataclass(frozen=True)
class MadeUnit:
    """One unit with what became of it. `counted=False` makes its attempts late ones; `silent` tests get no result."""

    unit: Unit
    cases: tuple[Case, ...] = ()
    metrics: tuple[Metric, ...] = ()
    terminal: str | None = "ran"  # None: still pending
    reason: str = ""
    counted: bool = True
    uncounted_reason: str = "superseded"
    file: str = ""
    delivered: bool = True  # False: no bundle ever came
    id: str = field(init=False)  # of the unit; hashed once, which counts with 100,000 of them

    def __post_init__(self) -> None:
        object.__setattr__(self, "id", self.unit.id)


@dataclass(frozen=True)
class MadeRun:
    """What `make_run` wrote."""

    run: str
    plan: Plan
    key: Key
    leases: tuple[str, ...] = ()
    bundles: tuple[str, ...] = ()
    units: Mapping[str, str] = field(default_factory=dict)  # unit name -> unit id


def open_made(root: Path, url: str | None = None) -> Ledger:
    """An empty ledger below `root`: SQLite there, or the database at `url`."""
    root.mkdir(parents=True, exist_ok=True)
    return open_ledger(url or f"sqlite:///{root}/ledger.db", root / "results", Store(root / "store"))


def new_key() -> Key:
    """A fresh signing key."""
    return Key(Ed25519PrivateKey.generate())


def made_unit(
    name: str,
    cases: Sequence[Case] = (),
    *,
    suite: str = "libtorch",
    environment: str = "cpu",
    kind: str = "gtest",
    silent: Sequence[str] = (),
    **fate: Any,
) -> MadeUnit:
    """A unit of `kind` that plans its cases, and the `silent` tests, which no attempt ever reports."""
    file = f"{name}.py" if kind == "pytest" else name
    names = [*(case.name for case in cases), *silent]
    tests = tuple(f"{file}::{n.replace('.', '::')}" for n in names) if kind == "pytest" else tuple(names)
    if kind in ("benchmark", "command"):
        tests = ()
    unit = Unit(suite=suite, environment=environment, name=name, kind=kind, spec={"binary": name}, tests=tests)  # type: ignore[arg-type]
    return MadeUnit(unit=unit, cases=tuple(cases), file=file, **fate)


def make_run(
    ledger: Ledger,
    units: Sequence[MadeUnit],
    *,
    run: str | None = None,
    created: float = BASE_TIME,
    seconds: float = 60.0,
    state: str = "complete",
    flow: str = "nightly",
    exit_code: int | None = 0,
    key: Key | None = None,
    machines: int = 2,
    units_per_lease: int = 10,
    left_out: Sequence[Skip] = (),
) -> MadeRun:
    """Write one whole run: plan, units, machines, leases, admitted bundles, attempts, settlements, events."""
    run = run or f"r-{uuid.uuid4().hex[:8]}"
    key = key or new_key()
    environments = tuple(
        Environment(name=name, build="torch", build_digest=digest_bytes(b"build"))
        for name in sorted({made.unit.environment for made in units})
    )
    plan = Plan(environments, tuple(made.unit for made in units), tuple(left_out))
    delivered = [made for made in units if made.delivered and (made.cases or made.metrics)]
    leases = tuple(_leases(run, delivered, units_per_lease))
    envelopes = [_put(ledger, key, lease, group, created) for lease, group in leases]
    with ledger.write() as connection:
        finished = created + seconds if state in ("complete", "cancelled", "failed") else None
        conclusion = None
        if finished is not None and exit_code is not None:
            conclusion = canonical_json({"exit_code": exit_code, "sentence": "It ended."}).decode()
        connection.execute(
            insert(s.runs).values(
                id=run, flow=flow, created=created, state=state, request="{}", plan=plan.id, driver="host:1:1", epoch=1,
                heartbeat=created, finished=finished, conclusion=conclusion,
            )
        )  # fmt: skip
        _write_plan(connection, plan, created)
        _write_units(connection, run, units)
        _write_machines(connection, machines, created)
        for number, ((lease, group), (digest, size, rows, records)) in enumerate(zip(leases, envelopes, strict=True)):
            machine = f"m-{number % machines}"
            _write_lease(connection, run, lease, group, machine, slot=number, granted=created)
            _write_admission(connection, run, lease, group, machine, number, digest, size, rows, records, key, created)
        _write_settlements(connection, run, units, dict(_lease_of(leases)), created)
        record(connection, "run.opened", run=run, at=created, flow=flow, request={}, driver="host:1:1")
        if finished is not None:
            ended = {"state": state, "conclusion": json.loads(conclusion) if conclusion else {}}
            record(connection, "run.closed", run=run, at=finished, **ended)
    return MadeRun(
        run,
        plan,
        key,
        tuple(lease for lease, _ in leases),
        tuple(envelope[0] for envelope in envelopes),
        {made.unit.name: made.id for made in units},
    )


def add_part(ledger: Ledger, made: MadeRun, unit: MadeUnit, *, part: int = 1) -> str:
    """Admit one more bundle, of a new lease, for a unit that the run has already. Returns the bundle's digest."""
    lease = f"l-{uuid.uuid4().hex[:10]}"
    digest, size, rows, records = _put(ledger, made.key, lease, [unit], BASE_TIME + 30)
    with ledger.write() as connection:
        _write_lease(connection, made.run, lease, [unit], "m-0", slot=999, granted=BASE_TIME)
        _write_admission(
            connection, made.run, lease, [unit], "m-0", 999, digest, size, rows, records, made.key, BASE_TIME + 40
        )
    return digest


def supersede(ledger: Ledger, run: str, unit: str, terminal: str, reason: str) -> None:
    """Settle a unit again, as a bundle that arrives after `lost` does."""
    with ledger.write() as connection:
        previous = connection.execute(
            select(s.settlements).where(s.settlements.c.run == run, s.settlements.c.unit == unit)
        ).all()
        connection.execute(
            insert(s.settlements).values(
                run=run,
                unit=unit,
                ordinal=len(previous) + 1,
                terminal=terminal,
                reason=reason,
                epoch=1,
                settled=BASE_TIME,
            )
        )


# -- parts ---------------------------------------------------------------------------------------------------------


def records_of(group: Sequence[MadeUnit], started: float) -> list[UnitRecord]:
    """What the runner would have spooled for these units."""
    return [
        {"unit": made.id, "seq": seq, "attempts": _attempts(made, started + seq)} for seq, made in enumerate(group, 1)
    ]


def _attempts(made: MadeUnit, started: float) -> list[AttemptRecord]:
    company = [_result(made, case, case.outcome) for case in made.cases]
    attempts = [_attempt(1, "company", None, company, started, list(made.metrics))]
    for ordinal, case in enumerate((c for c in made.cases if c.alone), 2):
        assert case.alone is not None
        attempts.append(_attempt(ordinal, "alone", case.name, [_result(made, case, case.alone)], started + ordinal, []))
    return attempts


def _attempt(
    ordinal: int, mode: Any, test: str | None, results: list[Result], started: float, metrics: list[Metric]
) -> AttemptRecord:
    return {
        "ordinal": ordinal, "mode": mode, "test": test, "started": started,
        "seconds": sum(r["seconds"] or 0.0 for r in results),
        "outcome": worst([r["outcome"] for r in results] or ["passed"]),
        "results": results, "metrics": metrics,
        "processes": [{"argv": ["./unit"], "exit": 0, "signal": None, "seconds": 0.1}],
        "output": "", "output_bytes": 0, "isolation": "bubblewrap 0.8.0", "peak_memory_bytes": 1 << 20, "survivors": 0,
        "note": "",
    }  # fmt: skip


def _result(made: MadeUnit, case: Case, outcome: Outcome) -> Result:
    cls, _, name = case.name.rpartition(".")
    result: Result = {"file": made.file, "cls": cls, "name": name, "outcome": outcome, "seconds": case.seconds}
    if case.message:
        result["message"] = case.message
    return result


def _put(
    ledger: Ledger, key: Key, lease: str, group: Sequence[MadeUnit], started: float
) -> tuple[str, int, int, list[UnitRecord]]:
    records = records_of(group, started)
    part: Part = {"protocol": PROTOCOL, "lease": lease, "part": 1, "records": records}
    envelope = sign(key, BUNDLE_TYPE, canonical_json(part))
    data = gzip.compress(canonical_json(envelope), compresslevel=1, mtime=0)
    rows = sum(len(a["results"]) + len(a["metrics"]) for r in records for a in r["attempts"])
    return ledger.store.put_bytes(data), len(data), rows, records


# -- rows ----------------------------------------------------------------------------------------------------------


def _leases(run: str, units: Sequence[MadeUnit], size: int) -> list[tuple[str, list[MadeUnit]]]:
    leases = []
    for _, group in itertools.groupby(sorted(units, key=_by_environment), key=_by_environment):
        members = list(group)
        for start in range(0, len(members), size):
            leases.append((f"l-{run}-{len(leases)}", members[start : start + size]))
    return leases


def _by_environment(made: MadeUnit) -> str:
    return made.unit.environment


def _lease_of(leases: Sequence[tuple[str, list[MadeUnit]]]) -> list[tuple[str, str]]:
    return [(made.id, lease) for lease, group in leases for made in group]


def _write_plan(connection: Connection, plan: Plan, created: float) -> None:
    identity = plan.id  # hashes the whole plan: once
    if connection.execute(select(s.plans.c.id).where(s.plans.c.id == identity)).first():
        return
    document = plan.to_json()
    del document["units"]
    connection.execute(insert(s.plans).values(id=identity, created=created, document=canonical_json(document).decode()))
    if plan.units:
        connection.execute(
            insert(s.plan_units),
            [
                {
                    "plan": identity, "unit": u.id, "suite": u.suite, "environment": u.environment, "name": u.name,
                    "body": canonical_json(u.to_json()).decode(),
                }
                for u in plan.units
            ],
        )  # fmt: skip


def _write_units(connection: Connection, run: str, units: Sequence[MadeUnit]) -> None:
    if not units:
        return
    connection.execute(
        insert(s.units),
        [
            {
                "run": run, "unit": made.id, "position": position, "suite": made.unit.suite,
                "environment": made.unit.environment, "name": made.unit.name, "exclusive": False, "cpus": 1,
                "devices": 0, "tests": len(made.unit.tests) or int(made.unit.kind == "command"),
                "estimate_seconds": 1.0, "state": "terminal" if made.terminal else "pending", "epoch": 1, "deaths": 0,
            }
            for position, made in enumerate(units)
        ],
    )  # fmt: skip


def _write_machines(connection: Connection, machines: int, created: float) -> None:
    known = set(connection.scalars(select(s.machines.c.id)))
    for number in range(machines):
        if f"m-{number}" not in known:
            connection.execute(
                insert(s.machines).values(
                    id=f"m-{number}", pool=f"pool-{number}", vendor="foundation", state="ready", slots=2,
                    fingerprint='{"cpu":"made"}', created=created, updated=created,
                )
            )  # fmt: skip
            held = {"machine": f"m-{number}", "pool": f"pool-{number}", "vendor": "foundation"}
            record(connection, "machine.ready", at=created, **held, slots=2)


def _write_lease(
    connection: Connection, run: str, lease: str, group: Sequence[MadeUnit], machine: str, slot: int, granted: float
) -> None:
    connection.execute(
        insert(s.leases).values(
            id=lease, run=run, machine=machine, slot=slot, agent="key", token_digest=digest_bytes(lease.encode()),
            granted=granted,
            deadline=granted + 600, exclusive=False, state="done", ended=granted + 50,
        )
    )  # fmt: skip
    connection.execute(insert(s.lease_units), [{"lease": lease, "unit": made.id, "epoch": 1} for made in group])
    held = {"lease": lease, "units": [made.id for made in group], "machine": machine, "slot": slot}
    record(connection, "lease.granted", run=run, at=granted, **held)


def _write_admission(
    connection: Connection, run: str, lease: str, group: Sequence[MadeUnit], machine: str, slot: int,
    digest: str, size: int, rows: int, records: Sequence[UnitRecord], key: Key, admitted: float,
) -> None:  # fmt: skip
    connection.execute(
        insert(s.bundles).values(
            lease=lease, part=1, run=run, environment=group[0].unit.environment, digest=digest, bytes=size, rows=rows,
            signer=key.id, admitted=admitted, segment=None,
        )
    )  # fmt: skip
    fates = {made.id: made for made in group}
    attempts = [
        {
            "id": attempt_id(lease, unit["unit"], attempt["ordinal"]), "run": run, "unit": unit["unit"], "lease": lease,
            "part": 1, "ordinal": attempt["ordinal"], "mode": attempt["mode"], "test": attempt["test"],
            "outcome": attempt["outcome"], "started": attempt["started"], "seconds": attempt["seconds"],
            "machine": machine, "slot": slot, "isolation": attempt["isolation"],
            "counted": fates[unit["unit"]].counted,
            "reason": "" if fates[unit["unit"]].counted else fates[unit["unit"]].uncounted_reason,
            "detail": canonical_json(_detail(attempt)).decode(),
        }
        for unit in records
        for attempt in unit["attempts"]
    ]  # fmt: skip
    connection.execute(insert(s.attempts), attempts)
    part: Part = {"protocol": PROTOCOL, "lease": lease, "part": 1, "records": list(records)}
    root = root_of_part(part, {made.id: made.unit.suite for made in group})
    told: dict[str, Any] = {
        "lease": lease, "part": 1, "environment": group[0].unit.environment, "signer": key.id, "digest": digest,
        "rows": rows, "root": root, "uncounted": sorted(made.id for made in group if not made.counted),
        "settled": sorted(made.id for made in group if made.counted and made.terminal in ("ran", "skipped")),
    }  # fmt: skip
    record(connection, "bundle.admitted", run=run, **told)


def _detail(attempt: AttemptRecord) -> dict[str, Any]:
    return {
        "processes": attempt["processes"], "output_digest": None, "output_bytes": attempt["output_bytes"],
        "peak_memory_bytes": attempt["peak_memory_bytes"], "note": attempt["note"], "survivors": attempt["survivors"],
    }  # fmt: skip


def _write_settlements(
    connection: Connection, run: str, units: Sequence[MadeUnit], lease_of: Mapping[str, str], at: float
) -> None:
    rows = [
        {
            "run": run, "unit": made.id, "ordinal": 1, "terminal": made.terminal, "reason": made.reason,
            "lease": lease_of.get(made.id), "epoch": 1, "settled": at + 50,
        }
        for made in units
        if made.terminal
    ]  # fmt: skip
    if rows:
        connection.execute(insert(s.settlements), rows)


def plain(value: Any) -> Any:
    """A dataclass as a dictionary, for comparing in tests."""
    return asdict(value)
