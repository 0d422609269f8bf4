"""Tests that went dark: they ran in the runs before, and this one has no result of them.

The rule. A run is compared, for each environment and suite that it planned, with the last `RUNS_BACK` complete runs
before it that planned the same environment and suite. A test *ran* there when a counted attempt gave it any outcome
but `skipped`; it is dark here when no counted attempt gave it a result. `why` tells its silence apart:

    unit_not_run   planned, and its unit ended skipped, not_run or lost: `reason` is the unit's
    no_result      planned, its unit ran, and it has no result all the same
    left_out       the plan left it or its file out, for a reason that did not stand there the last time that it ran
    vanished       none of these: nobody decided it, and nobody was told

A test whose unit is still open is not dark yet. Most runs have nothing dark, so finding that out is one query over
results; what is told apart is looked up in the records only for what was found.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from sqlalchemy import Connection, exists, select

from blocks.ledger.database import Ledger
from blocks.ledger.results import spellings
from blocks.ledger.schema import plan_units, plans, runs, settlements, units

if TYPE_CHECKING:
    from blocks.ledger.query import Reader

RUNS_BACK = 3
"""How many earlier runs of the same environment and suite a run is compared with."""

LOOKED_AT = 50
"""How many complete runs before a run are looked at to find those."""

WHY = ("vanished", "no_result", "unit_not_run", "left_out")
"""The most alarming first."""

Pair = tuple[str, str]
"""Environment, suite."""

_CHUNK = 500


@dataclass(frozen=True)
class Dark:
    """A test that ran before, last in `last_run`, and has no result in `run`."""

    run: str
    environment: str
    suite: str
    test: str
    test_id: str
    why: str
    reason: str
    last_run: str
    runs: int  # of those compared with, in how many it ran


SCHEMA = pa.schema([(name, pa.int64() if name == "runs" else pa.string()) for name in Dark.__dataclass_fields__])


@dataclass(frozen=True)
class Gone:
    """A dark test before it is known why."""

    environment: str
    suite: str
    test_id: str
    test: str
    file: str
    cls: str
    name: str
    unit: str  # where it ran last
    unit_name: str
    last_run: str
    runs: int


def before(connection: Connection, run: str, pairs: Iterable[Pair]) -> dict[Pair, list[str]]:
    """The runs that `run` is compared with, for each environment and suite, the newest first.

    `pairs` are those that it has units of; a suite that the plan left out altogether is compared as well.
    """
    pairs = {*pairs, *((skip["environment"], skip["suite"]) for skip in _left_out(connection, run))}
    created = connection.scalar(select(runs.c.created).where(runs.c.id == run))
    earlier = (
        select(runs.c.id)
        .where(runs.c.state == "complete", runs.c.created < created)
        .order_by(runs.c.created.desc(), runs.c.id.desc())
        .limit(LOOKED_AT)
    )
    candidates = list(connection.scalars(earlier))
    return {pair: list(_planning(connection, candidates, pair)) for pair in sorted(pairs)}


def _planning(connection: Connection, candidates: Sequence[str], pair: Pair) -> Iterator[str]:
    found = 0
    for candidate in candidates:
        if found == RUNS_BACK:
            return
        planned = exists().where(units.c.run == candidate, units.c.environment == pair[0], units.c.suite == pair[1])
        if connection.scalar(select(planned)):
            found += 1
            yield candidate


def dark_tests(connection: Connection, reader: Reader, run: str, compared: dict[Pair, list[str]]) -> list[Dark]:
    """The dark tests of `run`, the most alarming first. `reader` must see `results` of it and of all in `compared`."""
    gone = _gone(reader, run, compared)
    if not gone:
        return []
    planned = _Planned(connection, run, gone)
    omitted = _Omitted(connection, run, gone)
    found = []
    for test in gone:
        why, reason = planned.why(test) or omitted.why(test) or ("vanished", "")
        if why != "open":
            key = (test.environment, test.suite, test.test, test.test_id)
            found.append(Dark(run, *key, why, reason, test.last_run, test.runs))
    return sorted(found, key=lambda d: (WHY.index(d.why), d.environment, d.suite, d.test, d.test_id))


def summed(found: Sequence[Dark], compared: dict[Pair, list[str]], *, named: int) -> dict[str, Any]:
    """The dark tests as `show --json` has them: how many and why, the first by name, and what they were compared to."""
    by_why = Counter(dark.why for dark in found)
    return {
        "count": len(found),
        "by_why": {why: by_why[why] for why in WHY if by_why[why]},
        "tests": [{key: value for key, value in asdict(dark).items() if key != "run"} for dark in found[:named]],
        "compared_with": earlier_runs(compared),
    }


def dark_table(ledger: Ledger, wanted: Sequence[str] | None, *, newest: int) -> pa.Table:
    """The dark tests of these runs, or of the newest ones, with `SCHEMA`."""
    from blocks.ledger.query import open_query

    found: list[Dark] = []
    with ledger.read() as connection:
        latest = select(runs.c.id).order_by(runs.c.created.desc(), runs.c.id.desc()).limit(newest)
        for run in wanted if wanted is not None else list(connection.scalars(latest)):
            planned = select(units.c.environment, units.c.suite).where(units.c.run == run).distinct()
            compared = before(connection, run, [(row[0], row[1]) for row in connection.execute(planned)])
            with open_query(ledger, "results", runs=[run, *earlier_runs(compared)]) as reader:
                found += dark_tests(connection, reader, run, compared)
    return pa.Table.from_pylist([asdict(dark) for dark in found], schema=SCHEMA)


def earlier_runs(compared: dict[Pair, list[str]]) -> list[str]:
    """All runs that are compared with."""
    return sorted({run for bases in compared.values() for run in bases}, reverse=True)


# -- finding -------------------------------------------------------------------------------------------------------

# In two steps: which tests are gone is asked of their ids alone, in one pass over the runs; the rest is read only of
# what was found, in the run where it ran last. Ids are compared by 64 bits of them: that a test hides behind another
# one of a million has a chance of 1 in 10^13, and nothing is listed by mistake.
_IDS = """WITH base AS (SELECT unnest($environments) AS environment, unnest($suites) AS suite,
        unnest($bases) AS run, unnest($bits) AS bit, unnest($pairs) AS pair),
    seen AS (
        SELECT hash(x.test_id, x.environment) AS id, any_value(b.pair) AS pair,
            bit_or(CASE WHEN x.run = $run THEN 1 ELSE b.bit END) AS bits
        FROM result_rows x LEFT JOIN base b USING (environment, suite, run)
        WHERE x.counted AND (x.run = $run OR (b.bit IS NOT NULL AND x.outcome <> 'skipped'))
        GROUP BY id)
    SELECT id, pair, bits FROM seen WHERE bits & 1 = 0"""
_GONE = """WITH gone AS (SELECT unnest($ids) AS id, unnest($counts) AS runs)
    SELECT x.environment, x.suite, x.test_id, any_value(x.test), any_value(x.file), any_value(x.cls),
        any_value(x.name), any_value(x.unit), any_value(x.unit_name), x.run, any_value(g.runs)
    FROM result_rows x JOIN gone g ON g.id = hash(x.test_id, x.environment)
    WHERE x.run = $base AND x.counted AND x.outcome <> 'skipped'
    GROUP BY x.run, x.environment, x.suite, x.test_id"""


def _gone(reader: Reader, run: str, compared: dict[Pair, list[str]]) -> list[Gone]:
    pairs = list(compared)
    # Bit 0 of a test says that it is in this run, bit n that it ran in the nth run before.
    rows = [
        (*pair, base, 2 << back, number)
        for number, pair in enumerate(pairs)
        for back, base in enumerate(compared[pair])
    ]
    if not rows:
        return []
    names = ("environments", "suites", "bases", "bits", "pairs")
    given = dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))
    last: dict[str, tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))
    for identity, pair, bits in reader.rows(_IDS, {"run": run, **given}):
        newest = (bits & -bits).bit_length() - 2
        base = compared[pairs[pair]][newest]
        last[base][0].append(identity)
        last[base][1].append(bits.bit_count())
    return [
        Gone(*row)
        for base, (ids, counts) in last.items()
        for row in reader.rows(_GONE, {"base": base, "ids": ids, "counts": counts})
    ]


# -- telling apart -------------------------------------------------------------------------------------------------


class _Planned:
    """What this run's plan holds of the files that the tests are in, and how those units ended."""

    def __init__(self, connection: Connection, run: str, gone: Sequence[Gone]) -> None:
        # A unit of the same id has the same tests. Only where that is not planned any more (one of its tests was
        # added or went) are the units of the same file looked for, which takes a look at every unit.
        known = set(_known(connection, run, sorted({test.unit for test in gone})))
        files = {(test.environment, test.suite, _whole(test.unit_name)) for test in gone if test.unit not in known}
        if files:
            query = select(units.c.unit, units.c.environment, units.c.suite, units.c.name).where(units.c.run == run)
            rows = connection.execute(query)
            known |= {unit for unit, *place, name in rows if (*place, _whole(name)) in files}
        self._ends = dict(_ends(connection, run, sorted(known)))
        self._units: dict[tuple[str, str, str, str], str] = {}
        for unit, environment, suite, body in _bodies(connection, run, sorted(known)):
            # A unit that lists no tests (a model, a command) stands for itself.
            for test in body["tests"] or [f"{body['name']}::*"]:
                self._units[environment, suite, _whole(body["name"]), test.replace("::", ".")] = unit

    def why(self, test: Gone) -> tuple[str, str] | None:
        """Why a planned test has no result; None where it was not planned."""
        place = (test.environment, test.suite, _whole(test.unit_name))
        names = [*sorted(spellings(test.file, test.cls, test.name)), f"{test.unit_name}::*".replace("::", ".")]
        unit = next((self._units[*place, name] for name in names if (*place, name) in self._units), None)
        if unit is None:
            return None
        terminal, reason = self._ends.get(unit, ("open", ""))
        if terminal in ("open", "ran"):
            return ("open", "") if terminal == "open" else ("no_result", "")
        return "unit_not_run", f"{terminal}: {reason}" if reason else terminal


def _whole(unit_name: str) -> str:
    """The name of a file's units, without the number of the piece."""
    return unit_name.rpartition(" [")[0] if unit_name.endswith("]") and " [" in unit_name else unit_name


def _known(connection: Connection, run: str, wanted: Sequence[str]) -> Iterator[str]:
    """Those of the units that the run has."""
    for start in range(0, len(wanted), _CHUNK):
        some = units.c.unit.in_(wanted[start : start + _CHUNK])
        yield from connection.scalars(select(units.c.unit).where(units.c.run == run, some))


def _ends(connection: Connection, run: str, wanted: Sequence[str]) -> Iterator[tuple[str, tuple[str, str]]]:
    """Units with the settlement that stands; a later one of a unit comes after the earlier."""
    for start in range(0, len(wanted), _CHUNK):
        some = wanted[start : start + _CHUNK]
        query = select(settlements.c.unit, settlements.c.terminal, settlements.c.reason)
        of_run = query.where(settlements.c.run == run, settlements.c.unit.in_(some)).order_by(settlements.c.ordinal)
        for unit, terminal, reason in connection.execute(of_run):
            yield unit, (terminal, reason)


def _bodies(connection: Connection, run: str, wanted: Sequence[str]) -> Iterator[tuple[str, str, str, dict[str, Any]]]:
    plan = connection.scalar(select(runs.c.plan).where(runs.c.id == run))
    for start in range(0, len(wanted), _CHUNK):
        some = wanted[start : start + _CHUNK]
        query = select(plan_units.c.unit, plan_units.c.environment, plan_units.c.suite, plan_units.c.body)
        for unit, environment, suite, body in connection.execute(
            query.where(plan_units.c.plan == plan, plan_units.c.unit.in_(some))
        ):
            yield unit, environment, suite, json.loads(body)


class _Omitted:
    """What this run's plan left out, and what the plans before it did."""

    def __init__(self, connection: Connection, run: str, gone: Sequence[Gone]) -> None:
        self._run = run
        self._reasons: dict[str, dict[tuple[str, str, str], set[str]]] = {}
        for one in {run, *(test.last_run for test in gone)}:
            reasons: dict[tuple[str, str, str], set[str]] = defaultdict(set)
            for skip in _left_out(connection, one):
                reasons[skip["environment"], skip["suite"], skip["name"]].add(skip["reason"])
            self._reasons[one] = reasons

    def why(self, test: Gone) -> tuple[str, str] | None:
        """The reason why it is not in the plan; None where the plan gives none that is new since it ran."""
        # A part of a file may be left out for as long as anybody remembers: that does not explain a test which ran.
        files = {test.file, test.file.rsplit("/", 1)[-1], _whole(test.unit_name)}
        for name in (test.test, *sorted(files), test.suite):
            key = (test.environment, test.suite, name)
            if new := self._reasons[self._run].get(key, set()) - self._reasons[test.last_run].get(key, set()):
                return "left_out", min(new)
        return None


def _left_out(connection: Connection, run: str) -> list[dict[str, str]]:
    query = select(plans.c.document).join(runs, runs.c.plan == plans.c.id).where(runs.c.id == run)
    document = connection.scalar(query)
    return list(json.loads(document).get("left_out", ())) if document else []
