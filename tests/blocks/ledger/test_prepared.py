"""Statements that are compiled once behave like any other statement, on both databases."""

from __future__ import annotations

import contextlib
from typing import NamedTuple

import pytest
from sqlalchemy import bindparam, exc, insert, select, update

from blocks.errors import LedgerError
from blocks.ledger import Ledger
from blocks.ledger.prepared import Change, Query, among, listed
from blocks.ledger.schema import meta


class _Entry(NamedTuple):
    key: str
    value: str


_INSERT = Change(insert(meta), ("key", "value"))
_UPDATE = Change(update(meta).where(meta.c.key == bindparam("of"), meta.c.value != "kept").values(value="changed"))
_SOME = Query(select(meta.c.key, meta.c.value).where(among(meta.c.key, "keys")).order_by(meta.c.key), _Entry)
AWKWARD = "a'b\"%(c)s:d?\u2028é"


def _kept(ledger: Ledger, *keys: str) -> list[_Entry]:
    with ledger.read() as connection:
        return _SOME.all(connection, keys=listed(keys))


def test_what_is_written_is_there_after_the_commit_and_only_then(ledger: Ledger) -> None:
    with ledger.write() as connection:
        assert _INSERT.run_many(connection, [{"key": AWKWARD, "value": "1"}, {"key": "b", "value": AWKWARD}]) == 2
    with contextlib.suppress(ZeroDivisionError), ledger.write() as connection:
        _INSERT.run(connection, key="c", value="3")
        raise ZeroDivisionError

    assert _kept(ledger, "c", "b", AWKWARD) == sorted([(AWKWARD, "1"), ("b", AWKWARD)])


def test_a_list_may_have_any_length(ledger: Ledger) -> None:
    rows = [{"key": f"k{number:05}", "value": ""} for number in range(2000)]
    with ledger.write() as connection:
        _INSERT.run_many(connection, rows)

    assert _kept(ledger) == []
    assert len(_kept(ledger, *(row["key"] for row in rows))) == 2000


def test_it_says_how_many_rows_it_touched(ledger: Ledger) -> None:
    with ledger.write() as connection:
        _INSERT.run_many(connection, [{"key": "a", "value": "1"}, {"key": "b", "value": "kept"}])

        assert [_UPDATE.run(connection, of=key) for key in ("a", "b", "c")] == [1, 0, 0]
        assert _UPDATE.run_many(connection, [{"of": key} for key in ("a", "b", "c")]) == 1
        assert _UPDATE.run_many(connection, []) == 0


def test_the_database_s_errors_are_those_of_any_other_statement(ledger: Ledger) -> None:
    with pytest.raises(exc.IntegrityError), ledger.write() as connection:
        _INSERT.run_many(connection, [{"key": "twice", "value": "1"}, {"key": "twice", "value": "2"}])

    assert _kept(ledger, "twice") == []


def test_a_parameter_that_is_not_given_is_an_error(ledger: Ledger) -> None:
    with pytest.raises((KeyError, exc.DBAPIError, LedgerError)), ledger.write() as connection:
        _INSERT.run(connection, key="a")
