"""A bundle's root: one hash over its rows, the same from the bundle itself and from any segment that holds them.

A row's leaf is the SHA-256 of one line of text. Every part of it but the last is a word without `|` (ids in hex,
words from our lists, numbers), so that no two rows have the same line:

    results   R|attempt|mode|started|test_id|outcome|seconds|message
    metrics   M|attempt|mode|started|canonical JSON of [model, variant, metric, value, measured_in, low, high, samples]

`attempt` binds lease, unit and ordinal; `test_id` binds suite, file, class and name, so whoever checks a file also
computes each test's id again from its columns. Times are microseconds, durations as Python writes a float, what is
unknown is empty, and the message is capped as in a segment. The leaves are sorted, because a segment is sorted by
test and nothing keeps the order in which a machine told them; one that is there twice counts twice. The root is the
SHA-256 over all of them, written `rows1:<hex>`: a later form would say `rows2`.

Without Arrow, which a driver that admits does not load; from files, roots are computed in `file_roots.py`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from blocks.canonical import canonical_json
from blocks.lease import Part
from blocks.ledger.rows import AttemptFacts, Origin, Rows

FORM = "rows1"

SHARED = ("attempt", "mode", "started")
RESULT = (*SHARED, "test_id", "outcome", "seconds", "message")
METRIC = ("model", "variant", "metric", "value", "measured_in", "low", "high", "samples")


def root_of_part(part: Part, suites: Mapping[str, str]) -> str:
    """The root of a part that was checked. `suites` names each unit's suite. Raises TrustError for no part at all."""
    facts = {
        (record["unit"], attempt["ordinal"]): AttemptFacts(suites[record["unit"]], "", 0, False, "")
        for record in part["records"]
        for attempt in record["attempts"]
    }
    rows = Rows()
    rows.add(part, Origin("", "", part["lease"], part["part"], "", "", 0, "", "", facts))
    return root_of(leaves_of(rows))


def leaves_of(rows: Rows) -> Iterator[bytes]:
    """The leaves of rows that are laid out in columns."""
    shared = list(zip(*(rows.attempt_columns[name] for name in SHARED), strict=True))
    own = zip(*(rows.result_columns[name] for name in RESULT[3:]), strict=True)
    for index, values in zip(rows.attempt_of["results"], own, strict=True):
        yield result_leaf(*shared[index], *values)
    figures = zip(*(rows.metric_columns[name] for name in METRIC), strict=True)
    for index, values in zip(rows.attempt_of["metrics"], figures, strict=True):
        yield metric_leaf(*shared[index], *values)


def root_of(leaves: Iterable[bytes]) -> str:
    """The root over the leaves of one bundle."""
    return root_of_sorted(b"".join(sorted(leaves)))


def root_of_sorted(leaves: bytes) -> str:
    """The same, of leaves that are sorted and joined already."""
    return f"{FORM}:" + hashlib.sha256(leaves).hexdigest()


def result_leaf(
    attempt: str, mode: str, started: int | None, test: str, outcome: str, seconds: float | None, message: str | None
) -> bytes:
    line = (
        f"R|{attempt}|{mode}|{'' if started is None else started}|{test}|{outcome}|"
        f"{'' if seconds is None else seconds}|{message or ''}"
    )
    return hashlib.sha256(line.encode()).digest()


def metric_leaf(attempt: str, mode: str, started: int | None, *values: Any) -> bytes:
    line = f"M|{attempt}|{mode}|{'' if started is None else started}|".encode() + canonical_json(values)
    return hashlib.sha256(line).digest()
