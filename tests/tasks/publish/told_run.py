"""A run worth telling: planned with `ledger_rows`, delivered through real admission, judged as the judge would.

told = tell(ledger, [Told(made_unit("test_api", cases), attempts=(attempt(...),))])
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import insert, update

from blocks.canonical import canonical_json, digest_bytes
from blocks.lease import PROTOCOL, AttemptRecord, Metric, Part, Result, worst
from blocks.ledger import Ledger
from blocks.ledger import schema as s
from blocks.plan import Skip
from blocks.signing import BUNDLE_TYPE, sign
from tasks.collect.admit import admit
from tests.ledger_rows import BASE_TIME, MadeRun, MadeUnit, make_run

ROOT = "/srv/machine/builds/3fa9"
FINGERPRINT = {
    "fingerprint": {
        "cpu_model": "Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz", "isa": ["avx2", "avx512f", "amx_tile"],
        "cores": 2, "memory_bytes": 8 << 30, "os": "Debian GNU/Linux 12", "kernel": "6.1.0-18-amd64",
    },
    "sandbox": {"kind": "bubblewrap", "version": "0.8.0"},
}  # fmt: skip


@dataclass(frozen=True)
class Told:
    """A planned unit and the attempts that its machine delivers; without any it stays as `made` says."""

    made: MadeUnit
    attempts: tuple[AttemptRecord, ...] = ()
    slot: int = 0


@dataclass(frozen=True)
class Judged:
    """A verdict, as the judge writes it."""

    suite: str
    test: str
    cause: str
    gates: bool
    environment: str = "cpu"
    evidence: Mapping[str, Any] = field(default_factory=dict)


def case(file: str, name: str, outcome: Any = "passed", seconds: float = 0.01, message: str = "") -> Result:
    """One result; `name` is `Class.name` or a bare name."""
    cls, _, last = name.rpartition(".")
    return {"file": file, "cls": cls, "name": last, "outcome": outcome, "seconds": seconds, "message": message}


def attempt(
    ordinal: int,
    started: float,
    results: Sequence[Result],
    *,
    argv: Sequence[str] = ("./unit",),
    alone: str | None = None,
    seconds: float | None = None,
    output: str = "",
    metrics: Sequence[Metric] = (),
) -> AttemptRecord:
    """One attempt as the runner writes it. `started` is seconds after the run began."""
    took = sum(result["seconds"] or 0.0 for result in results) if seconds is None else seconds
    return {
        "ordinal": ordinal, "mode": "alone" if alone else "company", "test": alone, "started": BASE_TIME + started,
        "seconds": took, "outcome": worst([result["outcome"] for result in results] or ["passed"]),
        "results": list(results), "metrics": list(metrics),
        "processes": [{"argv": list(argv), "exit": 0, "signal": None, "seconds": took}],
        "output": output, "output_bytes": len(output), "isolation": "bubblewrap", "peak_memory_bytes": 1 << 20,
        "survivors": 0, "note": "",
    }  # fmt: skip


def tell(
    ledger: Ledger,
    units: Sequence[Told],
    *,
    run: str = "r-told",
    state: str = "complete",
    exit_code: int = 0,
    sentence: str = "Nothing new is broken.",
    seconds: float = 60.0,
    left_out: Sequence[Skip] = (),
    verdicts: Sequence[Judged] = (),
) -> MadeRun:
    """Write the run, admit what was delivered (a lease per slot and unit), judge it, and conclude it."""
    made = make_run(
        ledger, [one.made for one in units], run=run, state=state, seconds=seconds, left_out=left_out, machines=1
    )
    for number, one in enumerate(units):
        if one.attempts:
            _deliver(ledger, made, one, f"l-{run}-told-{number}")
    with ledger.write() as connection:
        connection.execute(update(s.machines).values(fingerprint=canonical_json(FINGERPRINT).decode()))
        conclusion = canonical_json({"exit_code": exit_code, "sentence": sentence}).decode()
        if state in ("complete", "cancelled", "failed"):
            connection.execute(update(s.runs).where(s.runs.c.id == run).values(conclusion=conclusion))
        if verdicts:
            connection.execute(insert(s.verdicts), [_verdict(run, one) for one in verdicts])
    return made


def _deliver(ledger: Ledger, made: MadeRun, told: Told, lease: str) -> None:
    unit = told.made.unit
    granted = told.attempts[0]["started"] - 0.05
    ended = max(one["started"] + one["seconds"] for one in told.attempts) + 0.05
    with ledger.write() as connection:
        connection.execute(
            insert(s.leases).values(
                id=lease, run=made.run, machine="m-0", slot=told.slot, agent=made.key.id,
                token_digest=digest_bytes(lease.encode()), granted=granted, deadline=ended + 600,
                exclusive=False, state="done", ended=ended,
            )
        )  # fmt: skip
        connection.execute(insert(s.lease_units).values(lease=lease, unit=unit.id, epoch=1))
    part: Part = {
        "protocol": PROTOCOL, "lease": lease, "part": 1,
        "records": [{"unit": unit.id, "seq": 1, "attempts": list(told.attempts)}],
    }  # fmt: skip
    admit(ledger, sign(made.key, BUNDLE_TYPE, canonical_json(part)), made.key.public, seat=None)


def _verdict(run: str, one: Judged) -> dict[str, Any]:
    return {
        "run": run, "environment": one.environment, "suite": one.suite, "test": one.test, "ordinal": 1,
        "cause": one.cause, "gates": one.gates, "evidence": canonical_json(dict(one.evidence)).decode(),
        "decided": BASE_TIME + 60,
    }  # fmt: skip


def metric(model: str, mode: str, name: str, value: float, unit: str, spread: float = 0.0) -> Metric:
    """A figure, with an interval of `spread` to both sides (as a share of the value) where that is not 0."""
    plain: Metric = {"model": model, "mode": mode, "name": name, "value": value, "unit": unit}
    return {**plain, "low": value * (1 - spread), "high": value * (1 + spread)} if spread else plain


def gtest_argv(binary: str, chosen: str = "*") -> list[str]:
    """What the runner starts for a gtest unit."""
    return [
        f"{ROOT}/site/torch/bin/{binary}", f"--gtest_filter={chosen}", "--gtest_output=json:/srv/work/gtest-0.json",
        "--gtest_color=no",
    ]  # fmt: skip
