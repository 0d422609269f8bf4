"""Taking over a PyTorch test-matrix: `{include: [{config, shard, num_shards, runner, ...}]}`.

Each config becomes a suite that runs PyTorch's own test script and a cell with as many fixed shards; runner labels
become notes, since they name one party's machines and we ask by requirement. What we have no word for is kept and told.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from blocks.errors import CatalogError

KNOWN = frozenset({"config", "shard", "num_shards", "runner"})
TEST_SCRIPT = [".ci/pytorch/test.sh"]
ACCELERATORS = (("cuda", "cuda"), ("rocm", "rocm"), ("xpu", "xpu"), ("macos", "mps"))


@dataclass(frozen=True)
class Row:
    """One entry of the matrix."""

    config: str
    shard: int
    shards: int
    runner: str
    more: tuple[tuple[str, Any], ...]


def import_test_matrix(
    document: str | Mapping[str, Any], *, job: str, build: str = "pytorch", sources: str = "sources/pytorch"
) -> dict[str, Any]:
    """The matrix of `job` (PyTorch's build environment) in the catalog's form.

    Gives `catalog` (environments, suites, profiles: what goes into a YAML file; `build` and the checkout at `sources`
    must be there), `kept` (entries with keys that the catalog has no word for) and `notes` for people. Raises
    CatalogError for something that is no test-matrix, or whose shards are not exactly 1..N.
    """
    rows = [_row(entry, index) for index, entry in enumerate(_entries(document), start=1)]
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(_suite_name(row), []).append(row)
    for name, group in groups.items():
        _check_shards(name, group)
    environment = _name(job)
    cells = [_cell(environment, name, group) for name, group in groups.items()]
    return {
        "catalog": {
            "environments": {environment: _environment(job, build)},
            "suites": {name: _suite(job, group[0], sources) for name, group in groups.items()},
            "profiles": {environment: {"description": f"{job}, imported", "matrix": cells, "pools": ["local"]}},
        },
        "kept": [
            {"config": row.config, "shard": row.shard, "keys": dict(row.more)} for row in rows if row.more
        ],
        "notes": _notes(rows),
    }  # fmt: skip


def _entries(document: str | Mapping[str, Any]) -> list[Any]:
    if isinstance(document, str):
        try:
            document = yaml.safe_load(document)  # PyTorch writes YAML that is nearly JSON
        except (yaml.YAMLError, RecursionError) as error:
            raise CatalogError(f"The test-matrix cannot be read: {error}.") from error
    include = document.get("include") if isinstance(document, Mapping) else None
    if not isinstance(include, list) or not include:
        raise CatalogError("This is no test-matrix: it should be `{include: [{config, shard, num_shards, runner}]}`.")
    return include


def _row(entry: Any, number: int) -> Row:
    try:
        more = tuple(sorted((str(key), value) for key, value in entry.items() if key not in KNOWN))
        row = Row(str(entry["config"]), int(entry["shard"]), int(entry["num_shards"]), str(entry["runner"]), more)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CatalogError(
            f"Entry {number} of the test-matrix needs config, shard, num_shards and runner: {entry!r:.200}."
        ) from error
    if not 1 <= row.shard <= row.shards:
        raise CatalogError(f"Entry {number} of the test-matrix is shard {row.shard} of {row.shards}: {entry!r:.200}.")
    return row


def _check_shards(name: str, group: list[Row]) -> None:
    """PyTorch writes shards by hand and nothing there checks them; a missing one is tests that silently do not run."""
    shards = group[0].shards
    found = sorted(row.shard for row in group)
    if found != list(range(1, shards + 1)) or any(row.shards != shards for row in group):
        raise CatalogError(
            f"The shards of `{name}` should be 1 to {shards}, each once, and the test-matrix lists {found}.",
            do="Correct the test-matrix: what is not listed would never run.",
        )


def _suite_name(row: Row) -> str:
    """Configs with further switches (`mem_leak_check`, `rerun_disabled_tests`) are suites of their own."""
    switches = [key for key, value in row.more if value not in (None, False, "", [])]
    return _name("-".join(["pytorch", row.config, *(key for key in switches if key != "owners")]))


def _suite(job: str, row: Row, sources: str) -> dict[str, Any]:
    env = {
        "BUILD_ENVIRONMENT": job,
        "TEST_CONFIG": row.config,
        "SHARD_NUMBER": "{shard}",
        "NUM_TEST_SHARDS": "{shards}",
    }
    for key, value in row.more:
        if key in ("mem_leak_check", "rerun_disabled_tests") and value:
            env[f"PYTORCH_TEST_{'CUDA_MEM_LEAK_CHECK' if key == 'mem_leak_check' else 'RERUN_DISABLED_TESTS'}"] = "1"
    script = [f"{{sources}}/{word}" for word in TEST_SCRIPT]
    return {
        "kind": "command",
        "sources": sources,
        "commands": {row.config: ["bash", *script]},
        "env": env,
        "timeout_minutes": 240.0,
    }


def _cell(environment: str, name: str, group: list[Row]) -> dict[str, Any]:
    runners = ", ".join(dict.fromkeys(row.runner for row in group))
    return {"environment": environment, "suite": name, "shards": group[0].shards, "note": f"runner: {runners}"}


def _environment(job: str, build: str) -> dict[str, Any]:
    accelerator = next((kind for word, kind in ACCELERATORS if word in job), "cpu")
    python = re.search(r"py3\.(\d+)(t?)", job)
    body = {"build": build, "accelerator": accelerator, "os": "macos" if "macos" in job else "linux"}
    return {**body, **({"python": f"cp3{python[1]}{python[2]}"} if python else {})}


def _notes(rows: list[Row]) -> list[str]:
    runners = dict.fromkeys(row.runner for row in rows)
    notes = [f"runner label `{runner}`: give its requirement a pool" for runner in runners]
    unknown = dict.fromkeys(key for row in rows for key, _ in row.more)
    return notes + [f"`{key}` has no word in the catalog; it is listed under `kept`" for key in unknown]


def _name(text: str) -> str:
    """`text` as a name of the catalog."""
    return re.sub(r"[^a-z0-9._-]+", "-", text.lower()).strip("-._")[:63] or "imported"
