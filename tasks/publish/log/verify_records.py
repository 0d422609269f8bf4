"""The records that people read first: how runs ended, and which units ended how. Are they as the log says?

Compared are a run's end and its conclusion, and the settlements that came of admitted bundles. The other records
(attempts, plans, verdicts, machines) are not: what counts of them stands in the bundles and the rows.
"""

from __future__ import annotations

import duckdb

from blocks.ledger.schema import INGESTED
from tasks.publish.log.findings import Findings

# A run of ingested files is complete from its beginning, and nothing concludes it.
_RUNS = f"""SELECT coalesce(o.run, r.run), o.run IS NULL, r.run IS NULL, c.state, r.state,
        c.conclusion IS DISTINCT FROM r.conclusion
    FROM opened o FULL JOIN run_records r ON r.run = o.run
    LEFT JOIN (FROM closed QUALIFY row_number() OVER (PARTITION BY run ORDER BY seq DESC) = 1) c ON c.run = r.run
    WHERE o.run IS NULL OR r.run IS NULL OR o.flow <> r.flow
        OR (c.state IS NULL AND r.state IN ('complete', 'cancelled', 'failed') AND r.flow <> '{INGESTED}')
        OR (c.state IS NOT NULL AND (c.state, c.conclusion) IS DISTINCT FROM (r.state, r.conclusion))
    ORDER BY 1"""
_SETTLED = """SELECT coalesce(l.run, s.run), coalesce(l.unit, s.unit), l.lease, s.lease
    FROM settled l FULL JOIN (FROM settlements WHERE terminal IN ('ran', 'skipped')) s
        ON s.run = l.run AND s.unit = l.unit AND s.lease = l.lease
    WHERE l.lease IS NULL OR s.lease IS NULL ORDER BY ALL"""
_UNDONE = """SELECT run, unit FROM settlements
    GROUP BY run, unit HAVING bool_or(terminal IN ('ran', 'skipped'))
        AND arg_max(terminal, ordinal) NOT IN ('ran', 'skipped') ORDER BY ALL"""


def verify_records(both: duckdb.DuckDBPyConnection, findings: Findings) -> None:
    """Compare runs and settlements of the two accounts."""
    for run, unlogged, missing, said, state, other in both.execute(_RUNS).fetchall():
        where = f"run {run}"
        if unlogged:
            findings.add("unlogged", where, "it is on record, and no event says that it was opened")
        elif missing:
            findings.add("missing", where, "the log says that it was opened, and no record has it")
        elif said != state:
            findings.add("changed_record", where, f"its record says {state}, and the log {said or 'that it goes on'}")
        else:
            what = "conclusion" if other else "flow"
            findings.add("changed_record", where, f"its record has another {what} than the log")
    for run, unit, logged, recorded in both.execute(_SETTLED).fetchall():
        where = f"unit {unit} of run {run}"
        if recorded is None:
            findings.add("changed_record", where, f"the log says that {logged} settled it, and no record does")
        else:
            findings.add("unlogged", where, f"its record says that {recorded} settled it, and no event does")
    for run, unit in both.execute(_UNDONE).fetchall():
        findings.add("changed_record", f"unit {unit} of run {run}", "what it is said to be after it had run is no news")
