"""Reading the story of a run from the ledger: records by SQL here, results by DuckDB in `figures.py` and `failures.py`.

Everything is aggregated where it lies, so that a run of 100,000 tests costs little more memory than one of 100.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from importlib import metadata
from typing import Any

from sqlalchemy import Connection, and_, exists, func, select

from blocks.errors import LedgerError
from blocks.ledger import Ledger, schema
from blocks.ledger.completeness import NEEDS, UnitCount, missing_tests, unit_counts
from blocks.ledger.dark import WHY, Dark, earlier_runs
from blocks.ledger.query import open_query
from blocks.ledger.schema import attempts, now, runs, settlements, units
from tasks.publish.accounting import went_dark
from tasks.publish.report import facts, failures, figures, lanes
from tasks.publish.report.story import Books, Cell, DarkTests, MachineFacts, Reason, SlowUnit, Story, Uncounted

MACHINES = 50
"""How many machines are described."""
EXAMPLES = 20

_TERMINALS = ("ran", "skipped", "not_run", "lost")


def gather(ledger: Ledger, run: str) -> Story:
    """All that the report says about `run`. Raises LedgerError when the ledger has no such run."""
    with ledger.read() as connection:
        counts = unit_counts(connection, [run])
        story, cells = _recorded(connection, run, counts)
        went, compared, trouble = went_dark(ledger, connection, run, counts)
        with open_query(ledger, f"metrics {NEEDS}", runs=[run]) as reader:
            outcomes = figures.outcomes(reader, run)
            missing, named = missing_tests(connection, reader, run, counts)
            return replace(
                story,
                cells=tuple(replace(cell, outcomes=outcomes.get((cell.suite, cell.environment), {})) for cell in cells),
                outcomes=_summed(outcomes),
                company=figures.in_company(reader, run),
                dark=_dark(went),
                dark_trouble=trouble,
                compared=tuple(earlier_runs(compared)),
                missing=missing,
                missing_names=tuple(f"{test.unit_name}: {test.test}" for test in named),
                damaged=tuple(error.what for error in reader.damaged[:EXAMPLES]),
                groups=failures.groups(connection, reader, ledger.store, run),
                slow_tests=figures.slow_tests(reader, run),
                benchmarks=figures.benchmarks(reader, run),
            )


def _recorded(connection: Connection, run: str, counts: Sequence[UnitCount]) -> tuple[Story, list[Cell]]:
    """What the records say; the results are still missing."""
    row = connection.execute(select(runs).where(runs.c.id == run)).one_or_none()
    if row is None:
        raise LedgerError(f"The ledger has no run {run}.", do="`commonfleet runs` lists those it has.")
    asked = float(connection.scalar(select(now())) or 0.0)
    conclusion = facts.parsed(row.conclusion)
    document = facts.parsed(connection.scalar(select(schema.plans.c.document).where(schema.plans.c.id == row.plan)))
    cells = _cells(connection, run, counts)
    uncounted = _uncounted(connection, run)
    isolation = _isolation(connection, run)
    story = Story(
        run=run,
        flow=row.flow,
        state=row.state,
        created=row.created,
        finished=row.finished,
        asked=asked,
        exit_code=conclusion.get("exit_code"),
        sentence=str(conclusion.get("sentence") or _unfinished(row.state)),
        plan=row.plan or "",
        version=metadata.version("commonfleet"),
        books=Books(*(sum(getattr(cell.books, field) for cell in cells) for field in ("planned", *_TERMINALS))),
        outcomes={},
        reasons=_reasons(connection, run, counts),
        left_out=facts.left_out(document),
        timeline=lanes.timeline(connection, run, asked),
        slow_units=_slow_units(connection, run),
        attempts=sum(isolation.values()),
        uncounted=uncounted,
        machines=_machines(connection, run),
        builds=facts.build_facts(document, _versions(connection, document)),
        isolation=isolation,
        events=_events(connection, run),
    )
    return story, cells


def _unfinished(state: str) -> str:
    said = {
        "planning": "The plan is being made; nothing has run yet.",
        "running": "The run is under way.",
        "cancelling": "The run is being cancelled.",
        "cancelled": "The run was cancelled.",
        "failed": "The run failed before it could come to a conclusion.",
    }
    return said.get(state, "The run has ended without a conclusion on record.")


def _cells(connection: Connection, run: str, counts: Sequence[UnitCount]) -> list[Cell]:
    by_state: dict[tuple[str, str], dict[str | None, int]] = defaultdict(lambda: defaultdict(int))
    for count in counts:
        by_state[count.suite, count.environment][count.terminal] += count.units
    work = (
        select(units.c.suite, units.c.environment, func.sum(attempts.c.seconds))
        .join(units, and_(units.c.run == attempts.c.run, units.c.unit == attempts.c.unit))
        .where(attempts.c.run == run)
        .group_by(units.c.suite, units.c.environment)
    )
    seconds = {(suite, environment): float(total) for suite, environment, total in connection.execute(work)}
    return [
        Cell(
            *where,
            Books(sum(states.values()), *(states[terminal] for terminal in _TERMINALS)),
            {},
            seconds.get(where, 0.0),
        )
        for where, states in sorted(by_state.items())
    ]


def _reasons(connection: Connection, run: str, counts: Sequence[UnitCount]) -> tuple[Reason, ...]:
    """Why units did not run, the worst first, with some of their names."""
    kind = (settlements.c.terminal, settlements.c.reason, units.c.suite, units.c.environment)
    later = settlements.alias("later")
    superseded = exists().where(
        later.c.run == settlements.c.run, later.c.unit == settlements.c.unit, later.c.ordinal > settlements.c.ordinal
    )
    ranked = (
        select(*kind, units.c.name, func.row_number().over(partition_by=kind, order_by=units.c.position).label("rank"))
        .join(units, and_(units.c.run == settlements.c.run, units.c.unit == settlements.c.unit))
        .where(settlements.c.run == run, settlements.c.terminal != "ran", ~superseded)
        .subquery()
    )
    names: dict[tuple[str, ...], list[str]] = defaultdict(list)
    query = select(ranked).where(ranked.c.rank <= facts.NAMES).order_by(ranked.c.rank)
    for terminal, reason, suite, environment, name, _ in connection.execute(query):
        names[terminal, reason, suite, environment].append(name)
    found = [
        Reason(
            c.terminal,
            c.suite,
            c.environment,
            c.reason,
            c.units,
            tuple(names[c.terminal, c.reason, c.suite, c.environment]),
        )
        for c in counts
        if c.terminal in ("lost", "not_run", "skipped")
    ]
    order = ("lost", "not_run", "skipped")
    return facts.shortened(
        sorted(found, key=lambda r: (order.index(r.what), -r.count, r.suite, r.environment, r.reason))
    )


def _dark(found: Sequence[Dark]) -> tuple[DarkTests, ...]:
    """The dark tests by why they are, the most alarming first."""
    groups = ((why, [one for one in found if one.why == why]) for why in WHY)
    return tuple(
        DarkTests(why, len(group), tuple((one.environment, one.test, one.reason) for one in group[: facts.NAMES]))
        for why, group in groups
        if group
    )


def _slow_units(connection: Connection, run: str) -> tuple[SlowUnit, ...]:
    total = func.sum(attempts.c.seconds)
    query = (
        select(units.c.suite, units.c.environment, units.c.name, total, units.c.estimate_seconds, units.c.tests)
        .join(units, and_(units.c.run == attempts.c.run, units.c.unit == attempts.c.unit))
        .where(attempts.c.run == run, attempts.c.counted)
        .group_by(
            units.c.unit, units.c.suite, units.c.environment, units.c.name, units.c.estimate_seconds, units.c.tests
        )
        .order_by(total.desc(), units.c.name)
        .limit(20)
    )
    return tuple(SlowUnit(*row) for row in connection.execute(query))


def _uncounted(connection: Connection, run: str) -> tuple[Uncounted, ...]:
    where = and_(attempts.c.run == run, attempts.c.counted.is_(False))
    number = func.count()
    query = select(attempts.c.reason, number).where(where).group_by(attempts.c.reason).order_by(number.desc())
    found = []
    for reason, made in connection.execute(query.limit(facts.REASONS)).all():
        examples = (
            select(units.c.name, attempts.c.machine)
            .join(units, and_(units.c.run == attempts.c.run, units.c.unit == attempts.c.unit))
            .where(where, attempts.c.reason == reason)
            .order_by(attempts.c.started)
            .limit(EXAMPLES)
        )
        found.append(Uncounted(reason, made, tuple((row[0], row[1]) for row in connection.execute(examples))))
    return tuple(found)


def _isolation(connection: Connection, run: str) -> dict[str, int]:
    number = func.count()
    query = select(attempts.c.isolation, number).where(attempts.c.run == run).group_by(attempts.c.isolation)
    return _headmost(connection.execute(query.order_by(number.desc(), attempts.c.isolation)), 12)


def _machines(connection: Connection, run: str) -> tuple[MachineFacts, ...]:
    leased = select(schema.leases.c.machine).where(schema.leases.c.run == run)
    query = select(schema.machines).where(schema.machines.c.id.in_(leased)).order_by(schema.machines.c.id)
    found = []
    for row in connection.execute(query.limit(MACHINES)):
        fingerprint = facts.parsed(row.fingerprint)
        line = facts.headline(fingerprint)
        found.append(MachineFacts(row.id, row.pool, row.vendor, row.slots, line, facts.flat(fingerprint)))
    return tuple(found)


def _versions(connection: Connection, document: Mapping[str, Any]) -> dict[str, str]:
    wanted = {environment["build_digest"] for environment in document.get("environments", ())}
    query = select(schema.builds.c.digest, schema.builds.c.manifest).where(schema.builds.c.digest.in_(wanted))
    return {digest: str(json.loads(manifest).get("version", "")) for digest, manifest in connection.execute(query)}


def _events(connection: Connection, run: str) -> dict[str, int]:
    query = select(schema.events.c.kind, func.count()).where(schema.events.c.run == run).group_by(schema.events.c.kind)
    return _headmost(connection.execute(query.order_by(schema.events.c.kind)), 60)


def _headmost(rows: Iterable[Any], limit: int) -> dict[str, int]:
    """name -> number of the first `limit` rows, and the rest together."""
    listed = [(str(row[0]), int(row[1])) for row in rows]
    rest = sum(number for _, number in listed[limit:])
    return {**dict(listed[:limit]), **({"others": rest} if rest else {})}


def _summed(cells: Mapping[tuple[str, str], Mapping[str, int]]) -> dict[str, int]:
    total: dict[str, int] = defaultdict(int)
    for outcomes in cells.values():
        for outcome, number in outcomes.items():
            total[outcome] += number
    return dict(total)
