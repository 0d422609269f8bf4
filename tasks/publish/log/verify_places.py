"""Where the rows of a file say that they belong, and whether they count: is that what the log says of their bundle?

A bundle's root binds what its tests did. What the orchestrator added to each row when it cut the file (run,
environment, lease, machine, whether the attempt counts) stands in events: of the admission, of the lease's grant, of
the machine. Of an older log, what its events do not tell is not compared. Nothing binds `unit_name`, `planned` and
`final`, which can be had again from the plan and the outcomes.
"""

from __future__ import annotations

from pathlib import Path

import duckdb

from blocks.ledger.results import attempt_id
from tasks.publish.log.findings import Findings

_WRONG = {
    "run": "p.run IS DISTINCT FROM a.run",
    "environment": "a.environment IS NOT NULL AND p.environment IS DISTINCT FROM a.environment",
    "lease": "p.lease IS DISTINCT FROM a.lease OR p.part IS DISTINCT FROM a.part",
    "attempt": """p.attempt IS DISTINCT FROM
        'a-' || substr(sha256('["' || p.lease || '","' || p.unit || '",' || p.ordinal || ']'), 1, 16)""",
    "counted": """p.counted IS DISTINCT FROM (NOT list_contains(a.uncounted, p.unit))
        OR p.counted IS DISTINCT FROM (p.reason = '')""",
    "machine": """g.lease IS NOT NULL AND (p.machine, p.slot) IS DISTINCT FROM (g.machine, g.slot)""",
    "vendor": """p.machine IN (SELECT machine FROM hosts WHERE vendor IS NOT NULL)
        AND (p.machine, p.pool, p.vendor) NOT IN
            (SELECT (machine, pool, vendor) FROM hosts WHERE vendor IS NOT NULL)""",
}
_PLACES = f"""WITH places AS (
        SELECT bundle, run, environment, lease, part, unit, attempt, ordinal, counted, reason, machine, slot, pool,
            vendor, count(*) AS rows
        FROM read_parquet(?, hive_partitioning = false) GROUP BY ALL),
    judged AS (
        SELECT p.*, 'part ' || a.part || ' of ' || a.lease AS admitted, concat_ws(', ',
            {", ".join(f"CASE WHEN {wrong} THEN '{name}' END" for name, wrong in _WRONG.items())}) AS wrong
        FROM places p JOIN admitted a ON a.digest = p.bundle LEFT JOIN granted g ON g.lease = p.lease)
    SELECT admitted, wrong, sum(rows)::BIGINT, any_value(lease), any_value(unit), any_value(ordinal),
        any_value(attempt)
    FROM judged WHERE wrong <> '' GROUP BY admitted, wrong ORDER BY ALL"""


def verify_places(both: duckdb.DuckDBPyConnection, file: Path, where: str, findings: Findings) -> None:
    """Compare each attempt's columns in this file of results or metrics with what the log says.

    `both` are the accounts. Raises what DuckDB raises for a file that cannot be read.
    """
    for admitted, wrong, rows, lease, unit, ordinal, attempt in both.execute(_PLACES, [str(file)]).fetchall():
        # Only ids with a quote or a control character are written otherwise by JSON, and ours have none.
        if wrong == "attempt" and attempt_id(lease, unit, ordinal) == attempt:
            continue
        says = f"{rows:,} of its rows in {where} say another {wrong} than the log"
        findings.add("changed_rows", admitted, says)
