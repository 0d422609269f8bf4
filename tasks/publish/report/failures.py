"""The failures of a run: which ones there are, what they mean (verdicts), what they printed, how to see them again.

Driven by the verdicts, which exist only for tests that looked bad; tests that look bad and have none yet (a run
still going, or cut off) come as `unjudged`. Everything is capped, because a broken build can fail all tests at once.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

from sqlalchemy import Connection, and_, func, select

from blocks.lease import BAD
from blocks.ledger.query import Reader
from blocks.ledger.schema import verdicts
from blocks.store import Store
from tasks.publish.report import facts
from tasks.publish.report.details import Budget, Details, Key, Standing
from tasks.publish.report.story import FailureGroup, GroupKind

SHOWN: Mapping[GroupKind, int] = {
    "new": 100, "unjudged": 50, "order_dependent": 60, "quarantined": 40, "known": 40, "other": 40,
}  # fmt: skip
"""How many failures of each kind a page holds, in the order in which they stand there."""
PAGE_TEXT = 700_000
"""How many bytes of messages, output and commands a page holds in all. What people look at first is filled first."""

_BAD_LIST = ", ".join(f"'{outcome}'" for outcome in sorted(BAD))


def groups(connection: Connection, reader: Reader, store: Store, run: str) -> tuple[FailureGroup, ...]:
    """The failures by what they mean, those that decide the verdict first."""
    kept: dict[GroupKind, dict[Key, Standing]] = {kind: {} for kind in SHOWN}
    totals: dict[GroupKind, int] = defaultdict(int)
    judged: set[int] = set()
    for key, verdict in _verdicts(connection, run):
        judged.add(hash(key))
        if "withdrawn" in verdict.evidence:
            continue
        kind = kind_of(verdict.cause, verdict.gates, verdict.evidence)
        totals[kind] += 1
        if len(kept[kind]) < SHOWN[kind]:
            kept[kind][key] = verdict
    for key in _bad_tests(reader, run):
        if hash(key) not in judged:
            totals["unjudged"] += 1
            if len(kept["unjudged"]) < SHOWN["unjudged"]:
                kept["unjudged"][key] = Standing("", False, {})
    details = Details(connection, reader, store, run, [key for group in kept.values() for key in group])
    budget = Budget(PAGE_TEXT)
    return tuple(
        FailureGroup(kind, totals[kind], tuple(details.failure(key, verdict, budget) for key, verdict in group.items()))
        for kind, group in kept.items()
        if totals[kind]
    )


def kind_of(cause: str, gates: bool, evidence: Mapping[str, Any]) -> GroupKind:
    """What a verdict means to a reader. What gates is new, whatever its cause."""
    if gates:
        return "new"
    if cause == "order_dependent":
        return "order_dependent"
    if evidence.get("quarantined"):
        return "quarantined"
    return "known" if cause == "broken_trunk" else "other"


def _verdicts(connection: Connection, run: str) -> Iterator[tuple[Key, Standing]]:
    """The verdict that stands for each test: the one with the highest ordinal."""
    key = (verdicts.c.environment, verdicts.c.suite, verdicts.c.test)
    last = (
        select(*key, func.max(verdicts.c.ordinal).label("ordinal"))
        .where(verdicts.c.run == run)
        .group_by(*key)
        .subquery()
    )
    same = and_(*(last.c[column.name] == column for column in (*key, verdicts.c.ordinal)))
    query = (
        select(verdicts)
        .join(last, same)
        .where(verdicts.c.run == run)
        .order_by(verdicts.c.gates.desc(), verdicts.c.suite, verdicts.c.environment, verdicts.c.test)
        .execution_options(yield_per=2000)
    )
    for row in connection.execute(query):
        yield (row.suite, row.environment, row.test), Standing(row.cause, row.gates, facts.parsed(row.evidence))


def _bad_tests(reader: Reader, run: str) -> Iterator[Key]:
    rows = reader.rows(
        f"""SELECT DISTINCT suite, environment, test FROM results
        WHERE run = $run AND outcome IN ({_BAD_LIST}) ORDER BY ALL""",
        {"run": run},
    )
    return ((suite, environment, test) for suite, environment, test in rows)
