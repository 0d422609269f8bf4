"""Suites, units and the content-hashed plan.

A plan is all units times environments that a run is expected to account for. Its id is the hash of that, without
the estimates, so that the same work has the same id whatever we believed about its duration.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from blocks.canonical import digest_json

Kind = Literal["gtest", "pytest", "benchmark", "command"]


@dataclass(frozen=True, slots=True)
class Unit:
    """The smallest schedulable piece of a suite, in one environment.

    `spec` says how to run it; its keys depend on `kind`:

    - gtest: `binary` (path inside the build), `args` (optional list)
    - pytest: `file` (path inside the suite's sources), `args` (optional list)
    - benchmark: `script` (path inside the sources), `model`, `args` (optional list)
    - command: `argv` (list); `{sources}`, `{build}` and `{python}` inside are replaced on the machine

    `tests` are the test names expected, in order: `Class.Name` for gtest, node ids relative to the sources for
    pytest, empty where nothing can be listed beforehand. Every name in it gets a result, come what may.
    """

    suite: str
    environment: str
    name: str
    kind: Kind
    spec: Mapping[str, Any]
    tests: tuple[str, ...] = ()
    cpus: int = 1
    devices: int = 0
    memory_bytes: int = 4 << 30
    exclusive: bool = False
    timeout_seconds: float = 1800.0
    test_timeout_seconds: float = 300.0
    estimate_seconds: float = 1.0

    @property
    def id(self) -> str:
        """Hash of all that defines the unit; the estimate and the display name's order play no part."""
        return "u-" + digest_json(self.defining())[7:23]

    def defining(self) -> dict[str, Any]:
        """What the unit is, without what we believe about it."""
        # Not asdict(): it would copy every test's name, a hundred thousand times.
        body = {name: getattr(self, name) for name in self.__slots__ if name != "estimate_seconds"}
        return {**body, "spec": dict(self.spec), "tests": list(self.tests)}

    def to_json(self) -> dict[str, Any]:
        """Everything, as plan documents and leases carry it."""
        return {**self.defining(), "id": self.id, "estimate_seconds": self.estimate_seconds}


def unit_from_json(body: Mapping[str, Any]) -> Unit:
    """The unit that `Unit.to_json` wrote."""
    values = {key: value for key, value in body.items() if key != "id"}
    values["tests"] = tuple(values.get("tests", ()))
    return Unit(**values)


@dataclass(frozen=True)
class Skip:
    """Something the plan deliberately leaves out (a file that is no test, a disabled test), with the reason."""

    suite: str
    environment: str
    name: str
    reason: str


@dataclass(frozen=True)
class Environment:
    """What a unit is planned against: (build, accelerator class, os, python, config)."""

    name: str
    build: str
    build_digest: str
    accelerator: str = "cpu"
    os: str = "linux"
    python: str = "cp311"
    config: str = "default"


@dataclass(frozen=True)
class Plan:
    """All units of a run, longest first, and what was left out with its reason."""

    environments: tuple[Environment, ...]
    units: tuple[Unit, ...]
    left_out: tuple[Skip, ...] = ()
    sources: Mapping[str, str] = field(default_factory=dict)
    """suite -> digest of the suite's own files (a tar), for suites that bring any."""

    @property
    def id(self) -> str:
        """`sha256:` over environments, units, omissions and sources, in an order that does not depend on estimates."""
        return digest_json(
            {
                "environments": sorted((asdict(e) for e in self.environments), key=lambda e: str(e["name"])),
                "units": sorted(unit.id for unit in self.units),
                "left_out": sorted(
                    [asdict(skip) for skip in self.left_out], key=lambda s: [str(v) for v in s.values()]
                ),
                "sources": dict(self.sources),
            }
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "environments": [asdict(e) for e in self.environments],
            "units": [unit.to_json() for unit in self.units],
            "left_out": [asdict(skip) for skip in self.left_out],
            "sources": dict(self.sources),
        }


def longest_first(units: Iterable[Unit]) -> tuple[Unit, ...]:
    """Dispatch order: units that need the machine alone come last (they idle its other slots), the rest by estimate."""
    return tuple(sorted(units, key=lambda unit: (unit.exclusive, -unit.estimate_seconds, unit.name)))


def with_estimate(unit: Unit, seconds: float) -> Unit:
    """The same unit with another estimate (its id does not change)."""
    return replace(unit, estimate_seconds=seconds)
