"""Rows from one database to another, and sums by which tables in different databases are seen to be equal."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import Connection, Table, exc, insert, select, text

from blocks.errors import LedgerError
from blocks.ledger.schema import meta, metadata

AT_ONCE = 5_000  # rows in memory
OWN = ("schema", "identity", "moved_to", "arriving", "came_from", "store")
"""Lines of `meta` that belong to one database and are not copied."""

Row = tuple[Any, ...]


@dataclass(frozen=True)
class Sum:
    """How many rows a table has, and a digest that does not depend on their order."""

    rows: int
    digest: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class Adding:
    """A sum in the making: the SHA-256 of each row as JSON, added up modulo 2^256.

    Databases sort text differently, so nothing may depend on an order. This finds what copying does wrong, not what
    somebody constructs: that is for the signed log.
    """

    def __init__(self) -> None:
        self._rows = 0
        self._total = 0

    def add(self, rows: Sequence[Row]) -> None:
        for row in rows:
            line = json.dumps(row, ensure_ascii=False, separators=(",", ":"), default=bytes.hex).encode()
            self._total += int.from_bytes(hashlib.sha256(line).digest())
        self._rows += len(rows)

    @property
    def sum(self) -> Sum:
        return Sum(self._rows, f"{self._total % (1 << 256):064x}")


def sums(connection: Connection) -> dict[str, Sum]:
    """The sum of each table."""
    found = {}
    for table in metadata.sorted_tables:
        adding = Adding()
        for rows in _batches(connection, table):
            adding.add(rows)
        found[table.name] = adding.sum
    return found


def copy_rows(source: Connection, target: Connection) -> dict[str, Sum]:
    """Copy every row into the empty tables of `target`, and read them back there; gives the sum of each table.

    Raises LedgerError where the target does not hold what the source gave.
    """
    given = {}
    for table in metadata.sorted_tables:
        adding = Adding()
        for rows in _batches(source, table):
            _put(target, table, rows)
            adding.add(rows)
        given[table.name] = adding.sum
    _go_on_counting(target)
    check_same(given, sums(target))
    return given


def check_same(expected: dict[str, Sum], found: dict[str, Sum]) -> None:
    """Raises LedgerError naming the tables that differ."""
    wrong = [
        f"{name} ({sum_.rows} rows there, {found[name].rows} here)"
        for name, sum_ in expected.items()
        if found[name] != sum_
    ]
    if wrong:
        raise LedgerError(
            f"The copy is not what was copied: {', '.join(wrong)}.",
            kept="The ledger it came from is as it was.",
            do="Try again; if it stays so, the disk or the database is at fault.",
        )


def _batches(connection: Connection, table: Table) -> Iterator[list[Row]]:
    query = select(table)
    if table is meta:
        query = query.where(meta.c.key.not_in(OWN))
    found = connection.execute(query, execution_options={"yield_per": AT_ONCE})
    try:
        for batch in found.partitions():
            yield [tuple(row) for row in batch]
    except (TypeError, ValueError) as error:  # SQLite holds any type in any column, if somebody has put it there
        raise LedgerError(
            f"A row of {table.name} holds what does not belong there: {error}.",
            kept="Nothing was changed.",
            do="`commonfleet verify` says more.",
        ) from error


def _put(target: Connection, table: Table, rows: Sequence[Row]) -> None:
    names = [column.name for column in table.columns]
    try:
        if target.dialect.name != "postgresql":
            target.execute(insert(table), [dict(zip(names, row, strict=True)) for row in rows])
            return
        cursor = target.connection.cursor()
        quoted = ", ".join(f'"{name}"' for name in names)
        with cursor.copy(f'COPY "{table.name}" ({quoted}) FROM STDIN') as copy:
            for row in rows:
                copy.write_row(row)
    except _data_errors(target) as error:
        raise LedgerError(
            f"A row of {table.name} cannot be kept there: {str(error).strip().splitlines()[0]}.",
            kept="Nothing was changed on either side.",
            do="PostgreSQL takes no NUL characters in text, and no integers beyond 32 bits in these columns.",
        ) from error


def _data_errors(target: Connection) -> tuple[type[Exception], ...]:
    return (exc.DataError, target.dialect.loaded_dbapi.DataError)


def _go_on_counting(target: Connection) -> None:
    """PostgreSQL numbers rows from a sequence, which knows nothing of the rows that brought their own numbers."""
    if target.dialect.name != "postgresql":
        return
    for table in metadata.sorted_tables:
        counted = table.autoincrement_column
        if counted is None:
            continue
        name = target.scalar(
            text("SELECT pg_get_serial_sequence(:table, :column)"), {"table": table.name, "column": counted.name}
        )
        last = target.scalar(select(counted).order_by(counted.desc()).limit(1))
        if name is not None and last is not None:
            target.execute(text("SELECT setval(:name, :last)"), {"name": name, "last": last})
