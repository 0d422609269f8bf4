"""What a unit will probably take: the mean of its last counted attempts, else what is known of its file.

Estimates decide the order of dispatch and what is shown as time left. They play no part in the plan's id.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from sqlalchemy import Connection, func, select

from blocks.ledger.schema import attempts, runs, units

RECENT_ATTEMPTS = 5
RECENT_RUNS = 10
"""How far back to look. A bound, so that planning does not slow down as the ledger grows."""

PIECE = re.compile(r" \[\d+/\d+\]$")


class Estimates(Protocol):
    """Anything that may know how long a unit takes, in seconds."""

    def seconds(self, suite: str, environment: str, name: str, tests: int) -> float | None:
        """The expected duration of the unit `name` with so many tests, or None when nothing is known."""
        ...


def file_of(name: str) -> str:
    """The file that a unit's name speaks of: the name without its piece.

    >>> file_of("test_api [1/3]")
    'test_api'
    """
    return PIECE.sub("", name)


@dataclass(frozen=True)
class Measured:
    """Mean seconds by (suite, environment, unit name), and seconds per test by (suite, environment, file)."""

    units: Mapping[tuple[str, str, str], float] = field(default_factory=dict)
    per_test: Mapping[tuple[str, str, str], float] = field(default_factory=dict)

    def seconds(self, suite: str, environment: str, name: str, tests: int) -> float | None:
        known = self.units.get((suite, environment, name))
        if known is not None:
            return known
        per_test = self.per_test.get((suite, environment, file_of(name)))
        return None if per_test is None else per_test * max(tests, 1)


NOTHING_MEASURED = Measured()


def measured(connection: Connection) -> Measured:
    """What the ledger's last runs say. Only counted attempts in company speak for a whole unit."""
    recent_runs = select(runs.c.id).where(runs.c.plan.is_not(None)).order_by(runs.c.created.desc()).limit(RECENT_RUNS)
    key = (units.c.suite, units.c.environment, units.c.name)
    newest = func.row_number().over(partition_by=key, order_by=(attempts.c.started.desc(), attempts.c.id))
    joined = attempts.join(units, (units.c.run == attempts.c.run) & (units.c.unit == attempts.c.unit))
    numbered = (
        select(*key, units.c.tests, attempts.c.seconds, newest.label("age"))
        .select_from(joined)
        .where(attempts.c.run.in_(recent_runs), attempts.c.mode == "company", attempts.c.counted)
        .subquery()
    )
    n = numbered.c
    rows = connection.execute(
        select(n.suite, n.environment, n.name, func.avg(n.seconds), func.avg(n.tests))
        .where(n.age <= RECENT_ATTEMPTS)
        .group_by(n.suite, n.environment, n.name)
    )
    return _measured({(row[0], row[1], row[2]): (float(row[3]), float(row[4])) for row in rows})


def _measured(means: Mapping[tuple[str, str, str], tuple[float, float]]) -> Measured:
    sums: dict[tuple[str, str, str], tuple[float, float]] = {}
    for (suite, environment, name), (seconds, tests) in means.items():
        key = (suite, environment, file_of(name))
        before = sums.get(key, (0.0, 0.0))
        sums[key] = (before[0] + seconds, before[1] + max(tests, 1.0))
    return Measured(
        units={key: seconds for key, (seconds, _) in means.items()},
        per_test={key: seconds / tests for key, (seconds, tests) in sums.items()},
    )
