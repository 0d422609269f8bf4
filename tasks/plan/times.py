"""Durations out of PyTorch's files: test-times.json and test-class-times.json.

test-times.json is job -> config -> file -> seconds, the other one job -> config -> file -> class -> seconds (we also
accept `Class.name` for a class, where a single test is what takes long). Files are named as PyTorch names them: without
`.py`, C++ tests as `cpp/<binary>`. As in PyTorch, `default` stands in for a job or a config that is not there.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from blocks.catalog.models import SuiteSpec
from blocks.errors import CatalogError


@dataclass(frozen=True)
class Times:
    """Seconds of whole files, and of single classes or tests inside them, for one job and config."""

    files: Mapping[str, float] = field(default_factory=dict)
    classes: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def of_file(self, file: str) -> float | None:
        """Seconds of the whole file, or None."""
        return next((self.files[name] for name in spellings(file) if name in self.files), None)

    def within(self, file: str) -> Mapping[str, float]:
        """Seconds by class or `Class.name` inside the file."""
        return next((self.classes[name] for name in spellings(file) if name in self.classes), {})


def spellings(file: str) -> list[str]:
    """How a times file may name `file`, the most exact first."""
    plain = file.removesuffix(".py")
    last = plain.rsplit("/", 1)[-1]
    return list(dict.fromkeys([file, plain, f"cpp/{last}", last]))


def suite_times(suite: SuiteSpec, root: Path, *, job: str, config: str) -> Times:
    """What the catalog knows about a suite's durations. Paths are relative to `root`. Raises CatalogError."""
    files = read_times(root / suite.times, job=job, config=config) if suite.times else {}
    classes = read_times(root / suite.class_times, job=job, config=config) if suite.class_times else {}
    return Times(
        {name: float(value) for name, value in files.items() if _is_seconds(value)},
        {name: _seconds(value) for name, value in classes.items() if isinstance(value, dict)},
    )


def read_times(path: Path, *, job: str, config: str) -> dict[str, Any]:
    """One (job, config) of a times file, `default` standing in for either. Raises CatalogError."""
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise CatalogError(
            f"The times file {path} cannot be read: {error}.", do="Restore it, or take it out of the suite."
        ) from error
    for chosen_job in (job, "default"):
        configs = document.get(chosen_job) if isinstance(document, dict) else None
        for chosen_config in (config, "default"):
            if isinstance(configs, dict) and isinstance(configs.get(chosen_config), dict):
                return dict(configs[chosen_config])
    return {}


def seconds_of(tests: Sequence[str], file: str, times: Times, suite: SuiteSpec) -> Callable[[str], float]:
    """A test's expected seconds: its own or its class's share where known, the file's remainder shared by the rest,
    else the suite's default."""
    known = _known(tests, file, times.within(file))
    whole = times.of_file(file)
    rest = len(tests) - len(known)
    default = suite.default_seconds_per_test
    if whole is not None and rest:
        default = max(whole - suite.start_seconds - sum(known.values()), 0.0) / rest
    return lambda test: known.get(test, default)


def _known(tests: Sequence[str], file: str, within: Mapping[str, float]) -> dict[str, float]:
    known: dict[str, float] = {}
    by_class: dict[str, list[str]] = {}
    for test in tests:
        name = test.removeprefix(f"{file}::").replace("::", ".")
        if name in within:
            known[test] = within[name]
        elif (group := name.rpartition(".")[0]) in within:
            by_class.setdefault(group, []).append(test)
    for group, members in by_class.items():
        known.update(dict.fromkeys(members, within[group] / len(members)))
    return known


def _seconds(values: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in values.items() if _is_seconds(value)}


def _is_seconds(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0
