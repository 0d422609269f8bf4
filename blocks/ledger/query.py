"""Asking the ledger: DuckDB, in process and in memory, over the views of `views.py`.

    with open_query(ledger, sql) as reader:
        reader.dicts(sql)

Nothing is stored in DuckDB (its file would admit one process). A reader sees one moment of the ledger: the records
that the query needs are copied from SQL, the segments named there are read as files, and bundles that are admitted
but not cut yet are read beside them, all listed in one transaction.

Read-only by construction: DuckDB may touch the segments' files and nothing else of the machine, its configuration
is locked, and only a single SELECT is run (a COPY could overwrite a segment that may be read).
"""

from __future__ import annotations

import contextlib
import datetime
import decimal
import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import duckdb
import pyarrow as pa
from sqlalchemy import Boolean, Connection, Double, Integer, Table, select

from blocks.errors import LedgerError, TrustError
from blocks.ledger.bundles import origins, uncut
from blocks.ledger.daily import DAILY_SCHEMA
from blocks.ledger.database import Ledger
from blocks.ledger.files import Segment, at_hand, counting
from blocks.ledger.rows import Origin, Rows, read_part
from blocks.ledger.schema import runs as runs_table
from blocks.ledger.tables import METRIC_SCHEMA, RESULT_SCHEMA, metric_table, result_table
from blocks.ledger.views import ROW_SOURCES, SOURCES, VIEWS, View, named_in, sources_of

_log = logging.getLogger("commonfleet.ledger")

_FETCH = 20_000  # records copied at once
_FRESH = 50_000  # rows of uncut bundles made into Arrow at once
_SCHEMAS = {"result_rows": RESULT_SCHEMA, "metric_rows": METRIC_SCHEMA, "daily_rows": DAILY_SCHEMA}
_KINDS = {"result_rows": "results", "metric_rows": "metrics", "daily_rows": "daily"}
"""Which kind of segment each source is made of."""


class Reader:
    """An open query connection. `damaged` are the bundles whose rows are missing because they cannot be trusted."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, damaged: Sequence[TrustError]) -> None:
        self._connection = connection
        self.damaged = tuple(damaged)

    def rows(self, sql: str, parameters: Sequence[Any] | Mapping[str, Any] | None = None) -> list[tuple[Any, ...]]:
        """The rows of a SELECT. Raises LedgerError."""
        found: list[tuple[Any, ...]] = self._run(sql, parameters).fetchall()
        return found

    def dicts(self, sql: str, parameters: Sequence[Any] | Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
        """The rows of a SELECT as dictionaries of values that JSON can hold. Raises LedgerError."""
        cursor = self._run(sql, parameters)
        names = _distinct([column[0] for column in cursor.description or ()])
        with _explained():
            return [dict(zip(names, map(json_value, row), strict=True)) for row in cursor.fetchall()]

    def arrow(self, sql: str, parameters: Sequence[Any] | Mapping[str, Any] | None = None) -> pa.Table:
        """The rows of a SELECT as an Arrow table. Raises LedgerError."""
        _only_select(self._connection, sql)
        with _explained():
            return self._connection.sql(sql, params=parameters).to_arrow_table()

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self, sql: str, parameters: Sequence[Any] | Mapping[str, Any] | None) -> duckdb.DuckDBPyConnection:
        _only_select(self._connection, sql)
        with _explained():
            return self._connection.execute(sql, parameters)


def open_query(ledger: Ledger, sql: str | None = None, *, runs: Sequence[str] | None = None) -> Reader:
    """A reader over the ledger as it is now, with the views that `sql` names (all of them without it).

    With `runs` it sees only what belongs to those runs, and reads nothing else. A bundle that cannot be trusted
    leaves its rows out and is listed in `Reader.damaged`; one warning tells how many there are.
    """
    wanted = list(VIEWS.values()) if sql is None else named_in(sql)
    sources = sources_of(wanted)
    troubles: list[TrustError] = []
    connection = duckdb.connect(":memory:")
    try:
        connection.execute("SET TimeZone = 'UTC'")
        with ledger.read() as records:
            rows_wanted = sources & set(ROW_SOURCES)
            cut = counting(records, runs, [_KINDS[name] for name in rows_wanted]) if rows_wanted else []
            waiting = list(origins(records, uncut(records, runs))) if rows_wanted else []
            for name in sorted(sources & set(SOURCES)):
                connection.register(name, _copied(records, SOURCES[name], runs))
        fresh = _fresh(ledger, waiting, troubles)
        files = dict(zip(cut, map(str, at_hand(ledger, cut)), strict=True))
        for name in sorted(rows_wanted):
            _present(connection, name, files, fresh[name], runs)
        _lock(connection, list(files.values()))
        _make_views(connection, wanted)
    except BaseException:
        connection.close()
        raise
    if troubles:
        bundles = "1 bundle" if len(troubles) == 1 else f"{len(troubles)} bundles"
        _log.warning("Rows are missing from this query: %s cannot be trusted; the first: %s", bundles, troubles[0])
    return Reader(connection, troubles)


def run_query(ledger: Ledger, sql: str) -> list[dict[str, Any]]:
    """The rows of one SELECT over the views, as dictionaries of values that JSON can hold (times are ISO 8601, UTC).

    Raises LedgerError with DuckDB's own first line, and the views with their columns.
    """
    try:
        with open_query(ledger, sql) as reader:
            return reader.dicts(sql)
    except LedgerError as error:
        raise LedgerError(error.what, kept=error.kept, do=f"{error.do}\n{catalogue()}".strip()) from error


def catalogue() -> str:
    """The views and their columns, a line each, for people who write a query."""
    columns = view_columns()
    return "\n".join(["The views and their columns:", *(f"  {name}: {', '.join(columns[name])}" for name in VIEWS)])


def view_columns() -> dict[str, list[str]]:
    """Each view with the names of its columns (needs no ledger)."""
    with contextlib.closing(duckdb.connect(":memory:")) as connection:
        for name, table in SOURCES.items():
            connection.register(name, _shape(table).empty_table())
        for name, schema in _SCHEMAS.items():
            connection.register(name, schema.empty_table())
        _make_views(connection, list(VIEWS.values()))
        return {
            name: [column[0] for column in connection.execute(f"SELECT * FROM {name}").description or ()]
            for name in VIEWS
        }


# -- what a reader holds -------------------------------------------------------------------------------------------


def _fresh(ledger: Ledger, waiting: Sequence[Origin], troubles: list[TrustError]) -> dict[str, pa.Table]:
    """The rows of bundles that are not cut yet. Usually few; many are held as compactly as Arrow can."""
    tables: dict[str, list[pa.Table]] = {name: [] for name in ROW_SOURCES}
    rows = Rows()
    for number, origin in enumerate(waiting, 1):
        try:
            rows.add(read_part(ledger.store, origin.bundle), origin)
        except TrustError as error:
            troubles.append(error)
        if rows.results + rows.metrics >= _FRESH or number == len(waiting):
            tables["result_rows"].append(result_table(rows))
            tables["metric_rows"].append(metric_table(rows))
            rows = Rows()
    return {name: pa.concat_tables([_SCHEMAS[name].empty_table(), *tables[name]]) for name in ROW_SOURCES}


def _present(
    connection: duckdb.DuckDBPyConnection,
    name: str,
    files: Mapping[Segment, str],
    fresh: pa.Table,
    runs: Sequence[str] | None,
) -> None:
    """Make the source `name` of segments and fresh rows. Of a file with rows of several runs, `runs` are taken."""
    connection.register(f"fresh_{name}", fresh)
    columns = ", ".join(_SCHEMAS[name].names)
    own = [(segment, file) for segment, file in files.items() if segment.kind == _KINDS[name]]
    shared = [file for segment, file in own if runs is not None and not segment.run]
    whole = [file for segment, file in own if runs is None or segment.run]
    parts = [f"SELECT {columns} FROM fresh_{name}"] if fresh.num_rows or not own else []
    for some, condition in ((whole, ""), (shared, f" WHERE run IN ({_listed(runs or ())})")):
        if some:
            source = f"read_parquet([{_listed(some)}], hive_partitioning = false)"
            parts.append(f"SELECT {columns} FROM {source}{condition}")
    with _explained():
        connection.execute(f"CREATE VIEW {name} AS " + " UNION ALL ".join(parts))


def _listed(texts: Iterable[str]) -> str:
    """Texts as DuckDB's SQL writes them."""
    return ", ".join("'" + text.replace("'", "''") + "'" for text in texts)


def _copied(records: Connection, table: Table, runs: Sequence[str] | None) -> pa.Table:
    shape = _shape(table)
    query = select(table)
    if runs is not None:
        of_run = table.c.id if table is runs_table else table.c.get("run")
        query = query if of_run is None else query.where(of_run.in_(runs))
    batches = []
    # The driver's own tuples: rows of SQLAlchemy's would take twice the time for columns that are all plain.
    cursor = records.execute(query).cursor
    while some := cursor.fetchmany(_FETCH):
        columns = [_array(column, f.type) for column, f in zip(zip(*some, strict=True), shape, strict=True)]
        batches.append(pa.RecordBatch.from_arrays(columns, schema=shape))
    return pa.Table.from_batches(batches, schema=shape)


def _array(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    if pa.types.is_boolean(kind):  # 0 and 1 in SQLite
        return pa.array([None if value is None else bool(value) for value in values], kind)
    return pa.array(values, kind)


def _shape(table: Table) -> pa.Schema:
    return pa.schema([pa.field(column.name, _arrow_type(column.type)) for column in table.columns])


def _make_views(connection: duckdb.DuckDBPyConnection, wanted: Sequence[View]) -> None:
    for view in wanted:
        connection.execute(f"CREATE VIEW {view.name} AS {view.select}")


def _arrow_type(kind: object) -> pa.DataType:
    if isinstance(kind, Boolean):
        return pa.bool_()
    if isinstance(kind, Double):
        return pa.float64()
    if isinstance(kind, Integer):
        return pa.int64()
    return pa.string()


def _lock(connection: duckdb.DuckDBPyConnection, files: list[str]) -> None:
    connection.execute(f"SET allowed_paths = [{_listed(files)}]")
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")


def _only_select(connection: duckdb.DuckDBPyConnection, sql: str) -> None:
    with _explained():
        statements = connection.extract_statements(sql)
    if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
        raise LedgerError("A query is one SELECT; it reads and changes nothing.", kept="Nothing was run.")


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except duckdb.Error as error:
        raise LedgerError(f"The query cannot be answered: {str(error).strip().splitlines()[0]}") from error


# -- values --------------------------------------------------------------------------------------------------------


def json_value(value: Any) -> Any:
    """A value of DuckDB's as JSON can hold it."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, decimal.Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, datetime.datetime | datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value).hex()
    if isinstance(value, Mapping):
        return {str(key): json_value(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [json_value(entry) for entry in value]
    return str(value)


def _distinct(names: list[str]) -> list[str]:
    """Column names without repeats: the second `count` is `count_2`."""
    seen: dict[str, int] = {}
    unique = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        unique.append(name if seen[name] == 1 else f"{name}_{seen[name]}")
    return unique
