"""From the rows of a reading to the columns of a segment, a column at a time.

What a report cannot know (run, environment, who brought it) is the same for a whole file and is given; one row of each
test stands for it (`final`), the worst where a file holds several, as for a bundle's.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from blocks.canonical import digest_json
from blocks.lease import worst
from blocks.ledger.results import attempt_id
from blocks.ledger.tables import METRIC_SCHEMA, RESULT_SCHEMA
from tasks.collect.readers.base import Reading
from tasks.collect.readers.rows import prefix_order

PART = 1
ROW_GROUP = 20_000  # as in every segment

_ALL_DIFFERENT = ("test_id", "name", "test", "message", "seconds", "value", "samples")


@dataclass(frozen=True)
class Stamp:
    """What the orchestrator knows of the files that are ingested together. `started` is in microseconds since 1970."""

    run: str
    environment: str
    machine: str = ""
    pool: str = ""
    vendor: str = ""
    counted: bool = True
    reason: str = ""
    started: int | None = None

    def attempt(self, digest: str) -> str:
        """The id of the one attempt that the file with this digest is."""
        return attempt_id(lease_of(self.run, digest), unit_of(digest), 1)

    def columns(self, reading: Reading) -> dict[str, Any]:
        """The values of the attempt's columns for one file: it is the unit and, as it is kept, the bundle."""
        return {
            "run": self.run, "environment": self.environment, "unit": unit_of(reading.digest),
            "unit_name": reading.name, "planned": reading.expected, "attempt": self.attempt(reading.digest),
            "ordinal": 1, "mode": "company", "counted": self.counted, "reason": self.reason, "bundle": reading.stored,
            "lease": lease_of(self.run, reading.digest), "part": PART, "machine": self.machine, "slot": 0,
            "pool": self.pool, "vendor": self.vendor, "started": self.started,
        }  # fmt: skip


def unit_of(digest: str) -> str:
    """The id of the unit that an ingested file stands for: `u-` and half of its digest.

    Half of a SHA-256: whoever writes the files must not be able to make two with one id.
    """
    return "u-" + digest.removeprefix("sha256:")[:32]


def lease_of(run: str, digest: str) -> str:
    """What stands in the place of a lease for a file of a run; the same however often it is ingested."""
    return "i-" + digest_json([run, digest]).removeprefix("sha256:")[:32]


def parquet(table: pa.Table) -> pa.Buffer:
    """A segment's bytes: what is written to disk and named by its digest."""
    sink = pa.BufferOutputStream()
    # A dictionary of what is different in each row would be built, found too large and thrown away.
    coded = [name for name in table.schema.names if name not in _ALL_DIFFERENT]
    with pq.ParquetWriter(
        sink, table.schema, compression="zstd", use_dictionary=coded, store_schema=False, write_page_index=True
    ) as writer:
        writer.write_table(table, row_group_size=ROW_GROUP)
        writer.add_key_value_metadata({"commonfleet.cut": uuid.uuid4().hex})  # no two files are the same
    return sink.getvalue()


def results(cases: pa.Table, readings: Mapping[int, Reading], stamp: Stamp) -> pa.Table:
    """`RESULT_SCHEMA` rows for `CASES` rows, sorted as a segment is; `readings` by source."""
    if not cases.num_rows:
        return RESULT_SCHEMA.empty_table()
    cases, order = cases.append_column("final", _final(cases)), _by_test(cases)
    # A column at a time: a table's own `take` needs five times as long for chunks.
    cases = pa.table([column.take(order) for column in cases.columns], cases.column_names)
    file, cls, name = cases["file"], cases["cls"], cases["name"]
    inner = pc.if_else(pc.equal(cls, ""), name, pc.binary_join_element_wise(cls, name, "."))
    own = {column: cases[column] for column in ("test_id", "suite", "name", "outcome", "seconds", "message")}
    own |= {"file": file, "cls": cls, "test": pc.binary_join_element_wise(file, inner, "::"), "final": cases["final"]}
    return _table(cases, own, readings, stamp, RESULT_SCHEMA)


def _by_test(cases: pa.Table) -> pa.Array:
    """The order of a segment, by test. (All rows have the same `started`.)"""
    joined = b"".join(
        bytes.fromhex(bytes(chunk.buffers()[2])[start : start + 32 * len(chunk)].decode())
        for chunk in cases["test_id"].chunks
        for start in [32 * chunk.offset]
    )
    order = prefix_order(joined, 16)
    return pc.sort_indices(cases, [("test_id", "ascending")]) if order is None else order


def metrics(rows: pa.Table, readings: Mapping[int, Reading], stamp: Stamp) -> pa.Table:
    """`METRIC_SCHEMA` rows for `METRICS` rows, sorted as a segment is; `readings` by source."""
    own = {
        column: rows[column] for column in ("suite", "model", "variant", "metric", "value", "measured_in", "samples")
    }
    unknown = pa.nulls(rows.num_rows, pa.float64())
    table = _table(rows, {**own, "low": unknown, "high": unknown}, readings, stamp, METRIC_SCHEMA)
    return table.sort_by([("model", "ascending"), ("metric", "ascending"), ("variant", "ascending")])


def _table(
    rows: pa.Table, own: dict[str, Any], readings: Mapping[int, Reading], stamp: Stamp, schema: pa.Schema
) -> pa.Table:
    order = sorted(readings)
    index = pc.index_in(rows["source"], pa.array(order, pa.int32()))
    if index.null_count:
        raise KeyError("a row's source has no reading")
    known = [stamp.columns(readings[at]) for at in order]
    arrays = []
    for entry in schema:
        coded = pa.types.is_dictionary(entry.type)
        if entry.name in own:
            arrays.append(own[entry.name].dictionary_encode() if coded else own[entry.name])
        else:
            values = pa.array([columns[entry.name] for columns in known], pa.string() if coded else entry.type)
            if len(known) == 1:
                arrays.append(_repeated(values, rows.num_rows, coded=coded))
            else:
                arrays.append((values.dictionary_encode() if coded else values).take(index))
    return pa.Table.from_arrays(arrays, schema=schema)


def _repeated(value: pa.Array, times: int, *, coded: bool) -> pa.Array:
    """The one value again and again."""
    if coded:
        codes = pa.Int32Array.from_buffers(pa.int32(), times, [None, pa.py_buffer(bytes(4 * times))])
        return pa.DictionaryArray.from_arrays(codes, value)
    return pa.repeat(value[0], times)


def _final(cases: pa.Table) -> pa.Array:
    """All rows, but of the tests that a source names more than once only the worst row (the last of equals)."""
    if not pc.any(pc.greater(cases["repeat"], 0)).as_py():
        return pa.array([True] * cases.num_rows, pa.bool_())
    repeated = cases.filter(pc.greater(cases["repeat"], 0))
    keys = set(zip(repeated["source"].to_pylist(), repeated["test_id"].to_pylist(), strict=True))
    standing: dict[tuple[int, str], int] = {}
    sources, ids, outcomes = (cases[column].to_pylist() for column in ("source", "test_id", "outcome"))
    final = [True] * cases.num_rows
    for at, key in enumerate(zip(sources, ids, strict=True)):
        if key not in keys:
            continue
        before = standing.get(key)
        loser = before if before is not None and worst([outcomes[before], outcomes[at]]) == outcomes[at] else at
        if before is None:
            standing[key] = at
        elif loser == before:
            final[before], standing[key] = False, at
        else:
            final[at] = False
    return pa.array(final, pa.bool_())
