"""What is kept of results for ever: one row per test, environment and day, how often it was bad and how long it took.

`AGGREGATE` makes them of result rows: written to a file where the rows are let go (`tasks/keep/retain.py`), and on the
fly in the view `daily` where they are still there, so that the view answers over all times.
"""

from __future__ import annotations

import pyarrow as pa

from blocks.lease import BAD

DAILY_SCHEMA = pa.schema(
    [
        ("test_id", pa.string()), ("suite", pa.string()), ("file", pa.string()), ("cls", pa.string()),
        ("name", pa.string()), ("test", pa.string()), ("environment", pa.string()), ("day", pa.date32()),
        ("runs", pa.int64()), ("bad", pa.int64()), ("skipped", pa.int64()), ("seconds", pa.float64()),
        ("p50_seconds", pa.float64()), ("p90_seconds", pa.float64()), ("p99_seconds", pa.float64()),
        ("most_seconds", pa.float64()),
    ]
)  # fmt: skip

_BAD = ", ".join(f"'{outcome}'" for outcome in sorted(BAD))

AGGREGATE = f"""SELECT test_id, any_value(suite) AS suite, any_value(file) AS file, any_value(cls) AS cls,
        any_value(name) AS name, any_value(test) AS test, environment, CAST(started AS DATE) AS day,
        count(DISTINCT run) AS runs, count(*) FILTER (outcome IN ({_BAD})) AS bad,
        count(*) FILTER (outcome = 'skipped') AS skipped, sum(seconds) AS seconds,
        quantile_cont(seconds, 0.5) AS p50_seconds, quantile_cont(seconds, 0.9) AS p90_seconds,
        quantile_cont(seconds, 0.99) AS p99_seconds, max(seconds) AS most_seconds
    FROM {{rows}} WHERE counted AND final GROUP BY test_id, environment, CAST(started AS DATE)"""
"""Over `{rows}`, which has the columns of results. Days are UTC's (the connection's time zone is)."""
