"""What there is to judge: the tests that looked bad in a run, how they did alone, and how they did the last time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from sqlalchemy import Connection, exists, select

from blocks.errors import LedgerError
from blocks.lease import BAD
from blocks.ledger import Ledger
from blocks.ledger.query import Reader, open_query
from blocks.ledger.schema import runs, settlements, units
from tasks.judge.decide import POISON, Seen, Sighting

Key = tuple[str, str, str]
"""Environment, suite, test."""

_BAD = ", ".join(f"'{outcome}'" for outcome in sorted(BAD))
_SIGHTINGS = f"""
    WITH bad AS (SELECT DISTINCT environment, test_id FROM result_rows WHERE counted AND outcome IN ({_BAD}))
    SELECT environment, suite, test, attempt, mode, outcome, counted, ordinal, reason
    FROM all_results SEMI JOIN bad USING (environment, test_id)"""
_FINALS = """
    SELECT environment, suite, test, max(outcome) FROM results SEMI JOIN (SELECT unnest($tests) AS test) USING (test)
    WHERE final GROUP BY ALL"""


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
    before = _before(ledger, run, created, {environment for environment, _, _ in keys})
    previous = _previous(ledger, before, keys)
    return [
        Seen(
            environment, suite, test, tuple(sightings.get(key, ())), before.get(environment), previous.get(key),
            lost=POISON if key in poisoned else None, unit=poisoned.get(key, ""),
        )
        for key in sorted(keys)
        for environment, suite, test in [key]
    ]  # fmt: skip


def _sightings(reader: Reader) -> dict[Key, list[Sighting]]:
    found: dict[Key, list[Sighting]] = defaultdict(list)
    for environment, suite, test, *sighting in reader.rows(_SIGHTINGS):
        found[environment, suite, test].append(Sighting(*sighting))
    return found


def _poisoned(connection: Connection, run: str) -> dict[Key, str]:
    """The units whose standing settlement is lost(poison), as the key of their verdict."""
    later = settlements.alias("later")
    superseded = exists().where(
        later.c.run == settlements.c.run, later.c.unit == settlements.c.unit, later.c.ordinal > settlements.c.ordinal
    )
    query = (
        select(units.c.environment, units.c.suite, units.c.name, units.c.unit)
        .join(settlements, (units.c.run == settlements.c.run) & (units.c.unit == settlements.c.unit))
        .where(
            units.c.run == run, settlements.c.terminal == "lost", settlements.c.reason.startswith(POISON), ~superseded
        )
    )
    return {(row.environment, row.suite, f"{row.name}::*"): row.unit for row in connection.execute(query)}


def _before(ledger: Ledger, run: str, created: float, environments: Iterable[str]) -> dict[str, str]:
    """For each environment, the last complete run before this one that planned units in it."""
    before: dict[str, str] = {}
    with ledger.read() as connection:
        for environment in environments:
            planned = exists().where(units.c.run == runs.c.id, units.c.environment == environment)
            query = (
                select(runs.c.id)
                .where(runs.c.state == "complete", runs.c.created < created, runs.c.id != run, planned)
                .order_by(runs.c.created.desc(), runs.c.id.desc())
                .limit(1)
            )
            found = connection.scalar(query)
            if found is not None:
                before[environment] = found
    return before


def _previous(ledger: Ledger, before: dict[str, str], keys: Iterable[Key]) -> dict[Key, str]:
    """The final outcome that each of these tests had in the run before, where it had one."""
    wanted = set(keys)
    found: dict[Key, str] = {}
    for run in sorted(set(before.values())):
        here = {key for key in wanted if before.get(key[0]) == run}
        with ledger.read() as connection:
            found.update(dict.fromkeys(here & set(_poisoned(connection, run)), "crashed"))
        with open_query(ledger, "results", runs=[run]) as reader:
            for environment, suite, test, outcome in reader.rows(_FINALS, {"tests": sorted({key[2] for key in here})}):
                if (environment, suite, test) in here:
                    found[environment, suite, test] = outcome
    return found
