"""Roots of bundles, computed from the Parquet files that hold their rows: cut, compacted, or both (see `roots.py`).

`leaves_in` says what the form is. `joined_leaves` gives the same for a large file of results in a fraction of the time:
DuckDB writes the lines, hashes and sorts them, on the disk where they are many.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from blocks.errors import TrustError
from blocks.ledger.results import display_name, test_id
from blocks.ledger.roots import METRIC, RESULT, SHARED, metric_leaf, result_leaf, root_of

LEAF_BYTES = 32
_NAMES = ("suite", "file", "cls", "name")
_AT_ONCE = 20_000  # rows
_FETCHED = 100_000  # leaves

_ROWS = "read_parquet(?, hive_partitioning = false)"
_BUNDLES = f"SELECT DISTINCT bundle FROM {_ROWS}"
_LEAVES = f"""SELECT here.n, unhex(sha256(concat('R|', attempt, '|', mode, '|', epoch_us(started), '|', test_id, '|',
        outcome, '|', seconds, '|', message))) AS leaf
    FROM {_ROWS} JOIN here USING (bundle) ORDER BY here.n, leaf"""
_TESTS = f"SELECT DISTINCT test_id, suite, file, cls, name, test FROM {_ROWS}"


def leaves_in(files: Iterable[Any], only: Container[str] | None = None) -> dict[str, list[bytes]]:
    """bundle -> the leaves of its rows in these Parquet files (of results or metrics, cut or compacted).

    Of the bundles `only`, where given. Holds 32 bytes and a pointer for each row. Raises TrustError for a row whose
    names do not make its test's id.
    """
    found: defaultdict[str, list[bytes]] = defaultdict(list)
    for path in files:
        with pq.ParquetFile(path) as file:
            is_results = "test_id" in file.schema_arrow.names
            own = (*RESULT, *_NAMES) if is_results else (*SHARED, *METRIC)
            known: tuple[str, tuple[str, ...]] | None = None
            for batch in file.iter_batches(_AT_ONCE, columns=["bundle", *own]):
                for bundle, *values in zip(*(_values(batch, name) for name in ("bundle", *own)), strict=True):
                    if only is not None and bundle not in only:
                        continue
                    if is_results:
                        known = _checked_names(values[3], tuple(values[7:]), known, path)
                        found[bundle].append(result_leaf(*values[:7]))
                    else:
                        found[bundle].append(metric_leaf(*values))
    return found


def bundle_root_from_rows(files: Iterable[Any], bundle: str) -> str:
    """The root of one bundle, from all the files that hold rows of it. (For many bundles, `leaves_in` reads once.)"""
    return root_of(leaves_in(files, (bundle,)).get(bundle, ()))


def bundles_in(connection: duckdb.DuckDBPyConnection, path: Path) -> list[str]:
    """The bundles with rows in this file. They stand in the connection as `here`, too: columns `n` and `bundle`."""
    bundles = [bundle for (bundle,) in connection.execute(_BUNDLES, [str(path)]).fetchall()]
    numbered = {"n": pa.array(range(len(bundles)), pa.int32()), "bundle": pa.array(bundles, pa.string())}
    connection.register("here", pa.table(numbered))
    return bundles


def joined_leaves(
    connection: duckdb.DuckDBPyConnection, path: Path, kind: str, bundles: Sequence[str]
) -> Iterator[tuple[str, bytes]]:
    """Each of the `bundles_in` this file of results or metrics, with the leaves of its rows, sorted and joined.

    Of results, memory is what the connection may take and the largest bundle's leaves. Tests' ids are taken as they are
    (see `wrong_test`). Nothing else may be asked of the connection meanwhile.
    """
    if kind == "metrics":
        yield from ((bundle, b"".join(sorted(leaves))) for bundle, leaves in leaves_in([path]).items())
        return
    current, leaves = 0, bytearray()
    for batch in connection.sql(_LEAVES, params=[str(path)]).to_arrow_reader(_FETCHED):
        _, starts, data = batch.column(1).buffers()
        first = memoryview(starts).cast("i")[batch.column(1).offset]
        begin = 0
        runs = pc.run_end_encode(batch.column(0))
        for number, end in zip(runs.values.to_pylist(), runs.run_ends.to_pylist(), strict=True):
            if number != current:
                yield bundles[current], bytes(leaves)
                current, leaves = number, bytearray()
            leaves += memoryview(data)[first + LEAF_BYTES * begin : first + LEAF_BYTES * end]
            begin = end
    if leaves:
        yield bundles[current], bytes(leaves)


def wrong_test(connection: duckdb.DuckDBPyConnection, path: Path) -> str | None:
    """A sentence on a row of results whose names do not make its test's id, or its test's name. None where all do."""
    tests = connection.execute(_TESTS, [str(path)])
    while some := tests.fetchmany(_AT_ONCE):
        for test, suite, file, cls, name, shown in some:
            if test_id(suite, file, cls, name) != test or display_name(file, cls, name) != shown:
                return f"a row says that {(suite, file, cls, name)} is the test {test} ({shown}), which it is not"
    return None


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
