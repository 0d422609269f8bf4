"""What `commonfleet plan` shows: per suite and environment, how much there is and how long it will take."""

from __future__ import annotations

from typing import Any

from blocks.plan import Plan
from tasks.plan.write import counts, expected_results


def plan_summary(plan: Plan) -> dict[str, Any]:
    """The plan as JSON shows it; `--json` prints exactly this."""
    suites: dict[tuple[str, str], dict[str, Any]] = {}
    for unit in plan.units:
        row = suites.setdefault((unit.suite, unit.environment), _row(unit.suite, unit.environment))
        row["units"] += 1
        row["tests"] += expected_results(unit)
        row["estimate_seconds"] += unit.estimate_seconds
        row["exclusive"] = row["exclusive"] or unit.exclusive
        if "unlisted" in unit.spec:
            row["unlisted"].append({"unit": unit.name, "reason": unit.spec["unlisted"]})
    for skip in plan.left_out:
        suites.setdefault((skip.suite, skip.environment), _row(skip.suite, skip.environment))["left_out"] += 1
    for row in suites.values():
        row["estimate_seconds"] = round(row["estimate_seconds"], 1)
    return {
        "id": plan.id,
        **counts(plan),
        "estimate_seconds": round(sum(unit.estimate_seconds for unit in plan.units), 1),
        "suites": [suites[key] for key in sorted(suites)],
        "omissions": [
            {"suite": skip.suite, "environment": skip.environment, "name": skip.name, "reason": skip.reason}
            for skip in plan.left_out
        ],
    }


def _row(suite: str, environment: str) -> dict[str, Any]:
    return {
        "suite": suite,
        "environment": environment,
        "units": 0,
        "tests": 0,
        "estimate_seconds": 0.0,
        "exclusive": False,
        "left_out": 0,
        "unlisted": [],
    }
