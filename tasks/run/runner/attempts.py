"""All attempts at one unit: in company first, then each failing test once more alone.

Whatever goes wrong here (a sandbox that cannot be had, a malformed unit) becomes results of outcome `error`, one per
planned test: a unit that was started always ends with a record.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field, replace
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

from . import benchmark, command, company, disk, gtest, posix, process, pytest_kind, records, sandbox, spool, workplace
from .output import Output
from .records import BAD, Json

LISTED_KINDS = {"gtest": gtest.run, "pytest": pytest_kind.run}
OUTPUT_CAP = 256 * 1024


@dataclass(frozen=True)
class Ground:
    """What all units of a lease share."""

    order: Json
    folder: str
    sandbox: sandbox.Sandbox
    prefixes: Tuple[str, ...]
    around: process.Surroundings
    deadline: float
    give_up: Callable[[], bool] = field(default=lambda: False)


def run_unit(ground: Ground, unit: Json, seq: int) -> List[Json]:
    """Every attempt at the unit, in order. Raises company.Stopped when the runner was told to stop.

    The unit in hand goes on past the lease's deadline, which is for units not started yet: its own time, from here on,
    bounds its tries alone as well.
    """
    began = posix.clock()
    first, failing = _attempt(ground, unit, seq, 1, None)
    attempts = [first]
    bound = int(ground.order.get("retry_alone", 0))
    for test in failing:
        if len(attempts) > bound or posix.clock() > max(ground.deadline, began + float(unit["timeout_seconds"])):
            why = f"the bound is {bound}" if len(attempts) > bound else "its time has passed"
            left = len(failing) - len(attempts) + 1
            first["note"] = _join(first["note"], f"{left} of {len(failing)} failing tests were not tried alone: {why}")
            break
        attempts.append(_attempt(ground, unit, seq, len(attempts) + 1, test)[0])
    return attempts


def _attempt(ground: Ground, unit: Json, seq: int, ordinal: int, alone: Optional[str]) -> Tuple[Json, List[str]]:
    """(the attempt, the tests of it that are worth trying alone)."""
    started, began = time.time(), posix.clock()
    output = Output(int(ground.order.get("output_cap_bytes") or OUTPUT_CAP))
    common: Json = {"ordinal": ordinal, "mode": "company" if alone is None else "alone", "test": alone}
    work = os.path.join(ground.folder, "work", f"{seq}-{ordinal}")
    isolation = ground.sandbox.isolation()
    try:
        place = _place(ground, unit, work)
        isolation = place.isolation
        filled, failing = _run_kind(ground, unit, place, alone, output)
    except company.Stopped:
        raise
    except Exception as error:  # noqa: BLE001  (a unit must never take its runner along; what it was stands in the record)
        why = str(error) if isinstance(error, workplace.NoIsolation) else f"{type(error).__name__}: {error}"
        filled, failing = {"results": _all_error(unit, alone, "the unit could not be run: " + why)}, []
    finally:
        workplace.remove(work)
    filled.setdefault("output", output.text())
    filled.setdefault("output_bytes", output.total)
    seconds = posix.clock() - began
    return records.attempt(**common, started=started, seconds=seconds, isolation=isolation, **filled), failing


def _place(ground: Ground, unit: Json, work: str) -> workplace.Place:
    """The unit's place; a full disk is waited out, since nothing has been run yet that could be lost."""
    order = ground.order
    while True:
        try:
            workplace.remove(work)  # Left by a runner that was killed at this very unit.
            return workplace.make(
                work=work,
                etc=os.path.join(ground.folder, "etc"),
                found=ground.sandbox,
                wanted=str(order.get("sandbox", "auto")),
                build=order.get("build"),
                sources=(order.get("sources") or {}).get(unit["suite"]),
                python=str(order["python"]),
                python_prefixes=ground.prefixes,
                accelerator=order.get("accelerator") or {},
                threads=int(order.get("threads") or 1),
                # The unit's own come last: where it is a fixed shard, they say which one.
                extra_env={**(order.get("env") or {}), **(unit["spec"].get("env") or {})},
                memory_bytes=int(unit["memory_bytes"]) if unit.get("memory_bytes") else None,
                mark=mark(ground.folder),
            )
        except OSError as error:
            if error.errno not in spool.FULL or ground.give_up():
                raise
        time.sleep(spool.RETRY_SECONDS)


def mark(folder: str) -> str:
    """The variable by which processes of an unsandboxed unit are found again when their runner is dead: by the folder
    of its lease, since another machine's folder on this host may hold a lease of the same name."""
    return "COMMONFLEET_LEASE=" + os.path.realpath(folder)


def _run_kind(
    ground: Ground, unit: Json, place: workplace.Place, alone: Optional[str], output: Output
) -> Tuple[Json, List[str]]:
    kind, spec = str(unit["kind"]), unit["spec"]
    limits = process.Limits(
        float(unit["timeout_seconds"]),
        float(unit["test_timeout_seconds"]),
        unit.get("memory_bytes") or None,
        _room(ground.order, place.work),
    )
    unlisted = spec.get("unlisted") if alone is None else None
    why = f"its tests could not be listed for the plan: {unlisted}" if unlisted else ""
    if kind in LISTED_KINDS:
        planned = list(unit["tests"]) if alone is None else [alone]
        done, results = LISTED_KINDS[kind](place, spec, planned, limits, ground.around, output)
        filled = _of_company(done, results)
        return {**filled, "note": _join(why, filled["note"])}, _worth_alone(done)
    once = replace(limits, quiet_seconds=None)
    metrics: List[Json] = []
    note = ""
    if kind == "command":
        single, results = command.run(place, spec, str(unit["name"]), once, ground.around, output)
    elif kind == "benchmark":
        single, results, metrics, note = benchmark.run(place, spec, once, ground.around, output)
    else:
        raise ValueError(f"this runner knows no unit kind {kind!r}")
    ended = single.ended
    filled = {
        "results": results,
        "metrics": metrics,
        "processes": [ended.record()] if ended else [],
        "peak_memory_bytes": ended.peak_memory_bytes if ended else None,
        "survivors": single.survivors,
        "note": _join(note, f"the process {ended.how()}" if ended and ended.killed == "disk" else ""),
    }
    # Tried again as a whole, since it has no parts; one that used up all its time would only do so again.
    ran_through = ended is not None and not ended.killed
    again = alone is None and ran_through and any(one["outcome"] in BAD for one in results)
    return filled, [str(unit["name"])] if again else []


def _room(order: Json, work: str) -> disk.Room:
    """An order may say how much; otherwise it is what this runner says."""
    return disk.Room(
        work, int(order.get("work_bytes") or disk.WORK_BYTES), int(order.get("work_files") or disk.WORK_FILES)
    )


def _of_company(done: company.Company, results: Sequence[Json]) -> Json:
    return {
        "results": results,
        "processes": done.processes,
        "peak_memory_bytes": done.peak_memory_bytes or None,
        "survivors": done.survivors,
        "outcome": done.outcome,
        "note": "; ".join(dict.fromkeys(done.notes)),
    }


def _worth_alone(done: company.Company) -> List[str]:
    """Tests that ran and did not do well. One that was never reached, or that no process reports, would end the same
    alone."""
    progress = done.progress
    return [name for name in progress.planned if name in progress.ran and progress.findings[name].outcome in BAD]


def _all_error(unit: Json, alone: Optional[str], message: str) -> List[Json]:
    tests = [alone] if alone is not None else list(unit.get("tests") or ())
    return [_named(unit, test, message) for test in tests or [str(unit.get("name") or unit.get("unit"))]]


def _named(unit: Json, test: str, message: str) -> Json:
    kind, spec = unit.get("kind"), unit.get("spec") or {}
    names: Dict[str, Callable[[], Tuple[str, str, str]]] = {
        "gtest": lambda: gtest.split(str(spec.get("binary", "")), test),
        "pytest": lambda: pytest_kind.split(test) if "::" in test else (str(spec.get("file", "")), "", test),
        "benchmark": lambda: (str(spec.get("script", "")), "", str(spec.get("model") or test)),
    }
    plain: Tuple[str, str, str] = ("", "", test)
    return records.result(*(names[str(kind)]() if kind in names else plain), "error", None, message)


def _join(*parts: Any) -> str:
    return "; ".join(str(part) for part in parts if part)
