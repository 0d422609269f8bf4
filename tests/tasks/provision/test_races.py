"""Two that let go of a machine at once, and a run that is opened again under whoever tidies up after it."""

from __future__ import annotations

import threading

import pytest
from sqlalchemy import text, update

from blocks.errors import StaleDriver
from blocks.ledger.schema import runs
from tasks.collect.driver import Seat
from tasks.provision.submissions import Hold, _moved, left_over, of_driver
from tests.tasks.provision.conftest import Books
from tests.tasks.provision.test_acquire import use


async def letting_go(books: Books, seat: Seat) -> Hold:
    """The run has used the machine, and is about to have given it back."""
    with pytest.raises(RuntimeError):
        await use(books, seat, RuntimeError())
    mine = of_driver(books.ledger, seat)
    hold = await mine.open("local")
    assert hold is not None
    return await mine.move(hold, "releasing")


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)  # SQLite has one writer at a time
async def test_a_machine_that_two_runs_let_go_of_at_once_is_free(books: Books) -> None:
    """Each of them still sees the other's hold, unless they wait for each other."""
    first, second = [await letting_go(books, books.opened()) for _ in range(2)]
    assert books.machine().state == "ready"

    def let_go() -> None:
        with books.ledger.write() as connection:
            _moved(connection, second, "released", None)

    other = threading.Thread(target=let_go)
    with books.ledger.write() as connection:
        _moved(connection, first, "released", None)
        other.start()
        while other.is_alive() and not waits_for_a_lock(books):
            other.join(0.02)
    other.join()

    assert books.states() == ["released", "released"]
    assert books.machine().state == "released"


def waits_for_a_lock(books: Books) -> bool:
    with books.ledger.read() as connection:
        waiting = text("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = :database")
        return bool(connection.scalar(waiting, {"database": books.ledger.engine.url.database}))


async def test_what_a_closed_run_has_left_is_its_own_again_once_it_is_open(books: Books) -> None:
    seat = books.opened()
    before = await letting_go(books, seat)
    books.closed(seat)
    ((theirs, hold),) = left_over(books.ledger, "local")
    assert hold == before
    with books.ledger.write() as connection:
        connection.execute(update(runs).where(runs.c.id == seat.run).values(state="running"))

    with pytest.raises(StaleDriver, match="is open: its driver gives its machines back"):
        await theirs.move(hold, "released")

    assert books.states() == ["releasing"]
    assert left_over(books.ledger, "local") == []
