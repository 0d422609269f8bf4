"""A build folder with files in it, and a discoverer that answers from a table and refuses what it does not know."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from blocks.catalog.models import Catalog
from blocks.plan import Environment
from tasks.plan.place import SourceTree, Unpacked


@dataclass
class Listings:
    """Answers `discover` requests as the runner does; counts what it was asked."""

    answers: Mapping[str, Mapping[str, Any] | Exception]
    asked: list[dict[str, Any]] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0

    async def __call__(self, request: dict[str, Any]) -> Mapping[str, Any]:
        self.asked.append(request)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await asyncio.sleep(0)
        self.at_once -= 1
        answer = self.answers[request.get("binary") or request["file"]]
        if isinstance(answer, Exception):
            raise answer
        return {"disabled": [], "error": None, "seconds": 0.0, **answer}


BINARIES: dict[str, list[str]] = {
    "bin/test_api": [f"Api.T{i:03}" for i in range(100)],
    "bin/test_jit": ["Jit.A", "Jit.B"],
    "test/empty_test": [],
}
PYTHON = "test_ops.py"
OPERATORS = [f"op{i}" for i in range(300)]
PYTEST_TESTS = [
    f"{PYTHON}::TestOpsCPU::test_{way}_{op}_cpu_float32" for op in OPERATORS for way in ("forward", "backward")
]


def answers() -> dict[str, Mapping[str, Any] | Exception]:
    table: dict[str, Mapping[str, Any] | Exception] = {name: {"tests": tests} for name, tests in BINARIES.items()}
    return {**table, PYTHON: {"tests": PYTEST_TESTS}}


def catalog(**changes: Any) -> Catalog:
    """One environment and a suite of each kind. `changes` go to the named suites or to `cells` by suite."""
    cells = changes.pop("cells", {})
    suites: dict[str, dict[str, Any]] = {
        "compiled": {
            "kind": "gtest",
            "files": ["bin/*", "test/*"],
            "left_out": {"*.ptl": "data"},
            "target_seconds": 10,
            "start_seconds": 0,
            "default_seconds_per_test": 0.25,
        },
        "python": {
            "kind": "pytest",
            "sources": "python",
            "files": ["test_*.py"],
            "sample_by": r"test_(?:forward|backward)_(.+)_cpu(?:_|$)",
            "start_seconds": 8,
            "target_seconds": 45,
            "default_seconds_per_test": 1,
        },
        "speed": {
            "kind": "benchmark",
            "sources": "speed",
            "script": "bench.py",
            "models": ["mlp", "lstm"],
            "exclusive": True,
        },
        "program": {"kind": "command", "commands": {"one": ["{build}/x", "1"], "two": ["{build}/x", "2"]}},
    }
    for name, change in changes.items():
        suites[name] |= change
    matrix = [{"environment": "cpu", "suite": name, **cells.get(name, {})} for name in suites]
    return Catalog.model_validate(
        {
            "builds": {"b": {"kind": "wheel", "requirements": []}},
            "environments": {"cpu": {"build": "b"}},
            "suites": suites,
            "pools": {"local": {"kind": "local"}},
            "profiles": {"all": {"matrix": matrix, "pools": ["local"]}},
        }
    )


@dataclass(frozen=True)
class Ground:
    """What make_plan needs beside a catalog."""

    environments: dict[str, Unpacked]
    sources: dict[str, SourceTree]
    root: Path

    def arguments(self) -> dict[str, Any]:
        return {"environments": self.environments, "sources": self.sources, "root": self.root}


@pytest.fixture
def ground(tmp_path: Path) -> Ground:
    build = tmp_path / "build"
    for name in [*BINARIES, "bin/model.ptl"]:
        (build / name).parent.mkdir(parents=True, exist_ok=True)
        (build / name).touch(mode=0o755)
    for folder, file in (("python", PYTHON), ("speed", "bench.py")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / file).touch()
    environment = Environment("cpu", "b", "sha256:" + "0" * 64)
    return Ground(
        {"cpu": Unpacked(environment, build, "/usr/bin/python3")},
        {name: SourceTree(f"sha256:{name}", tmp_path / name) for name in ("python", "speed")},
        tmp_path,
    )
