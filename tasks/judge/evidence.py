"""What there is to judge: the tests that looked bad in a run, how they did alone, and how they did the last time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from sqlalchemy import Connection, Select, exists, select

from blocks.errors import LedgerError
from blocks.lease import BAD, worst
from blocks.ledger import Ledger
from blocks.ledger.query import Reader, open_query
from blocks.ledger.schema import INGESTED, runs, settlements, units
from tasks.judge.decide import POISON, Seen, Sighting

Key = tuple[str, str, str]
"""Environment, suite, test."""

WHOLE_UNIT = "::*"
"""How the key of a unit that was lost ends, in place of a test."""

_BAD = ", ".join(f"'{outcome}'" for outcome in sorted(BAD))
_SIGHTINGS = f"""
    WITH bad AS (SELECT DISTINCT environment, test_id FROM result_rows WHERE counted AND outcome IN ({_BAD}))
    SELECT environment, suite, test, attempt, mode, outcome, counted, ordinal, reason, unit
    FROM all_results SEMI JOIN bad USING (environment, test_id)"""
_FINALS = """
    SELECT environment, suite, test, list(DISTINCT outcome) FROM results
    SEMI JOIN (SELECT unnest($tests) AS test) USING (test) WHERE final GROUP BY ALL"""

RUNS_BACK = 20
"""In how many complete runs of its environment, from the newest, a test's previous outcome is looked for."""


def gather(ledger: Ledger, run: str) -> list[Seen]:
    """Every test that was bad in a counted attempt of the run, and every unit lost as poison, with what is known.

    Raises LedgerError for an unknown run.
    """
    with ledger.read() as connection:
        created = connection.scalar(select(runs.c.created).where(runs.c.id == run))
        if created is None:
            raise LedgerError(f"There is no run {run!r} to judge.")
        poisoned = _poisoned(connection, run)
    with open_query(ledger, "all_results", runs=[run]) as reader:
        sightings = _sightings(reader)
    keys = {*sightings, *poisoned}
    previous = _previous(ledger, _before(ledger, run, created, {environment for environment, _, _ in keys}), keys)
    seen = []
    for key in sorted(keys):
        previous_run, outcome = previous.get(key, (None, None))
        lost = POISON if key in poisoned else None
        seen.append(Seen(*key, tuple(sightings.get(key, ())), previous_run, outcome, lost, poisoned.get(key, "")))
    return seen


def _sightings(reader: Reader) -> dict[Key, list[Sighting]]:
    found: dict[Key, list[Sighting]] = defaultdict(list)
    for environment, suite, test, *sighting in reader.rows(_SIGHTINGS):
        found[environment, suite, test].append(Sighting(*sighting))
    return found


def _poisoned(connection: Connection, run: str) -> dict[Key, str]:
    """The units whose standing settlement is lost(poison), as the key of their verdict."""
    standing = _standing(run).where(settlements.c.terminal == "lost", settlements.c.reason.startswith(POISON))
    return {_key_of_unit(row): row.unit for row in connection.execute(standing)}


def _standing(run: str) -> Select[Any]:
    """The units of a run with the settlement that stands."""
    later = settlements.alias("later")
    superseded = exists().where(
        later.c.run == settlements.c.run, later.c.unit == settlements.c.unit, later.c.ordinal > settlements.c.ordinal
    )
    return (
        select(
            units.c.environment, units.c.suite, units.c.name, units.c.unit, settlements.c.terminal, settlements.c.reason
        )
        .join(settlements, (units.c.run == settlements.c.run) & (units.c.unit == settlements.c.unit))
        .where(units.c.run == run, ~superseded)
    )


def _key_of_unit(row: Any) -> Key:
    return row.environment, row.suite, f"{row.name}{WHOLE_UNIT}"


# -- before --------------------------------------------------------------------------------------------------------


def _before(ledger: Ledger, run: str, created: float, environments: Iterable[str]) -> dict[str, set[str]]:
    """The last complete runs before this one, from the newest, each with those environments it planned units in."""
    found: dict[tuple[float, str], set[str]] = defaultdict(set)
    with ledger.read() as connection:
        for environment in environments:
            planned = exists().where(units.c.run == runs.c.id, units.c.environment == environment)
            query = (
                select(runs.c.created, runs.c.id)
                .where(
                    runs.c.state == "complete",
                    runs.c.flow != INGESTED,
                    runs.c.created < created,
                    runs.c.id != run,
                    planned,
                )
                .order_by(runs.c.created.desc(), runs.c.id.desc())
                .limit(RUNS_BACK)
            )
            for when, earlier in connection.execute(query):
                found[when, earlier].add(environment)
    return {earlier: found[when, earlier] for when, earlier in sorted(found, reverse=True)}


def _previous(ledger: Ledger, before: dict[str, set[str]], keys: Iterable[Key]) -> dict[Key, tuple[str, str]]:
    """For each of these tests the last run in which it came to a final outcome, and that outcome.

    Runs are read one by one until nothing is left to find: mostly that is one, and a run of some tests only does not
    hide what the run before it saw of the others.
    """
    wanted = set(keys)
    found: dict[Key, tuple[str, str]] = {}
    for run, environments in before.items():
        here = {key for key in wanted - found.keys() if key[0] in environments}
        if here:
            found.update({key: (run, outcome) for key, outcome in _finals(ledger, run, here).items()})
    return found


def _finals(ledger: Ledger, run: str, keys: set[Key]) -> dict[Key, str]:
    """The final outcome in that run of those of the tests that have one there."""
    whole = {key for key in keys if key[2].endswith(WHOLE_UNIT)}
    found = _of_units(ledger, run, whole) if whole else {}
    tests = sorted({key[2] for key in keys - whole})
    if tests:
        with open_query(ledger, "results", runs=[run]) as reader:
            for environment, suite, test, outcomes in reader.rows(_FINALS, {"tests": tests}):
                if (environment, suite, test) in keys:
                    found[environment, suite, test] = worst(outcomes)
    return found


def _of_units(ledger: Ledger, run: str, keys: set[Key]) -> dict[Key, str]:
    """Whole units: one that ran was not lost, whatever became of its tests."""
    found: dict[Key, str] = {}
    with ledger.read() as connection:
        for row in connection.execute(_standing(run)):
            key = _key_of_unit(row)
            if key in keys and row.terminal in ("ran", "skipped"):
                found[key] = "passed"
            elif key in keys and row.terminal == "lost" and row.reason.startswith(POISON):
                found[key] = "crashed"
    return found
