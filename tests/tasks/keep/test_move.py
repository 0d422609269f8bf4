"""Moving a ledger to PostgreSQL is whole or nothing, can be cut anywhere and repeated, and leaves one that works."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from sqlalchemy import exc, insert, text, update

from blocks.errors import LedgerError
from blocks.home import Home, open_home
from blocks.ledger import Ledger, now, record
from blocks.ledger.copying import sums
from blocks.ledger.place import ledger_url
from blocks.ledger.query import run_query
from blocks.ledger.schema import events, plans, runs
from flows.drive import ledger_of
from tasks.collect.driver import this_driver
from tasks.keep.backup import back_up
from tasks.keep.move import move
from tasks.keep.restore import restore
from tasks.publish.log.own import append_to_log
from tests.ledger_rows import Case, made_unit, make_run, open_made
from tests.postgres import Postgres
from tests.tasks.keep.conftest import live

ALL = "SELECT * FROM all_results ORDER BY ALL"


@pytest.fixture
def old(tmp_path: Path) -> Home:
    """A SQLite ledger that has lived."""
    ledger = open_made(tmp_path / "home")
    live(ledger)
    home = open_home(tmp_path / "home")
    append_to_log(home, ledger)
    ledger.close()
    return home


@pytest.fixture
def url(postgres: Postgres) -> str:
    return postgres.new_database()


def test_the_moved_ledger_answers_as_before_and_goes_on(old: Home, url: str) -> None:
    before = ledger_of(old)
    rows = run_query(before, ALL)
    with before.read() as connection:
        tables = sums(connection)
        last = connection.scalar(text("SELECT max(seq) FROM events"))
    before.close()

    moved = move(old, url)

    assert moved.tables == tables
    after = ledger_of(old)
    assert after.engine.dialect.name == "postgresql"
    assert old.ledger_url.stat().st_mode & 0o777 == 0o600
    assert run_query(after, ALL) == rows
    make_run(after, [made_unit("u", [Case("S.a")])], run="r-after")
    with after.read() as connection:
        assert connection.scalar(text("SELECT min(seq) FROM events WHERE run = 'r-after'")) == last + 1
    with pytest.raises(exc.DatabaseError, match="are facts"), after.write() as connection:
        connection.execute(update(events).values(kind="x"))
    after.close()


def test_the_old_file_takes_nothing_more_even_from_who_has_it_open(old: Home, url: str) -> None:
    opened = ledger_of(old)
    with opened.read() as connection:
        before = sums(connection)

    move(old, url)

    with pytest.raises(exc.DatabaseError, match="moved to"), opened.write() as connection:
        record(connection, "run.opened", run="r-late")
    with pytest.raises(exc.DatabaseError, match="moved to"), opened.write() as connection:
        connection.execute(update(runs).values(heartbeat=now()))
    with opened.read() as connection:
        assert sums(connection) == before
    opened.close()
    with pytest.raises(LedgerError, match="moved to") as refused:
        open_made(old.root)
    assert url not in str(refused.value)


def test_a_ledger_is_not_moved_under_its_driver(old: Home, url: str) -> None:
    ledger = ledger_of(old)
    with ledger.write() as connection:
        connection.execute(
            insert(runs).values(
                id="r-now", flow="nightly", created=1.0, state="running", request="{}", driver=this_driver(), epoch=1,
                heartbeat=now(),
            )
        )  # fmt: skip
    with pytest.raises(LedgerError, match="r-now is being driven"):
        move(old, url)
    with ledger.write() as connection:
        connection.execute(update(runs).where(runs.c.id == "r-now").values(driver=None))
    ledger.close()
    assert ledger_url(old).startswith("sqlite")

    move(old, url)


def test_a_database_with_something_in_it_is_refused_and_left_alone(old: Home, url: str, tmp_path: Path) -> None:
    other = open_made(tmp_path / "other", url)
    live(other, runs=1)
    with other.read() as connection:
        before = sums(connection)

    with pytest.raises(LedgerError, match="not empty"):
        move(old, url)

    with other.read() as connection:
        assert sums(connection) == before
    other.close()
    ledger_of(old).close()


def test_a_restored_copy_of_a_ledger_that_was_moved_does_not_overwrite_it(old: Home, url: str, tmp_path: Path) -> None:
    ledger = ledger_of(old)
    back_up(old, ledger, tmp_path / "backup", keys=True)
    ledger.close()
    move(old, url)
    restore(Home(tmp_path / "again"), tmp_path / "backup")

    with pytest.raises(LedgerError, match="not empty"):
        move(open_home(tmp_path / "again"), url)


def test_a_row_that_postgresql_cannot_hold_stops_the_move_and_changes_nothing(old: Home, url: str) -> None:
    ledger = ledger_of(old)
    with ledger.write() as connection:
        connection.execute(insert(plans).values(id="a\0b", created=1.0, document="{}"))
    with pytest.raises(LedgerError, match="plans"):
        move(old, url)
    with ledger.write() as connection:
        connection.execute(plans.delete().where(plans.c.id == "a\0b"))
    ledger.close()

    move(old, url)


PLACES = {
    "while copying": ("blocks.ledger.copying", "_go_on_counting"),
    "after the copy": ("tasks.keep.move", "refuse_everything"),
    "after the file is closed to changes": ("tasks.keep.move", "_arrived"),
    "before the state folder points there": ("tasks.keep.move", "record_url"),
}


@pytest.mark.parametrize("place", PLACES)
def test_a_move_that_was_killed_can_be_repeated_and_loses_nothing(old: Home, url: str, place: str) -> None:
    ledger = ledger_of(old)
    rows = run_query(ledger, ALL)
    ledger.close()
    module, name = PLACES[place]
    program = f"""
        import os
        from pathlib import Path
        import {module} as place
        from blocks.home import Home
        from tasks.keep.move import move
        place.{name} = lambda *_: os.kill(os.getpid(), 9)
        move(Home(Path({str(old.root)!r})), {url!r})
    """
    died = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True)
    assert died.returncode == -signal.SIGKILL, died.stderr
    assert not old.ledger_url.exists()

    if place in ("while copying", "after the copy"):
        between = ledger_of(old)  # nothing has happened: the old one works, and takes what comes
        make_run(between, [made_unit("u", [Case("S.a")])], run="r-between")
        with between.write() as connection:
            connection.execute(text("UPDATE runs SET driver = NULL"))
        rows = run_query(between, ALL)
        between.close()
    if place in ("after the copy", "after the file is closed to changes"):
        with pytest.raises(LedgerError, match="being moved into"):
            open_made(old.root, url)
    move(old, url)

    after = ledger_of(old)
    assert after.engine.dialect.name == "postgresql"
    assert run_query(after, ALL) == rows
    after.close()


def test_the_way_back_to_a_file_is_a_backup(old: Home, url: str, tmp_path: Path) -> None:
    move(old, url)
    ledger = ledger_of(old)
    rows = run_query(ledger, ALL)
    back_up(old, ledger, tmp_path / "backup")
    ledger.close()

    restore(Home(tmp_path / "back"), tmp_path / "backup")

    back = ledger_of(open_home(tmp_path / "back"))
    assert back.engine.dialect.name == "sqlite"
    assert run_query(back, ALL) == rows
    back.close()


def test_a_copy_that_differs_is_not_taken(old: Home, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from blocks.ledger import copying

    real = copying._put
    monkeypatch.setattr(
        copying,
        "_put",
        lambda target, table, rows: real(target, table, rows[:-1] if table.name == "attempts" else rows),
    )
    with pytest.raises(LedgerError, match="attempts"):
        move(old, url)
    monkeypatch.undo()
    assert not os.path.exists(old.ledger_url)
    assert isinstance(ledger_of(old), Ledger)
