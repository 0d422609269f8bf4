"""What went dark, as `show` and the report tell it: in this run against the ones before, and anywhere for a week.

Both are kept cheap however large the ledger is; the views `dark` and `dark_anywhere` have everything.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import duckdb
from sqlalchemy import Connection, select

from blocks.errors import CommonfleetError
from blocks.ledger import Ledger, now
from blocks.ledger.accounts import DARK_DAYS
from blocks.ledger.completeness import NEEDS, UnitCount
from blocks.ledger.dark import Dark, Pair, before, dark_tests, earlier_runs
from blocks.ledger.files import counting
from blocks.ledger.query import open_query
from blocks.ledger.schema import runs

NAMED = 100
"""How many dark tests are named; the others are only counted."""

KNOWN_DAYS = 28
"""A test is known from the runs of the last four weeks."""

ROWS = 3_000_000
"""Beyond so many rows in those weeks `show` does not look for what is dark everywhere: that is left to the view."""


def compared_runs(connection: Connection, run: str, counts: Iterable[UnitCount]) -> dict[Pair, list[str]]:
    """The runs that `run` is compared with, by environment and suite."""
    return before(connection, run, {(count.environment, count.suite) for count in counts})


def went_dark(
    ledger: Ledger, connection: Connection, run: str, counts: Iterable[UnitCount]
) -> tuple[list[Dark], dict[Pair, list[str]], str]:
    """The tests that ran before and not in this run, the runs compared with, and what stood in the way of comparing.

    A file of an earlier run that is damaged, or out of reach, is no reason to say nothing of this one.
    """
    compared = compared_runs(connection, run, counts)
    try:
        with open_query(ledger, NEEDS, runs=[run, *earlier_runs(compared)]) as reader:
            return dark_tests(connection, reader, run, compared), compared, ""
    except (CommonfleetError, duckdb.Error) as error:
        first = (str(error).strip().splitlines() or [""])[0]
        return [], {}, f"It could not be compared with the runs before: {first}"


def dark_anywhere(ledger: Ledger) -> dict[str, Any] | None:
    """The tests known from the last `KNOWN_DAYS` days that ran nowhere in the last `DARK_DAYS`, as of now.

    `{"days", "count", "tests"}`, or None where the ledger holds too many rows to look at in passing.
    """
    recent = select(runs.c.id).where(runs.c.created >= now() - KNOWN_DAYS * 86_400.0)
    with ledger.read() as connection:
        wanted = list(connection.scalars(recent))
        if sum(segment.rows for segment in counting(connection, wanted, ["results"])) > ROWS:
            return None
    found: list[dict[str, Any]] = []
    if wanted:
        sql = "SELECT suite, test, environments, last_run, last_ran FROM dark_anywhere ORDER BY suite, test, test_id"
        with open_query(ledger, sql, runs=wanted) as reader:
            found = reader.dicts(sql)
    return {"days": DARK_DAYS, "count": len(found), "tests": found[:NAMED]}
