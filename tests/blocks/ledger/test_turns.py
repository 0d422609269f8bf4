"""Turns to write: the next writer is woken at once, and nothing hangs on the bell that wakes it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from blocks.errors import LedgerError
from blocks.ledger import turns

spawn = multiprocessing.get_context("spawn")


def _hold(database: str, held: Any, let_go: Any) -> None:
    with turns.turn(database):
        held.set()
        let_go.wait(60)


@pytest.fixture
def database(tmp_path: Path) -> str:
    return str(tmp_path / "ledger.db")


@pytest.fixture
def holder(database: str) -> Iterator[tuple[Any, Any]]:
    """A process that has the turn, and what lets it go."""
    held, let_go = spawn.Event(), spawn.Event()
    process = spawn.Process(target=_hold, args=(database, held, let_go))
    process.start()
    assert held.wait(60)
    yield process, let_go
    if process.is_alive():
        os.kill(process.pid, signal.SIGKILL)
    process.join()


def test_a_folder_that_cannot_be_written_is_told_in_words(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(LedgerError, match="cannot be written"), turns.turn(str(tmp_path / "file" / "ledger.db")):
        pass


def test_whoever_waits_is_woken_when_the_turn_ends(
    database: str, holder: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, let_go = holder
    monkeypatch.setattr(turns, "LOOK_SECONDS", 30.0)
    timer = spawn.Process(target=_ring_later, args=(let_go,))
    timer.start()

    began = time.monotonic()
    with turns.turn(database):
        waited = time.monotonic() - began

    timer.join()
    assert waited < 15


def _ring_later(let_go: Any) -> None:
    time.sleep(0.5)
    let_go.set()


def test_a_killed_holder_rings_nothing_and_stops_nobody(database: str, holder: tuple[Any, Any]) -> None:
    process, _ = holder
    os.kill(process.pid, signal.SIGKILL)

    began = time.monotonic()
    with turns.turn(database):
        assert time.monotonic() - began < 15


def test_a_stopped_holder_is_told_of(database: str, holder: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    process, _ = holder
    os.kill(process.pid, signal.SIGSTOP)
    monkeypatch.setattr(turns, "BUSY_SECONDS", 0.3)

    with pytest.raises(LedgerError, match="locked by another process"), turns.turn(database):
        pass


@pytest.mark.parametrize("instead", ["file", "folder"])
def test_where_no_bell_can_be_hung_writers_look(database: str, holder: tuple[Any, Any], instead: str) -> None:
    _, let_go = holder
    bell = Path(f"{database}-bell")
    bell.unlink()
    bell.mkdir() if instead == "folder" else bell.write_text("")
    timer = spawn.Process(target=_ring_later, args=(let_go,))
    timer.start()

    with turns.turn(database):
        assert let_go.is_set(), "the turn was taken while another had it"

    timer.join()


def _count(database: str, number: Path, times: int) -> None:
    for _ in range(times):
        with turns.turn(database):
            number.write_text(str(int(number.read_text()) + 1))


def test_one_writer_at_a_time(database: str, tmp_path: Path) -> None:
    number = tmp_path / "number"
    number.write_text("0")
    writers = [spawn.Process(target=_count, args=(database, number, 200)) for _ in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)

    assert number.read_text() == "800"


def test_a_bell_left_unheard_is_not_kept(database: str) -> None:
    for _ in range(3):
        with turns.turn(database):
            pass

    bell = os.open(f"{database}-bell", os.O_RDWR | os.O_NONBLOCK)
    try:
        with pytest.raises(BlockingIOError):
            os.read(bell, 1)
    finally:
        os.close(bell)
