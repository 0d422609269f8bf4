"""Is everything planned accounted for? Units by terminal state, and tests that were planned and have no result.

Counting is done by the databases, never row by row here: a run of 100,000 units is summed up in a moment.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, Select, and_, case, exists, func, or_, select

from blocks.ledger.query import Reader
from blocks.ledger.results import spellings
from blocks.ledger.schema import plan_units, plans, runs, settlements, units

NEEDS = "results"
"""The view that `missing_tests` reads, for `open_query`."""

_AT_ONCE = 500  # units looked up by one statement
NAMED = 100
"""How many missing tests are named; the rest is only counted."""


@dataclass(frozen=True)
class UnitCount:
    """How many units of a suite in an environment ended in one way. `terminal` is None for units still open."""

    run: str
    suite: str
    environment: str
    terminal: str | None
    reason: str
    units: int
    expecting: int  # units of which the plan expects results


@dataclass(frozen=True)
class MissingTest:
    """A planned test with no result in any counted attempt, although its unit ran."""

    unit: str
    unit_name: str
    suite: str
    environment: str
    test: str


def unit_counts(connection: Connection, wanted: list[str]) -> list[UnitCount]:
    """The units of these runs, by suite, environment, terminal state and reason, as the latest settlement has it."""
    # Nearly all units of a run simply ran. The others are looked at one by one, those are what is left of what the
    # plan says it holds: a run of 100,000 units that has come to its end is summed up without reading its units.
    planned = _planned(connection, wanted)
    settled = _settled_units(connection, wanted)
    closed = [run for run in wanted if run in planned and settled[run] == sum(planned[run].values())]
    going_on = [run for run in wanted if run not in closed]
    found = _taken_off(planned, _count_others(connection, closed)) if closed else []
    return found + (_count_open(connection, going_on, settled) if going_on else [])


Key = tuple[str, str, str]
"""Run, suite, environment."""


def _planned(connection: Connection, wanted: list[str]) -> dict[str, dict[Key, int]]:
    """The units that the plans of these runs say they hold, where they say it. (Each expects results.)"""
    query = select(runs.c.id, plans.c.document).join(plans, plans.c.id == runs.c.plan).where(runs.c.id.in_(wanted))
    found: dict[str, dict[Key, int]] = {}
    for run, document in connection.execute(query):
        said = json.loads(document).get("planned")
        if said is not None:
            found[run] = {(run, entry["suite"], entry["environment"]): entry["units"] for entry in said}
    return found


def _taken_off(planned: dict[str, dict[Key, int]], others: list[UnitCount]) -> list[UnitCount]:
    """The units of closed runs: `others`, and those that simply ran, which are the rest."""
    rest: Counter[Key] = Counter()
    expecting: Counter[Key] = Counter()
    for run in planned.values():
        rest.update(run)
        expecting.update(run)
    for count in others:
        rest[count.run, count.suite, count.environment] -= count.units
        expecting[count.run, count.suite, count.environment] -= count.expecting
    return others + [UnitCount(*key, "ran", "", number, expecting[key]) for key, number in rest.items() if number > 0]


def _count_open(connection: Connection, wanted: list[str], settled: Counter[str]) -> list[UnitCount]:
    """The same of runs that go on, or whose plan does not say how much it holds."""
    if sum(settled[run] for run in wanted) != _terminal_units(connection, wanted):
        return _count_each(connection, wanted)
    others = _count_others(connection, wanted)
    known: Counter[Key] = Counter()
    known_expecting: Counter[Key] = Counter()
    for count in others:
        known[count.run, count.suite, count.environment] += count.units
        known_expecting[count.run, count.suite, count.environment] += count.expecting
    counts = list(others)
    for run, suite, environment, state, number, expecting in connection.execute(_totals(wanted)):
        key = (run, suite, environment)
        if state != "terminal":
            counts.append(UnitCount(*key, None, "", number, expecting))
        elif number > known[key]:
            counts.append(UnitCount(*key, "ran", "", number - known[key], expecting - known_expecting[key]))
    return counts


_EXPECTING = func.coalesce(func.sum(case((units.c.tests > 0, 1), else_=0)), 0)
_OF_UNIT = and_(units.c.run == settlements.c.run, units.c.unit == settlements.c.unit)


def _totals(wanted: list[str]) -> Select[tuple[str, str, str, str, int, int]]:
    key = (units.c.run, units.c.suite, units.c.environment, units.c.state)
    query: Select[tuple[str, str, str, str, int, int]] = select(*key, func.count(), _EXPECTING)
    return query.where(units.c.run.in_(wanted)).group_by(*key)


def _latest() -> ColumnElement[bool]:
    """No settlement of the unit is later."""
    later = settlements.alias("later")
    return ~exists().where(
        later.c.run == settlements.c.run, later.c.unit == settlements.c.unit, later.c.ordinal > settlements.c.ordinal
    )


def _count_others(connection: Connection, wanted: list[str]) -> list[UnitCount]:
    """The settled units that did not simply run."""
    key = (settlements.c.run, units.c.suite, units.c.environment, settlements.c.terminal, settlements.c.reason)
    remarkable = or_(settlements.c.terminal != "ran", settlements.c.reason != "")
    query = (
        select(*key, func.count(), _EXPECTING)
        .join(units, _OF_UNIT)
        .where(settlements.c.run.in_(wanted), remarkable, _latest())
        .group_by(*key)
    )
    return [UnitCount(*row) for row in connection.execute(query)]


def _count_each(connection: Connection, wanted: list[str]) -> list[UnitCount]:
    """Every unit with its settlement, where the two do not match; a terminal unit without one counts as open."""
    reason = func.coalesce(settlements.c.reason, "")
    key = (units.c.run, units.c.suite, units.c.environment, settlements.c.terminal, reason)
    query = (
        select(*key, func.count(), _EXPECTING)
        .join(settlements, and_(_OF_UNIT, _latest()), isouter=True)
        .where(units.c.run.in_(wanted))
        .group_by(*key)
    )
    return [UnitCount(*row) for row in connection.execute(query)]


def _settled_units(connection: Connection, wanted: list[str]) -> Counter[str]:
    first = and_(settlements.c.run.in_(wanted), settlements.c.ordinal == 1)
    query = select(settlements.c.run, func.count()).where(first).group_by(settlements.c.run)
    return Counter({row[0]: row[1] for row in connection.execute(query)})


def _terminal_units(connection: Connection, wanted: list[str]) -> int:
    terminal = and_(units.c.run.in_(wanted), units.c.state == "terminal")
    return connection.scalar(select(func.count()).where(terminal)) or 0


# -- tests ---------------------------------------------------------------------------------------------------------


def missing_tests(
    connection: Connection, reader: Reader, run: str, counts: Sequence[UnitCount]
) -> tuple[int, list[MissingTest]]:
    """How many planned tests of units that ran have no counted result, and the first of them by name.

    `reader` must see `NEEDS`; `counts` are the run's `unit_counts`. Tests of units that did not run are accounted
    for by their unit's reason. A unit's tests are compared by number: admission takes results of planned tests only.
    """
    short, seen = _compared(connection, reader, run, counts)
    ran_expecting = sum(count.expecting for count in counts if count.terminal == "ran")
    if seen == ran_expecting:
        if not short:
            return 0, []
        ran = _ran(connection, run, list(short))
    else:
        ran = _ran(connection, run)
        with_results = "SELECT DISTINCT unit FROM results WHERE run = $run"
        some = {unit for (unit,) in reader.rows(with_results, {"run": run})}
        short = {unit: short.get(unit, 0) for unit in ran if unit in short or unit not in some}
    wanting = sorted(unit for unit in short if ran.get(unit))
    number = sum(ran[unit] - short[unit] for unit in wanting)
    return number, _named(connection, reader, run, wanting[:NAMED])[:NAMED]


_COMPARED = """WITH seen AS (
        SELECT unit, count(*) FILTER (final) AS tests, max(planned) AS planned
        FROM result_rows WHERE run = $run AND counted GROUP BY unit)
    SELECT count(*) FILTER (planned > 0 AND unit NOT IN (SELECT unnest($others))),
        list(unit) FILTER (tests < planned), list(tests) FILTER (tests < planned)
    FROM seen"""


def _compared(
    connection: Connection, reader: Reader, run: str, counts: Sequence[UnitCount]
) -> tuple[dict[str, int], int]:
    """The units with fewer tests seen than planned, with that number, and how many that ran have any result."""
    others: list[str] = []
    if any(count.terminal != "ran" for count in counts if count.expecting):
        others = _not_ran(connection, run, going_on=any(count.terminal is None for count in counts))
    ((seen, names, tests),) = reader.rows(_COMPARED, {"run": run, "others": others})
    return dict(zip(names or (), tests or (), strict=True)), seen


def _ran(connection: Connection, run: str, among: list[str] | None = None) -> dict[str, int]:
    """The units (`among` these) whose terminal state is `ran`, with the results expected of each."""
    query = (
        select(units.c.unit, units.c.tests)
        .join(settlements, _OF_UNIT)
        .where(units.c.run == run, settlements.c.run == run, settlements.c.terminal == "ran", _latest())
    )
    if among is None:
        return {row.unit: row.tests for row in connection.execute(query)}
    found: dict[str, int] = {}
    for start in range(0, len(among), _AT_ONCE):
        some = query.where(units.c.unit.in_(among[start : start + _AT_ONCE]))
        found.update({row.unit: row.tests for row in connection.execute(some)})
    return found


def _not_ran(connection: Connection, run: str, *, going_on: bool) -> list[str]:
    """The units whose terminal state is another than `ran`, and while the run is `going_on` those that are open."""
    ended = select(settlements.c.unit).where(settlements.c.run == run, settlements.c.terminal != "ran", _latest())
    found = list(connection.scalars(ended))
    if going_on:
        found += connection.scalars(select(units.c.unit).where(units.c.run == run, units.c.state != "terminal"))
    return found


def _named(connection: Connection, reader: Reader, run: str, wanted: list[str]) -> list[MissingTest]:
    query = (
        select(plan_units.c.body, plan_units.c.unit)
        .join(runs, runs.c.plan == plan_units.c.plan)
        .where(runs.c.id == run, plan_units.c.unit.in_(wanted))
        .order_by(plan_units.c.suite, plan_units.c.environment, plan_units.c.name)
    )
    seen: dict[str, set[str]] = {unit: set() for unit in wanted}
    results = "SELECT unit, file, cls, name FROM results WHERE run = $run AND unit IN (SELECT unnest($units))"
    for unit, file, cls, name in reader.rows(results, {"run": run, "units": wanted}):
        seen[unit] |= spellings(file, cls, name)
    missing = []
    for body, unit in connection.execute(query):
        planned = json.loads(body)
        missing += [
            MissingTest(unit, planned["name"], planned["suite"], planned["environment"], test)
            for test in planned["tests"]
            if test.replace("::", ".") not in seen[unit]
        ]
    return missing
