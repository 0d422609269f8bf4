"""PyTorch's test-times.json: job -> config -> file -> seconds, as its sharding and our planner (`tasks/plan`) read it.

A job is an environment, its config the environment's. A file's seconds are those of its counted attempts in company,
summed over its units, and then the mean over the last `RUNS` complete runs up to the one asked for that have the
file. Files are named as PyTorch names them: without `.py`, C++ tests as `cpp/<binary>`. The job `default` holds the
mean over all environments, for one that has no times of its own.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

from sqlalchemy import select

from blocks.ledger import Ledger
from blocks.ledger.query import open_query
from blocks.ledger.schema import plan_units, plans, runs

RUNS = 3
"""Over how many runs a time is averaged, as PyTorch does."""

Times = dict[str, dict[str, dict[str, float]]]

_SECONDS = """WITH file_of AS (SELECT run, unit, any_value(file) AS file FROM results GROUP BY run, unit)
    SELECT a.run, a.environment, a.suite, f.file, sum(a.seconds) AS seconds
    FROM attempts a JOIN file_of f USING (run, unit)
    WHERE a.counted AND a.mode = 'company' GROUP BY ALL ORDER BY ALL"""


def pieces(ledger: Ledger, run: str, origin: str) -> Iterator[str]:
    """The document. (`origin` plays no part in it.)"""
    yield json.dumps(test_times(ledger, run), indent=1, sort_keys=True) + "\n"


def test_times(ledger: Ledger, run: str) -> Times:
    """Seconds by job, config and file, from `run` and the complete runs before it."""
    averaged, configs, kinds = _last(ledger, run)
    by_place: dict[tuple[str, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    with open_query(ledger, _SECONDS, runs=averaged) as reader:
        for of_run, environment, suite, file, seconds in reader.rows(_SECONDS):
            kind = kinds.get((of_run, environment, suite))
            if kind in ("gtest", "pytest"):
                by_place[environment, configs.get(environment, "default")][spelt(file, kind)].append(seconds)
    found: Times = defaultdict(dict)
    for (environment, config), files in by_place.items():
        found[environment][config] = {file: _mean(seconds) for file, seconds in files.items()}
    every = list(by_place.items())
    for config in sorted({config for _, config in by_place} | ({"default"} if by_place else set())):
        of_config = [files for (_, one), files in every if one == config or config == "default"]
        found["default"][config] = {
            file: _mean([_mean(files[file]) for files in of_config if file in files])
            for file in {file for files in of_config for file in files}
        }
    return {job: dict(configs) for job, configs in found.items()}


# pytest collects functions named test_*: this one is no test.
test_times.__test__ = False  # type: ignore[attr-defined]


def spelt(file: str, kind: str) -> str:
    """A file as PyTorch names it: `inductor/test_x` for `inductor/test_x.py`, `cpp/test_api` for a binary."""
    return f"cpp/{file.rsplit('/', 1)[-1]}" if kind == "gtest" else file.removesuffix(".py")


def _mean(values: Iterable[float]) -> float:
    known = list(values)
    return round(sum(known) / len(known), 3)


def _last(ledger: Ledger, run: str) -> tuple[list[str], dict[str, str], dict[tuple[str, str, str], str]]:
    """The runs to average over, the config of each environment, and the kind of each (run, environment, suite)."""
    with ledger.read() as connection:
        asked = connection.execute(select(runs).where(runs.c.id == run)).one()
        earlier = (
            select(runs.c.id, runs.c.plan)
            .where(runs.c.state == "complete", runs.c.created < asked.created)
            .order_by(runs.c.created.desc(), runs.c.id.desc())
            .limit(RUNS - 1)
        )
        chosen = [(asked.id, asked.plan), *((row.id, row.plan) for row in connection.execute(earlier))]
        configs: dict[str, str] = {}
        kinds: dict[tuple[str, str, str], str] = {}
        for one, plan in reversed(chosen):
            document = connection.scalar(select(plans.c.document).where(plans.c.id == plan))
            for environment in json.loads(document)["environments"] if document else ():
                configs[environment["name"]] = environment["config"]
            for environment, suite, kind in _kinds(connection, plan):
                kinds[one, environment, suite] = kind
    return [one for one, _ in chosen], configs, kinds


def _kinds(connection: Any, plan: str | None) -> Iterator[tuple[str, str, str]]:
    """(environment, suite, kind) of a plan: a suite is of one kind, so that one of its units tells it."""
    of_plan = select(plan_units.c.environment, plan_units.c.suite).where(plan_units.c.plan == plan).distinct()
    for environment, suite in connection.execute(of_plan).all():
        body = connection.scalar(
            select(plan_units.c.body)
            .where(plan_units.c.plan == plan, plan_units.c.environment == environment, plan_units.c.suite == suite)
            .limit(1)
        )
        yield environment, suite, json.loads(body)["kind"]
