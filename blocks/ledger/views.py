"""What can be asked: the views of the ledger, their columns and where each comes from.

Each view is a SELECT over *sources*: tables of records (loaded from SQL when a query names them, see `SOURCES`) or
the result and metric rows (Parquet segments, and bundles that are not cut yet). Names and columns are kept: they
are what people's queries are written against.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from sqlalchemy import Table

from blocks.ledger import accounts, keep_schema, schema
from blocks.ledger.daily import AGGREGATE

SOURCES: dict[str, Table] = {
    "records_runs": schema.runs,
    "records_plans": schema.plans,
    "records_units": schema.units,
    "records_settlements": schema.settlements,
    "records_attempts": schema.attempts,
    "records_machines": schema.machines,
    "records_submissions": schema.submissions,
    "records_leases": schema.leases,
    "records_lease_units": schema.lease_units,
    "records_bundles": schema.bundles,
    "records_segments": schema.segments,
    "records_replacements": keep_schema.replacements,
    "records_verdicts": schema.verdicts,
    "records_events": schema.events,
    "records_builds": schema.builds,
}
ROW_SOURCES = ("result_rows", "metric_rows", "daily_rows")
"""Sources made of segments and uncut bundles."""
DARK_SOURCE = "dark_rows"
"""The source that `dark.py` works out, for the newest runs."""
DARK_RUNS = 20


@dataclass(frozen=True)
class View:
    """One view: what it holds, for the documentation, and the SELECT behind it."""

    name: str
    about: str
    select: str


_RESULT = """run, suite, environment, unit, unit_name, test, outcome, seconds, final, attempt, ordinal,
    mode, machine, slot, pool, vendor, file, cls, name, message, test_id, started, lease, part, bundle"""
_METRIC = """run, suite, environment, unit, unit_name, model, variant, metric, value, measured_in, low, high, samples,
    attempt, ordinal, mode, machine, slot, pool, vendor, started, lease, part, bundle"""

_VIEWS = (
    View(
        "runs",
        "one row per run, with its conclusion",
        """SELECT id AS run, flow, state, to_timestamp(created) AS created, to_timestamp(finished) AS finished,
            finished - created AS seconds, plan, driver, epoch, to_timestamp(heartbeat) AS heartbeat,
            CAST(json_extract(conclusion, '$.exit_code') AS INTEGER) AS exit_code,
            json_extract_string(conclusion, '$.sentence') AS sentence, request
        FROM records_runs""",
    ),
    View(
        "units",
        "one row per planned unit of each run; `state` is pending, leased, ran, skipped, not_run or lost",
        """SELECT u.run, u.unit, u.name, u.suite, u.environment,
            CASE WHEN u.state = 'terminal' THEN coalesce(s.terminal, 'terminal') ELSE u.state END AS state,
            coalesce(s.reason, '') AS reason, u.position, u.exclusive, u.cpus, u.devices, u.tests, u.estimate_seconds,
            u.epoch, u.deaths, coalesce(s.lease, u.lease) AS lease, to_timestamp(s.settled) AS settled,
            coalesce(s.ordinal, 0) AS settlements
        FROM records_units u LEFT JOIN (
            SELECT * FROM records_settlements
            QUALIFY row_number() OVER (PARTITION BY run, unit ORDER BY ordinal DESC) = 1
        ) s ON s.run = u.run AND s.unit = u.unit""",
    ),
    View(
        "attempts",
        "one row per try at a unit, counted or not",
        """SELECT a.id AS attempt, a.run, a.unit, u.name AS unit_name, u.suite, u.environment, a.ordinal, a.mode,
            a.test, a.outcome, to_timestamp(a.started) AS started, a.seconds, a.machine, a.slot, m.pool,
            m.vendor, a.isolation, a.counted, a.reason, a.lease, a.part,
            CAST(json_extract(a.detail, '$.peak_memory_bytes') AS BIGINT) AS peak_memory_bytes,
            CAST(json_extract(a.detail, '$.output_bytes') AS BIGINT) AS output_bytes,
            json_extract_string(a.detail, '$.output_digest') AS output_digest,
            json_extract_string(a.detail, '$.output_tail') AS output_tail,
            json_extract_string(a.detail, '$.note') AS note, a.detail
        FROM records_attempts a
        LEFT JOIN records_units u ON u.run = a.run AND u.unit = a.unit
        LEFT JOIN records_machines m ON m.id = a.machine""",
    ),
    View(
        "results",
        "one row per test of each counted attempt; `final` marks the one row that stands for its test",
        f"SELECT {_RESULT} FROM result_rows WHERE counted",
    ),
    View(
        "all_results",
        "one row per test of every attempt; `reason` says why one is not counted",
        f"SELECT {_RESULT}, counted, reason FROM result_rows",
    ),
    View(
        "tests",
        "one row per test that has a counted result, over all runs and environments",
        """SELECT test_id, any_value(suite) AS suite, any_value(test) AS test, any_value(file) AS file,
            any_value(cls) AS cls, any_value(name) AS name, count(DISTINCT run) AS runs, count(*) AS results,
            count(*) FILTER (outcome IN ('failed', 'error', 'crashed', 'timed_out')) AS bad,
            count(DISTINCT environment) AS environments, median(seconds) AS median_seconds,
            min(started) AS first_seen, max(started) AS last_seen, arg_max(outcome, started) AS last_outcome
        FROM result_rows WHERE counted GROUP BY test_id""",
    ),
    View(
        "daily",
        "a row per test, environment and day (seldom two: add them up), also where results are not kept any more",
        f"SELECT * FROM daily_rows UNION ALL BY NAME {AGGREGATE.format(rows='result_rows')}",
    ),
    View(
        "machines",
        "one row per host that was held",
        """SELECT id AS machine, pool, vendor, state, slots, to_timestamp(created) AS created,
            to_timestamp(updated) AS updated, fingerprint
        FROM records_machines""",
    ),
    View(
        "metrics",
        "one row per figure of each counted benchmark attempt",
        f"SELECT {_METRIC} FROM metric_rows WHERE counted",
    ),
    View(
        "all_metrics",
        "one row per figure of every benchmark attempt",
        f"SELECT {_METRIC}, counted, reason FROM metric_rows",
    ),
    View(
        "verdicts",
        "the verdict that stands for each test that looked bad in a run",
        """SELECT run, environment, suite, test, cause, gates, to_timestamp(decided) AS decided, ordinal, evidence
        FROM records_verdicts
        QUALIFY row_number() OVER (PARTITION BY run, environment, suite, test ORDER BY ordinal DESC) = 1""",
    ),
    View(
        "leases",
        "one row per batch of units granted to a slot",
        """SELECT l.id AS lease, l.run, l.machine, l.slot, l.state, to_timestamp(l.granted) AS granted,
            to_timestamp(l.deadline) AS deadline, to_timestamp(l.ended) AS ended, l.exclusive,
            coalesce(n.units, 0) AS units
        FROM records_leases l LEFT JOIN (
            SELECT lease, count(*) AS units FROM records_lease_units GROUP BY lease
        ) n ON n.lease = l.id""",
    ),
    View(
        "completeness",
        "one row per run, environment and suite: `planned` = `ran` + `skipped` + `not_run` + `lost` (+ `open`)",
        accounts.COMPLETENESS,
    ),
    View(
        "dark",
        f"one row per test that ran in the runs before and has no result in this one; of the newest {DARK_RUNS} runs",
        "SELECT run, environment, suite, test, test_id, why, reason, last_run, runs FROM dark_rows",
    ),
    View(
        "dark_anywhere",
        f"one row per test that ran nowhere in the last {accounts.DARK_DAYS} days",
        accounts.DARK_ANYWHERE,
    ),
    View(
        "costs",
        "what each run had of each machine; `usd` is empty where no price is on record",
        accounts.COSTS,
    ),
    View(
        "events",
        "every change that matters outside, in order",
        'SELECT seq, kind, run, to_timestamp("at") AS recorded, body, id FROM records_events',
    ),
    View(
        "builds",
        "what the build stage made",
        """SELECT name, digest, json_extract_string(manifest, '$.version') AS version, key,
            to_timestamp(created) AS created, provenance, manifest
        FROM records_builds""",
    ),
    View(
        "bundles",
        "one row per admitted part, with the segment that holds its rows",
        """SELECT lease, part, run, environment, digest, bytes, rows, signer, to_timestamp(admitted) AS admitted,
            segment
        FROM records_bundles""",
    ),
    View(
        "segments",
        "the Parquet files that hold the rows",
        """SELECT digest, run, environment, kind, path, rows, bytes, to_timestamp(created) AS created
        FROM records_segments WHERE digest NOT IN (SELECT segment FROM records_replacements)""",
    ),
)
VIEWS: dict[str, View] = {view.name: view for view in _VIEWS}

_WORD = re.compile(r"[A-Za-z_][A-Za-z_0-9]*")
_LOOKS_AROUND = frozenset({"show", "information_schema", "duckdb_views", "duckdb_tables", "duckdb_columns", "pragma"})


def named_in(sql: str) -> list[View]:
    """The views that a query may use: those whose names occur in it, or all where it asks what there is."""
    words = {word.lower() for word in _WORD.findall(sql)}
    if words & _LOOKS_AROUND:
        return list(VIEWS.values())
    return [view for view in _VIEWS if view.name in words]


def sources_of(views: list[View]) -> set[str]:
    """The sources that these views read."""
    known = {*SOURCES, *ROW_SOURCES, DARK_SOURCE}
    return {word for view in views for word in _WORD.findall(view.select) if word in known}
