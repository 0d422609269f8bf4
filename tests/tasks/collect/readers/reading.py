"""Read a content in this process, for tests of what readers say; `test_pool.py` has the real processes."""

from __future__ import annotations

from typing import Any

from tasks.collect.readers.base import Limits, Reading
from tasks.collect.readers.child import read_bytes
from tasks.collect.readers.rows import Rows


def reading_of(
    data: bytes | str, *, suite: str | None = None, limits: Limits | None = None
) -> tuple[Reading, list[dict[str, Any]], list[dict[str, Any]]]:
    """The outcome, the cases and the metrics."""
    rows = Rows(0, suite)
    content = data.encode() if isinstance(data, str) else data
    reading = read_bytes("a file", content, rows, limits or Limits())
    cases, metrics = rows.case_table().to_pylist(), rows.metric_table().to_pylist()
    assert (reading.cases, reading.metrics) == (len(cases), len(metrics)), "a reading must tell how many rows it has"
    return reading, cases, metrics


def cases_of(data: bytes | str) -> list[dict[str, Any]]:
    """The cases of a content that is read to its end."""
    reading, cases, _ = reading_of(data)
    assert reading.outcome == "ingested", reading.sentence()
    return cases


def issues_of(reading: Reading) -> dict[str, int]:
    return {issue.kind: issue.count for issue in reading.issues}
