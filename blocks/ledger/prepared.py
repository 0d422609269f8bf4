"""Statements that are compiled once: the few that every desk of an installation waits for.

SQLAlchemy Core costs some 80 µs for each execution of a statement, about as much as SQLite needs for it. What runs
under the write lock a thousand times a minute is therefore compiled to its text once per dialect and handed to the
driver's own cursor, inside the transaction of the connection that is passed in.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Generic, TypeVar

from sqlalchemy import ClauseElement, ColumnElement, Connection, Executable, bindparam, exc
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

R = TypeVar("R", bound=tuple[Any, ...])


class Change:
    """A statement that changes rows."""

    def __init__(self, statement: Executable, columns: Iterable[str] = ()) -> None:
        """`columns` of an insert that names no values itself."""
        self._texts = _Texts(statement, columns)

    def run(self, connection: Connection, **values: Any) -> int:
        """Execute it; returns how many rows it touched."""
        text = self._texts.of(connection)
        with _cursor(connection) as cursor:
            cursor.execute(text.sql, text.bound(values))
            return int(cursor.rowcount)

    def run_many(self, connection: Connection, rows: Sequence[Mapping[str, Any]]) -> int:
        """Execute it once for each of `rows`; returns how many rows were touched in all."""
        if not rows:
            return 0
        text = self._texts.of(connection)
        with _cursor(connection) as cursor:
            cursor.executemany(text.sql, [text.bound(row) for row in rows])
            return int(cursor.rowcount)


class Query(Generic[R]):
    """A statement that gives rows, each as the NamedTuple whose fields are its columns in their order.

    Values are as the driver gives them: a Boolean of SQLite is 0 or 1.
    """

    def __init__(self, statement: Executable, row: type[R]) -> None:
        self._texts = _Texts(statement, ())
        self._row = row

    def all(self, connection: Connection, **values: Any) -> list[R]:
        """Every row."""
        text = self._texts.of(connection)
        with _cursor(connection) as cursor:
            cursor.execute(text.sql, text.bound(values))
            return [self._row(*row) for row in cursor.fetchall()]

    def first(self, connection: Connection, **values: Any) -> R | None:
        """The first row, or None where there is none."""
        text = self._texts.of(connection)
        with _cursor(connection) as cursor:
            cursor.execute(text.sql, text.bound(values))
            row = cursor.fetchone()
            return None if row is None else self._row(*row)

    def one(self, connection: Connection, **values: Any) -> R:
        """The first row of a statement that always has one."""
        row = self.first(connection, **values)
        assert row is not None
        return row


def run_text(connection: Connection, sql: str) -> None:
    """Execute a statement without parameters as it stands."""
    with _cursor(connection) as cursor:
        cursor.execute(sql)


def among(column: ColumnElement[str], name: str) -> ColumnElement[bool]:
    """Whether the column is one of the strings of the parameter `name`, whose value `listed` makes."""
    return column.op("IN", is_comparison=True)(_members(bindparam(name)))


def listed(strings: Iterable[str]) -> str:
    """The value of a parameter of `among`. A list of any length leaves the statement's text as it is."""
    return json.dumps(list(strings))


class _Texts:
    """A statement's text in each dialect that it was needed in."""

    def __init__(self, statement: Executable, columns: Iterable[str]) -> None:
        self._statement = statement
        self._columns = list(columns) or None
        self._texts: dict[str, _Text] = {}

    def of(self, connection: Connection) -> _Text:
        name = connection.dialect.name
        if name not in self._texts:
            assert isinstance(self._statement, ClauseElement)
            compiled = self._statement.compile(dialect=connection.dialect, column_keys=self._columns)
            self._texts[name] = _Text(compiled)
        return self._texts[name]


class _Text:
    """What a driver takes: the text of a statement, and how its parameters are handed over."""

    def __init__(self, compiled: Any) -> None:
        self.sql = str(compiled)
        self._order: Sequence[str] | None = compiled.positiontup  # None where they go by name
        # What the statement itself holds (a state's name, a limit), beside what each execution brings.
        self._held = {name: value for name, value in compiled.params.items() if not compiled.binds[name].required}

    def bound(self, values: Mapping[str, Any]) -> Any:
        every = {**self._held, **values}
        return every if self._order is None else [every[name] for name in self._order]


@contextlib.contextmanager
def _cursor(connection: Connection) -> Iterator[Any]:
    """A cursor of the driver itself; its errors come as SQLAlchemy's, as from any other statement."""
    raw = connection.connection.cursor()
    error_of_driver: type[Exception] = connection.dialect.loaded_dbapi.Error
    try:
        yield raw
    except error_of_driver as error:
        raise exc.DBAPIError.instance(None, None, error, error_of_driver) from error
    finally:
        raw.close()


class _members(FunctionElement[str]):
    inherit_cache = True


@compiles(_members, "sqlite")
def _members_sqlite(element: Any, compiler: Any, **keywords: Any) -> str:
    return f"(SELECT value FROM json_each({compiler.process(element.clauses, **keywords)}))"


@compiles(_members, "postgresql")
def _members_postgresql(element: Any, compiler: Any, **keywords: Any) -> str:
    return f"(SELECT jsonb_array_elements_text(CAST({compiler.process(element.clauses, **keywords)} AS jsonb)))"
