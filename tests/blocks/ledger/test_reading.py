"""A ledger opened for reading only: nothing is made, and a folder that cannot be written will do."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from blocks.errors import LedgerError
from blocks.home import Home
from blocks.ledger import database, record
from blocks.ledger.reading import opened_to_read
from tests.ledger_rows import open_made
from tests.read_only import read_only

EVENTS = "SELECT count(*) AS events FROM events"


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A state folder whose ledger has an event, and that nobody has open."""
    ledger = open_made(tmp_path / "home")
    with ledger.write() as connection:
        record(connection, "run.opened", run="r-1")
    ledger.close()
    return Home(tmp_path / "home")


def test_a_folder_that_cannot_be_written_will_do(home: Home) -> None:
    for name in ("ledger.db-wal", "ledger.db-shm"):
        assert not (home.root / name).exists(), "else SQLite would need nothing more"
    with read_only(home.root), opened_to_read(home) as ledger, ledger.read() as connection:
        assert connection.exec_driver_sql(EVENTS).scalar_one() == 1


def test_what_only_a_writer_can_read_is_told_in_words(tmp_path: Path) -> None:
    ledger = open_made(tmp_path / "busy")
    (tmp_path / "copy").mkdir()
    for name in ("ledger.db", "ledger.db-wal"):
        shutil.copy(tmp_path / "busy" / name, tmp_path / "copy" / name)
    ledger.close()
    with (
        read_only(tmp_path / "copy"),
        pytest.raises(LedgerError, match="write-ahead log") as told,
        opened_to_read(Home(tmp_path / "copy")),
    ):
        pass
    assert "Copy the state folder" in told.value.do


def test_where_there_is_no_ledger_nothing_is_made(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="There is no ledger"), opened_to_read(Home(tmp_path / "nothing")):
        pass
    assert not (tmp_path / "nothing").exists()


def test_a_ledger_that_did_not_hold_still_is_not_believed(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "_holds_still", lambda file: True)
    with opened_to_read(home):
        pass
    with pytest.raises(LedgerError, match="was written while it was read"), opened_to_read(home):
        os.utime(home.ledger)
