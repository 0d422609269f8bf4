"""PyTorch's benchmark database, version 3: a list of records, one for each figure, as its dashboard (HUD) takes them.

Only what is known is said: a missing key means unknown there too. `extra_info` maps hold texts only. Where a figure
has samples they are its values, since that is what the dashboard averages; our own estimate and its interval stand
in the metric's `extra_info`. Repository, branch and workflow are added by whoever uploads the file.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from blocks.ledger import Ledger
from blocks.ledger.query import open_query
from tasks.publish.export.written import listed

_METRICS = """SELECT m.suite, m.environment, m.model, m.variant, m.metric, m.value, m.measured_in, m.low, m.high,
        m.samples, m.machine, m.pool, m.vendor, m.run, m.attempt, CAST(epoch(m.started) AS BIGINT) AS started,
        h.fingerprint
    FROM metrics m LEFT JOIN machines h ON h.machine = m.machine
    ORDER BY m.suite, m.environment, m.model, m.variant, m.metric, m.attempt"""


def pieces(ledger: Ledger, run: str, origin: str) -> Iterator[str]:
    """The list, piece by piece. (`origin` plays no part in it.)"""
    yield from listed(_records(ledger, run))
    yield "\n"


def _records(ledger: Ledger, run: str) -> Iterator[dict[str, Any]]:
    with open_query(ledger, _METRICS, runs=[run]) as reader:
        for rows in reader.stream(_METRICS)[1]:
            yield from map(record, rows)


def record(row: Mapping[str, Any]) -> dict[str, Any]:
    """One figure."""
    said = {
        "environment": row["environment"], "run": row["run"], "attempt": row["attempt"], "pool": row["pool"],
        "vendor": row["vendor"],
    }  # fmt: skip
    estimate = {"value": row["value"], "low": row["low"], "high": row["high"], "unit": row["measured_in"]}
    return {
        "schema_version": "v3",
        "timestamp": row["started"],
        "benchmark": {"name": row["suite"], "extra_info": _texts(said)},
        "model": {"name": row["model"], "backend": row["variant"] or None},
        "metric": {
            "name": row["metric"],
            "benchmark_values": row["samples"] or [row["value"]],
            "extra_info": _texts(estimate),
        },
        "runners": [_runner(row)],
    }


def _texts(values: Mapping[str, Any]) -> dict[str, str]:
    return {key: str(value) for key, value in values.items() if value not in (None, "")}


def _runner(row: Mapping[str, Any]) -> dict[str, Any]:
    known = json.loads(row["fingerprint"] or "{}")
    facts = known.get("fingerprint") if isinstance(known.get("fingerprint"), dict) else known
    memory = facts.get("memory_bytes")
    return {
        "name": row["machine"],
        "type": row["pool"],
        "cpu_info": facts.get("cpu_model") if isinstance(facts.get("cpu_model"), str) else None,
        "cpu_count": facts.get("cores") if isinstance(facts.get("cores"), int) else None,
        "avail_mem_in_gb": memory >> 30 if isinstance(memory, int) else None,
    }
