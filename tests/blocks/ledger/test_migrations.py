"""The steps of the schema and the metadata agree, on both databases; a ledger is brought to ours safely or refused."""

from __future__ import annotations

import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, Engine, exc, inspect, text

from blocks.errors import LedgerError
from blocks.ledger import Ledger, revisions
from blocks.ledger.database import engine_of
from blocks.ledger.migrations import migrate
from blocks.ledger.schema import IMMUTABLE, metadata
from tests.ledger_rows import made_unit, make_run, open_made

STEP = """
revision = "9999"
down_revision = "{before}"

def upgrade():
    from alembic import op
    import sqlalchemy as sa
    op.create_table("novelties", sa.Column("id", sa.String, primary_key=True))
"""


@pytest.fixture
def empty(database_url: str | None, tmp_path: Path) -> Iterator[Engine]:
    """A database without a ledger."""
    engine = engine_of(database_url or f"sqlite:///{tmp_path}/steps.db")
    yield engine
    engine.dispose()


def walked(engine: Engine) -> Connection:
    connection = engine.connect()
    connection.begin()
    if engine.dialect.name == "sqlite":
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    migrate(connection)
    connection.commit()
    return connection


def shape(connection: Connection) -> dict[str, Any]:
    """Everything about the tables that Alembic's own comparison leaves out, too."""
    looked = inspect(connection)
    found: dict[str, Any] = {}
    for table in sorted(looked.get_table_names()):
        foreign = looked.get_foreign_keys(table)
        found[table] = {
            "columns": sorted(
                (c["name"], str(c["type"]), c["nullable"], str(c["default"])) for c in looked.get_columns(table)
            ),
            "key": looked.get_pk_constraint(table)["constrained_columns"],
            "checks": sorted(check["sqltext"] for check in looked.get_check_constraints(table)),
            "unique": sorted(unique["column_names"] for unique in looked.get_unique_constraints(table)),
            "references": [(key["constrained_columns"], key["referred_table"]) for key in foreign],
        }
    if connection.dialect.name == "sqlite":
        rest = "SELECT type, name, sql FROM sqlite_master WHERE type IN ('index', 'trigger') AND sql IS NOT NULL"
        found["rowids"] = connection.execute(text("SELECT name, wr FROM pragma_table_list ORDER BY name")).all()
    else:
        rest = (
            "SELECT 'index', indexname, indexdef FROM pg_indexes WHERE schemaname = 'public' UNION ALL "
            "SELECT 'trigger', tgname, pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal"
        )
    found["rest"] = sorted((kind, name, re.sub(r"\s+", " ", sql)) for kind, name, sql in connection.execute(text(rest)))
    return found


def test_the_steps_make_what_the_metadata_says(empty: Engine) -> None:
    with walked(empty) as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_the_steps_make_what_a_new_ledger_is(empty: Engine, ledger: Ledger, tmp_path: Path) -> None:
    if empty.dialect.name == "postgresql":
        with ledger.read() as made:
            expected = shape(made)
        with ledger.write() as connection:  # the same database: `ledger` and `empty` share it
            connection.execute(text("DROP SCHEMA public CASCADE"))
            connection.execute(text("CREATE SCHEMA public"))
    else:
        with ledger.read() as made:
            expected = shape(made)
    with walked(empty) as connection:
        assert shape(connection) == expected
    assert len([entry for entry in expected["rest"] if entry[0] == "trigger"]) >= len(IMMUTABLE)


def test_facts_of_a_ledger_that_walked_here_cannot_be_changed(empty: Engine) -> None:
    walked(empty).close()
    ledger = Ledger(empty, Path(), None)  # type: ignore[arg-type]
    for table in IMMUTABLE:
        _one_row(ledger, table)
        column = next(iter(metadata.tables[table].primary_key.columns)).name
        for change in (f"UPDATE {table} SET {column} = {column}", f"DELETE FROM {table}"):
            with pytest.raises(exc.DatabaseError, match="are facts"), ledger.write() as writing:
                writing.execute(text(change))


def _one_row(ledger: Ledger, table: str) -> None:
    with ledger.write() as connection:
        if table == "settlements":
            connection.execute(metadata.tables["units"].insert().values(_any("units") | {"state": "terminal"}))
        special = {"terminal": "ran", "cause": "broke"}
        named = {name: value for name, value in special.items() if name in metadata.tables[table].columns}
        connection.execute(metadata.tables[table].insert().values(_any(table) | named))


def _any(table: str) -> dict[str, Any]:
    """Some value for each column."""
    columns = metadata.tables[table].columns
    return {
        c.name: True if c.type.python_type is bool else 1 if c.type.python_type in (int, float) else "x"
        for c in columns
    }


def test_attempts_keep_their_rows_when_their_key_changes(empty: Engine) -> None:
    row = _any("attempts") | {"detail": '{"note":"\u00e9"}', "test": None}
    rows = [row | {"id": f"a-{n}", "unit": f"u{n % 3}", "ordinal": n // 3 + 1} for n in range(9)]
    with empty.connect() as connection:
        connection.begin()
        migrate(connection, "0003")
        connection.execute(metadata.tables["attempts"].insert(), rows)
        migrate(connection)
        connection.commit()

    ledger = Ledger(empty, Path(), None)  # type: ignore[arg-type]
    with ledger.read() as connection:
        kept = connection.execute(metadata.tables["attempts"].select()).mappings().all()
    assert sorted(map(dict, kept), key=str) == sorted(rows, key=str)
    with pytest.raises(exc.IntegrityError), ledger.write() as connection:
        connection.execute(metadata.tables["attempts"].insert(), [rows[0] | {"id": "a-other"}])


def test_opening_a_ledger_that_is_ours_does_not_import_alembic(tmp_path: Path) -> None:
    program = f"""
        import sys
        from pathlib import Path
        from tests.ledger_rows import open_made
        for _ in range(2):
            open_made(Path({str(tmp_path)!r})).close()
        print([name for name in sys.modules if name.startswith("alembic")])
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# -- older and newer -----------------------------------------------------------------------------------------------


@pytest.fixture
def next_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A commonfleet with one step more than ours, that makes the table `novelties`; gives the step's file."""
    versions = tmp_path / "versions of the next"
    shutil.copytree(revisions.VERSIONS, versions, ignore=shutil.ignore_patterns("__pycache__"))
    file = versions / "v9999_novelties.py"
    file.write_text(STEP.format(before=revisions.head()))
    monkeypatch.setattr(revisions, "VERSIONS", versions)
    revisions.head.cache_clear()
    yield file
    revisions.head.cache_clear()


def taken_back(step: Path) -> None:
    """Be the commonfleet without that step again."""
    step.unlink()
    revisions.head.cache_clear()


def older(ledger: Ledger) -> None:
    """Fill it; close it: it is older than what `next_step` brings."""
    make_run(ledger, [made_unit("u1"), made_unit("u2")], run="r-1")
    with ledger.write() as connection:
        connection.execute(text("UPDATE runs SET driver = NULL"))
    ledger.close()


@pytest.fixture
def filled(database_url: str | None, tmp_path: Path) -> tuple[Path, str | None]:
    """The home and URL of a ledger with a run in it."""
    older(open_made(tmp_path / "home", database_url))
    return tmp_path / "home", database_url


def test_an_older_ledger_is_brought_to_ours_and_a_copy_is_kept(
    filled: tuple[Path, str | None], next_step: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ledger = open_made(*filled)

    with ledger.read() as connection:
        assert inspect(connection).has_table("novelties")
        assert connection.scalar(text("SELECT count(*) FROM units")) == 2
        assert connection.scalar(text("SELECT value FROM meta WHERE key = 'schema'")) == str(9999 + 1)
    assert "brought from schema" in caplog.text
    copies = list(filled[0].glob("ledger.db.schema-*"))
    if filled[1] is None:
        assert str(copies[0]) in caplog.text
        with sqlite3.connect(copies[0]) as copy:
            assert copy.execute("SELECT count(*) FROM units").fetchone() == (2,)
            assert copy.execute("SELECT count(*) FROM sqlite_master WHERE name = 'novelties'").fetchone() == (0,)
    ledger.close()


def test_a_crash_in_the_middle_of_a_step_leaves_the_ledger_as_it_was(
    filled: tuple[Path, str | None], next_step: Path
) -> None:
    home, url = filled
    next_step.write_text(next_step.read_text() + "    import os; os.kill(os.getpid(), 9)\n")
    program = f"""
        from pathlib import Path
        from blocks.ledger import revisions
        from tests.ledger_rows import open_made
        revisions.VERSIONS = Path({str(next_step.parent)!r})
        open_made(Path({str(home)!r}), {url!r})
    """
    died = subprocess.run([sys.executable, "-c", textwrap.dedent(program)])
    assert died.returncode == -signal.SIGKILL
    taken_back(next_step)

    ledger = open_made(home, url)
    with ledger.read() as connection:
        assert not inspect(connection).has_table("novelties")
        assert connection.scalar(text("SELECT count(*) FROM units")) == 2
    ledger.close()


def test_a_step_that_fails_changes_nothing(filled: tuple[Path, str | None], next_step: Path) -> None:
    next_step.write_text(next_step.read_text() + "    op.execute('SELECT nonsense')\n")
    with pytest.raises((LedgerError, exc.DatabaseError)):
        open_made(*filled)
    taken_back(next_step)

    ledger = open_made(*filled)
    with ledger.read() as connection:
        assert not inspect(connection).has_table("novelties")
    ledger.close()


def test_a_ledger_is_not_brought_to_ours_under_a_driver(filled: tuple[Path, str | None], next_step: Path) -> None:
    engine = engine_of(filled[1] or f"sqlite:///{filled[0]}/ledger.db")
    with Ledger(engine, Path(), None).write() as connection:  # type: ignore[arg-type]
        beat = "UPDATE runs SET driver = 'h:1:1', finished = NULL, heartbeat = :now"
        connection.execute(text(beat), {"now": connection.scalar(revisions.select(revisions.now()))})
    with pytest.raises(LedgerError, match="r-1 is being driven"):
        open_made(*filled)
    engine.dispose()


def test_a_newer_ledger_is_refused_with_what_to_do(filled: tuple[Path, str | None], next_step: Path) -> None:
    open_made(*filled).close()
    taken_back(next_step)

    with pytest.raises(LedgerError, match="9999") as refused:
        open_made(*filled)
    assert "newer commonfleet" in refused.value.do


@pytest.mark.parametrize(
    ("made", "counted", "opens"),
    [("0001", "2", True), ("0002", "2", True), ("0001", "1", False), ("0001", "3", False)],
    ids=["before the log", "with a log", "older", "newer"],
)
def test_of_the_ledgers_that_counted_only_schema_2_is_taken(
    empty: Engine, database_url: str | None, tmp_path: Path, made: str, counted: str, opens: bool
) -> None:
    with Ledger(empty, Path(), None).write() as connection:  # type: ignore[arg-type]
        migrate(connection, made)
        connection.execute(text("DROP TABLE alembic_version"))
        connection.execute(text("INSERT INTO meta VALUES ('schema', :counted)"), {"counted": counted})
        connection.execute(text("INSERT INTO plans VALUES ('p-1', 1.0, '{}')"))
    url = database_url or f"sqlite:///{tmp_path}/steps.db"

    if not opens:
        with pytest.raises(LedgerError, match=f"schema {counted}"):
            open_made(tmp_path, url)
        return
    ledger = open_made(tmp_path, url)
    with ledger.read() as connection:
        assert connection.scalar(text("SELECT version_num FROM alembic_version")) == revisions.head()
        assert connection.scalar(text("SELECT id FROM plans")) == "p-1"
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    ledger.close()
