"""The commands that keep a ledger, and what the doctor says of it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from blocks.home import Home, open_home
from flows.drive import ledger_of
from tasks.keep.move import move
from tasks.publish.log.own import append_to_log
from tests.ledger_rows import open_made
from tests.postgres import Postgres
from tests.postgres import postgres as postgres
from tests.small import asked, commonfleet
from tests.tasks.keep.conftest import live
from tests.tasks.publish.log.conftest import slip_in


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.delenv("COMMONFLEET_LEDGER", raising=False)
    ledger = open_made(tmp_path / "home")
    live(ledger)
    home = open_home(tmp_path / "home")
    append_to_log(home, ledger)
    ledger.close()
    return home


def env_of(home: Home, **more: str) -> dict[str, str]:
    return {**os.environ, "COMMONFLEET_HOME": str(home.root), **more}


def told(home: Home, name: str, **more: str) -> dict[str, Any]:
    """What the doctor says of that matter."""
    found = [finding for finding in asked("doctor", env=env_of(home, **more)) if finding["name"] == name]
    assert len(found) == 1, found
    one: dict[str, Any] = found[0]
    return one


def test_backup_and_restore_from_the_command_line(home: Home, tmp_path: Path) -> None:
    made = commonfleet("backup", str(tmp_path / "backup"), env=env_of(home))
    assert made.returncode == 0, made.stderr
    again = commonfleet("backup", str(tmp_path / "backup"), env=env_of(home))
    assert again.returncode == 2
    new = Home(tmp_path / "new")
    put = commonfleet("restore", str(tmp_path / "backup"), env=env_of(new))
    assert put.returncode == 0, put.stderr
    assert asked("verify", env=env_of(new))["good"]
    assert told(new, "log")["level"] == "bad", "the log's private key was not in the backup"
    assert asked("runs", env=env_of(new)) == asked("runs", env=env_of(home))
    assert commonfleet("restore", str(tmp_path / "backup"), env=env_of(new)).returncode == 2


def test_a_backup_of_a_ledger_that_is_not_in_order_ends_with_1(home: Home, tmp_path: Path) -> None:
    next(home.results.rglob("*.parquet")).unlink()
    made = commonfleet("backup", str(tmp_path / "backup"), env=env_of(home))
    assert made.returncode == 1
    assert "1 files that the records name were missing" in made.stdout


def test_a_ledger_is_moved_with_its_url_on_standard_input_and_no_password_is_said(
    home: Home, postgres: Postgres
) -> None:
    url = postgres.new_database()
    password = url.partition("postgres:")[2].partition("@")[0]
    before = asked("runs", env=env_of(home))
    refused = commonfleet("move-ledger", "--to", url, env=env_of(home))
    assert refused.returncode == 2
    assert "command line" in refused.stderr
    program = Path(sys.executable).with_name("commonfleet")
    done = subprocess.run(
        [str(program), "move-ledger", "--to", "-"], input=url + "\n", env=env_of(home), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert asked("runs", env=env_of(home)) == before
    assert asked("verify", env=env_of(home))["good"]
    opens = told(home, "ledger")
    assert "postgresql" in opens["what"]
    for said in (refused.stderr, refused.stdout, done.stdout, done.stderr, str(opens)):
        assert password not in said


def test_the_doctor_says_good_of_a_ledger_in_order(home: Home) -> None:
    levels = {finding["name"]: finding["level"] for finding in asked("doctor", env=env_of(home))}
    assert (levels["ledger"], levels["runs"], levels["segments"]) == ("good", "good", "good")


def test_the_doctor_explains_files_leases_and_runs(home: Home) -> None:
    one, other = sorted(home.results.rglob("*.parquet"))
    one.unlink()
    orphan = other.with_name("orphan.parquet")
    orphan.write_bytes(b"x")
    os.utime(orphan, (time.time() - 7200,) * 2)
    ledger = ledger_of(home)
    with ledger.write() as connection:
        connection.execute(text("UPDATE runs SET state = 'running', finished = NULL WHERE id = 'r-0'"))
        connection.execute(
            text("UPDATE leases SET state = 'live', deadline = 1 WHERE run = 'r-0' AND slot = 0 AND machine = 'm-0'")
        )
    ledger.close()

    found = {finding["name"]: finding for finding in asked("doctor", env=env_of(home))}

    assert (found["segments"]["level"], found["orphans"]["level"]) == ("bad", "note")
    assert one.name in found["segments"]["what"]
    assert "backup" in found["segments"]["do"]
    assert "orphan.parquet" in found["orphans"]["what"]
    assert "resume r-0" in found["leases"]["do"]
    assert "r-0" in found["runs"]["what"]


def test_the_doctor_says_before_which_event_the_log_stops(home: Home) -> None:
    ledger = ledger_of(home)
    slip_in(ledger)
    finding = told(home, "log")
    assert finding["level"] == "bad"
    assert "is not what its id says" in finding["what"]
    ledger.close()


def test_the_doctor_does_not_change_an_older_ledger(home: Home) -> None:
    ledger = ledger_of(home)
    with ledger.write() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '0000'"))
    ledger.close()
    finding = told(home, "ledger")
    assert finding["level"] == "note"
    assert "schema 0000" in finding["what"]
    assert not list(home.root.glob("ledger.db.schema-*"))


def test_the_doctor_explains_a_newer_ledger(home: Home) -> None:
    ledger = ledger_of(home)
    with ledger.write() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    assert "newer" in told(home, "ledger")["do"]
    ledger.close()


def test_the_doctor_says_at_once_that_a_database_does_not_answer(home: Home) -> None:
    began = time.monotonic()
    finding = told(home, "ledger", COMMONFLEET_LEDGER="postgresql://me:hunter2@127.0.0.1:1/ledger")
    assert finding["level"] == "bad"
    assert "refused" in finding["what"]
    assert "hunter2" not in str(finding)
    assert time.monotonic() - began < 30


def test_after_a_move_the_old_file_says_where_the_ledger_went(home: Home, postgres: Postgres) -> None:
    move(home, postgres.new_database())
    home.ledger_url.unlink()
    finding = told(home, "ledger")
    assert finding["level"] == "bad"
    assert "moved to postgresql" in finding["what"]
