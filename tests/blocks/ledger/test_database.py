"""Opening the ledger and waiting for it: what goes wrong is told in words, and who only reads does not wait."""

from __future__ import annotations

import fcntl
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import select

from blocks.errors import LedgerError
from blocks.ledger import Ledger, database, open_ledger, turns
from blocks.ledger.schema import meta
from blocks.store import Store


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ledger]:
    """A ledger whose writers wait for a second only."""
    monkeypatch.setattr(database, "BUSY_SECONDS", 1)
    monkeypatch.setattr(turns, "BUSY_SECONDS", 1)
    opened = open_ledger(f"sqlite:///{tmp_path}/ledger.db", tmp_path / "results", Store(tmp_path / "store"))
    yield opened
    opened.close()


def test_a_lock_held_by_a_stranger_is_told_in_words(small: Ledger, tmp_path: Path) -> None:
    stranger = sqlite3.connect(tmp_path / "ledger.db", isolation_level=None)
    stranger.execute("BEGIN IMMEDIATE")

    with pytest.raises(LedgerError, match="locked by another process"), small.write():
        pass

    stranger.close()
    with small.write():
        pass


def test_many_writers_that_wait_leave_the_readers_alone(small: Ledger, tmp_path: Path) -> None:
    told: list[str] = []

    def write() -> None:
        try:
            with small.write():
                pass
        except LedgerError as error:
            told.append(error.what)

    with (tmp_path / "ledger.db-turn").open("a") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        writers = [threading.Thread(target=write) for _ in range(20)]
        for writer in writers:
            writer.start()
        with small.read() as connection:
            assert connection.scalar(select(meta.c.value).where(meta.c.key == "schema"))
        for writer in writers:
            writer.join(20)

    assert len(told) == 20
    assert all("locked by another process" in what for what in told)
