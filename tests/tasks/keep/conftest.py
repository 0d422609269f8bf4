"""What the tests of keeping share: cut segments of several runs, and what is read of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sqlalchemy import update

from blocks.ledger import Ledger
from blocks.ledger.files import Segment, counting
from blocks.ledger.query import run_query
from blocks.ledger.schema import segments
from tasks.collect.segments import cut_segments
from tests.ledger_rows import BASE_TIME, Case, MadeRun, made_unit, make_run

ALL_ROWS = "SELECT * FROM all_results ORDER BY ALL"
DAY = 86_400.0


def cut_runs(
    ledger: Ledger, count: int, *, first: int = 0, environment: str = "cpu", at: float | None = None
) -> list[MadeRun]:
    """`count` runs of three units, each cut into a segment of results and one of metrics.

    `at` is when the first of them was made, a day before the second.
    """
    made = []
    for number in range(first, first + count):
        created = (at or BASE_TIME) + number * DAY
        metric = {"model": "m", "mode": "eager", "name": "seconds", "value": number + 0.1, "unit": "s"}
        units = [made_unit(f"u{n}", _cases(n, number), environment=environment) for n in range(3)]
        units.append(
            made_unit("bench", kind="benchmark", suite="benchmark", metrics=(metric,), environment=environment)
        )
        made.append(make_run(ledger, units, run=f"r-{environment}-{number}", units_per_lease=2, created=created))
        cut_segments(ledger, everything=True)
        if at is not None:
            with ledger.write() as connection:
                connection.execute(update(segments).where(segments.c.run == made[-1].run).values(created=created))
    return made


def _cases(unit: int, run: int) -> list[Case]:
    bad = {1} if unit == 1 else set()
    return [Case(f"S.t{unit}_{i}", "failed" if i in bad else "passed", seconds=0.1 * (run + i)) for i in range(3)]


def live(ledger: Ledger, kind: str = "results") -> list[Segment]:
    with ledger.read() as connection:
        return counting(connection, kinds=[kind])


def files_of(ledger: Ledger) -> list[Path]:
    return sorted(path for path in ledger.results.rglob("*") if path.is_file() and path.name != ".compacting")


def everything(ledger: Ledger) -> list[list[dict[str, Any]]]:
    """All that the row views say."""
    return [
        run_query(ledger, sql)
        for sql in (ALL_ROWS, "SELECT * FROM all_metrics ORDER BY ALL", "SELECT * FROM tests ORDER BY ALL")
    ]
