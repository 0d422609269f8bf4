"""Roots of bundles, computed from the Parquet files that hold their rows: cut, compacted, or both (see `roots.py`)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import pyarrow.parquet as pq

from blocks.errors import TrustError
from blocks.ledger.results import test_id
from blocks.ledger.roots import METRIC, RESULT, SHARED, metric_leaf, result_leaf, root_of

_NAMES = ("suite", "file", "cls", "name")
_AT_ONCE = 20_000  # rows


def leaves_in(files: Iterable[Any]) -> dict[str, list[bytes]]:
    """bundle -> the leaves of its rows in these Parquet files (of results or metrics, cut or compacted).

    Holds 32 bytes and a pointer for each row. Raises TrustError for a row whose names do not make its test's id.
    """
    found: defaultdict[str, list[bytes]] = defaultdict(list)
    for path in files:
        with pq.ParquetFile(path) as file:
            is_results = "test_id" in file.schema_arrow.names
            own = (*RESULT, *_NAMES) if is_results else (*SHARED, *METRIC)
            known: tuple[str, tuple[str, ...]] | None = None
            for batch in file.iter_batches(_AT_ONCE, columns=["bundle", *own]):
                for bundle, *values in zip(*(_values(batch, name) for name in ("bundle", *own)), strict=True):
                    if is_results:
                        known = _checked_names(values[3], tuple(values[7:]), known, path)
                        found[bundle].append(result_leaf(*values[:7]))
                    else:
                        found[bundle].append(metric_leaf(*values))
    return found


def bundle_root_from_rows(files: Iterable[Any], bundle: str) -> str:
    """The root of one bundle, from all the files that hold rows of it. (For many bundles, `leaves_in` reads once.)"""
    return root_of(leaves_in(files).get(bundle, ()))


def _values(batch: Any, name: str) -> list[Any]:
    column = batch.column(name)
    if name == "started":
        column = column.cast("int64")
    values: list[Any] = column.to_pylist()
    return values


def _checked_names(
    test: str, names: tuple[str, ...], known: tuple[str, tuple[str, ...]] | None, path: object
) -> tuple[str, tuple[str, ...]]:
    """Files are sorted by test: a test's id is computed once, where it begins."""
    now = (test, names)
    if now != known and test_id(*names) != test:
        raise TrustError(f"A row of {path} says that {names} is the test {test}, which it is not.")
    return now
