"""Refusing a plan that no machine at hand can carry out, before anything runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from blocks.build import Build
from blocks.errors import PlanError
from blocks.plan import Environment, Plan, Unit
from blocks.requirement import MachineFacts, facts_from_hello, requirement_of, why_not
from tasks.build.runtime import missing_on

SHOWN = 8


def check_hosts(plan: Plan, builds: Mapping[str, Build], hosts: Mapping[str, Mapping[str, Any]]) -> None:
    """Every unit must have a host that can run it. `builds` are by environment, `hosts` name -> its answer to `hello`.

    Raises PlanError that says what is missing where, and what to do.
    """
    environments = {environment.name: environment for environment in plan.environments}
    facts = {name: facts_from_hello(hello) for name, hello in hosts.items()}
    shapes = {_shape(unit): unit for unit in plan.units}  # 100,000 units have a handful of shapes
    refusals = []
    for unit in shapes.values():
        environment = environments[unit.environment]
        by_host = {
            name: host_lacks(unit, environment, builds.get(unit.environment), hello, facts[name])
            for name, hello in hosts.items()
        }
        if all(by_host.values()):
            refusals += [f"{environment.name}, {unit.suite}: {_told(by_host)}"]
    if refusals:
        more = f"\n  and {len(refusals) - SHOWN} more" if len(refusals) > SHOWN else ""
        raise PlanError(
            "The plan cannot be carried out here:\n  " + "\n  ".join(refusals[:SHOWN]) + more + "\n",
            kept="Nothing was started.",
            do="Install what is missing (`commonfleet doctor` says how), add a pool whose machines have it, or take "
            "the suite out of the profile.",
        )


def host_lacks(
    unit: Unit,
    environment: Environment,
    build: Build | None,
    hello: Mapping[str, Any],
    facts: MachineFacts | None = None,
) -> list[str]:
    """Why this host cannot run this unit, as phrases; empty when it can."""
    reasons = missing_on(build.runtime, hello.get("runtime", {})) if build else []
    requirement = requirement_of(unit, environment)
    return list(dict.fromkeys([*reasons, *why_not(requirement, facts or facts_from_hello(hello))]))


def _shape(unit: Unit) -> tuple[Any, ...]:
    return unit.environment, unit.suite, unit.cpus, unit.devices, unit.memory_bytes


def _told(by_host: Mapping[str, list[str]]) -> str:
    if not by_host:
        return "there is no host at all"
    return "; ".join(f"{name}: {', '.join(reasons)}" for name, reasons in by_host.items())
