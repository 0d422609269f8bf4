"""The Arrow tables of a segment, made of the columns that `rows.py` has laid out."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from blocks.ledger.rows import ATTEMPT_COLUMNS, METRIC_COLUMNS, RESULT_COLUMNS, Rows

_TEXT = pa.string()
_CODE = pa.dictionary(pa.int32(), pa.string())  # few different values in memory; plain text in the file
_TYPES = {
    "planned": pa.int32(), "ordinal": pa.int32(), "part": pa.int32(), "slot": pa.int32(),
    "counted": pa.bool_(), "final": pa.bool_(), "started": pa.timestamp("us", tz="UTC"),
    "seconds": pa.float64(), "value": pa.float64(), "low": pa.float64(), "high": pa.float64(),
    "samples": pa.list_(pa.float64()),
    "test_id": _TEXT, "name": _TEXT, "test": _TEXT, "message": _TEXT, "model": _TEXT, "variant": _TEXT, "metric": _TEXT,
}  # fmt: skip
"""What is not a code."""

RESULT_SCHEMA = pa.schema([(name, _TYPES.get(name, _CODE)) for name in RESULT_COLUMNS + ATTEMPT_COLUMNS])
METRIC_SCHEMA = pa.schema([(name, _TYPES.get(name, _CODE)) for name in METRIC_COLUMNS + ATTEMPT_COLUMNS])


def result_table(rows: Rows) -> pa.Table:
    """The results, sorted by test, with `RESULT_SCHEMA`."""
    table = _table(rows, "results", rows.result_columns, RESULT_SCHEMA)
    return table.sort_by([("test_id", "ascending"), ("started", "ascending")])


def metric_table(rows: Rows) -> pa.Table:
    """The metrics, sorted by model and metric, with `METRIC_SCHEMA`."""
    table = _table(rows, "metrics", rows.metric_columns, METRIC_SCHEMA)
    return table.sort_by([("model", "ascending"), ("metric", "ascending"), ("variant", "ascending")])


def _table(rows: Rows, kind: str, own: dict[str, list[Any]], schema: pa.Schema) -> pa.Table:
    index = pa.array(rows.attempt_of[kind], pa.int32())
    shared = {name: _column(values, schema.field(name).type) for name, values in rows.attempt_columns.items()}
    arrays = [
        _column(own[entry.name], entry.type) if entry.name in own else shared[entry.name].take(index)
        for entry in schema
    ]
    return pa.Table.from_arrays(arrays, schema=schema)


def _column(values: list[Any], kind: pa.DataType) -> pa.Array:
    if pa.types.is_dictionary(kind):
        return pa.array(values, pa.string()).dictionary_encode()
    return pa.array(values, kind)
