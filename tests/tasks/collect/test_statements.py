"""The statements under the write lock cost the same in a plan of ten units and in one of a hundred thousand."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from blocks.ledger import Ledger, events, open_ledger
from blocks.ledger.prepared import Change, Query
from blocks.store import Store
from tasks.collect import admit, driver, grant, leases, settle

STATEMENTS = {
    f"{module.__name__}.{name}": value
    for module in (admit, driver, grant, leases, settle, events)
    for name, value in vars(module).items()
    if isinstance(value, Change | Query)
}


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Ledger:
    """A ledger without statistics, as a new installation has it: SQLite plans by the schema alone."""
    folder: Path = tmp_path_factory.mktemp("ledger")
    return open_ledger(f"sqlite:///{folder}/ledger.db", folder / "results", Store(folder / "store"))


def _plan(ledger: Ledger, statement: Change | Query[tuple[object, ...]]) -> list[str]:
    with ledger.read() as connection:
        text = statement._texts.of(connection)
        assert text._order is not None
        cursor = connection.connection.cursor()
        cursor.execute(f"EXPLAIN QUERY PLAN {text.sql}", [None] * len(text._order))
        return [row[3] for row in cursor.fetchall()]


@pytest.mark.parametrize("name", sorted(STATEMENTS))
def test_no_statement_reads_all_units_of_a_run_or_a_whole_table(empty: Ledger, name: str) -> None:
    for step in _plan(empty, STATEMENTS[name]):
        small = ("json_each", "CONSTANT ROW", "leases_slot")  # the last holds live leases only, one for each slot
        assert not step.startswith("SCAN") or any(name in step for name in small), step
        if step.startswith(("SEARCH units", "SEARCH plan_units", "SEARCH settlements", "SEARCH attempts")):
            # The whole key of one row, or the index that holds what waits in dispatch order.
            assert "AND unit=?" in step or "units_queue" in step, step


def test_there_are_statements_to_look_at() -> None:
    modules: set[ModuleType | str] = {name.rsplit(".", 1)[0] for name in STATEMENTS}
    assert len(modules) == 6
