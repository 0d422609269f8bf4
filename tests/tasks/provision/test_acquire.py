"""A machine is written down before it is asked for, found again after any crash, and given back once."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import exc, insert, update

from blocks.catalog.models import PoolSpec
from blocks.errors import CommonfleetError, HostError, PlanError, StaleDriver
from blocks.ledger import now
from blocks.ledger.schema import submissions
from tasks.collect.driver import Seat
from tasks.provision.acquire import acquired
from tasks.provision.submissions import Submissions, of_driver
from tasks.run.line import Patience
from tests.tasks.provision.conftest import Books

SPEC = PoolSpec(kind="local")
LIFE = ["planned", "submitting", "accepted", "ready", "leased", "releasing", "released"]
NO_PATIENCE = Patience(pauses=(0.0,))


class Cut(BaseException):
    """The process is gone at this very point: nothing of ours runs after it."""


async def use(books: Books, seat: Seat, end: BaseException | None = None, spec: PoolSpec = SPEC) -> None:
    """Hold the pool's machine, and let go of it because of `end`."""
    async with acquired(books.root, books.ledger, seat, "local", spec, patience=NO_PATIENCE) as held:
        assert (held.pool, held.slots) == ("local", 2)
        if end is not None:
            raise end


async def test_a_submission_is_committed_before_the_call_that_it_is_about(books: Books) -> None:
    seen: list[Any] = []
    books.settings["before"] = lambda call, submission: seen.append(
        (call, [(row.id == submission, row.state, row.machine is not None) for row in books.submissions()])
    )
    seat = books.opened()

    await use(books, seat)

    assert seen == [
        ("submit", [(True, "submitting", False)]),
        ("submitted", [(True, "submitting", False)]),
        ("release", [(True, "releasing", True)]),
        ("gone", [(True, "releasing", True)]),
    ]
    assert books.events() == [f"submission.{state}" for state in LIFE]
    (row,) = books.submissions()
    assert (row.run, row.pool, row.ordinal, row.acquisition) == (seat.run, "local", 1, f"{seat.run}/local")
    assert row.expires > row.created
    assert row.name.endswith(row.id)


async def cut_at(books: Books, seat: Seat, point: int, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Let a driver die at the so-manieth point where something outside has changed. False when it lived to the end."""
    points = itertools.count()

    def reached(*_: Any) -> None:
        if next(points) == point:
            raise Cut

    transact = Submissions._transact

    async def cut(self: Submissions, act: Any) -> Any:
        done = await transact(self, act)
        reached()
        return done

    with monkeypatch.context() as patched:
        patched.setattr(Submissions, "_transact", cut)
        books.settings["before"] = reached
        try:
            await use(books, seat)
        except Cut:
            return True
        finally:
            del books.settings["before"]
    return False


async def test_after_a_crash_at_any_point_the_next_driver_has_one_machine_and_gives_back_all(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached = set()
    for point in itertools.count():
        seat = books.opened()
        if not await cut_at(books, seat, point, monkeypatch):
            break
        before = [row for row in books.submissions() if row.run == seat.run]
        reached.update(row.state for row in before)

        async with acquired(books.root, books.ledger, books.taken(seat), "local", SPEC):
            open_ = [row for row in books.submissions() if row.state != "released"]
            assert [row.state for row in open_] == ["leased"]
            assert books.held() == [open_[0].id]
            if before and before[0].state not in ("releasing", "released"):
                assert open_[0].id == before[0].id, "the same submission goes on, with the same machine"

        assert set(books.states()) == {"released"}
        assert books.held() == []
    assert reached == {*LIFE} - {"ready"}  # which is one transaction with `leased`
    assert point >= 10


async def test_what_a_closed_run_has_left_is_given_back_by_whoever_comes_next(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = 0
    for point in itertools.count():
        seat = books.opened()
        if not await cut_at(books, seat, point, monkeypatch):
            break
        books.closed(seat)
        left += "released" not in books.states()[-1:]

        await use(books, books.opened())

        assert set(books.states()) == {"released"}
        assert books.held() == []
    assert left >= 5


async def test_what_an_open_run_holds_is_nobody_else_s_to_give_back(books: Books) -> None:
    with pytest.raises(RuntimeError):
        await use(books, books.opened(), RuntimeError())

    await use(books, books.opened())

    assert books.states() == ["leased", "released"]
    assert len(books.held()) == 1


@pytest.mark.parametrize("end", [None, asyncio.CancelledError()])
async def test_a_run_that_needs_it_no_more_gives_it_back(books: Books, end: BaseException | None) -> None:
    try:
        await use(books, books.opened(), end)
    except asyncio.CancelledError:
        pass  # as thrown
    assert (books.states(), books.held()) == (["released"], [])
    assert books.machine().state == "released"


@pytest.mark.parametrize("end", [HostError("lost"), CommonfleetError("full"), StaleDriver("taken")])
async def test_where_the_system_fails_it_is_kept_for_the_driver_that_resumes(books: Books, end: Exception) -> None:
    seat = books.opened()
    with pytest.raises(type(end)):
        await use(books, seat, end)
    (before,) = books.submissions()
    assert (before.state, books.held()) == ("leased", [before.id])

    await use(books, books.taken(seat))

    assert [(row.id, row.state) for row in books.submissions()] == [(before.id, "released")]


async def test_a_machine_is_free_when_the_last_run_has_given_it_back(books: Books) -> None:
    one, two = books.opened(), books.opened()
    async with acquired(books.root, books.ledger, one, "local", SPEC) as first:
        async with acquired(books.root, books.ledger, two, "local", SPEC) as second:
            assert first.machine == second.machine == books.machine().id
            assert len(books.held()) == 2
        assert books.machine().state == "ready"
    assert books.machine().state == "released"


async def test_a_driver_that_has_lost_its_run_asks_for_nothing_and_writes_nothing(books: Books) -> None:
    stale = books.opened()
    fresh = books.taken(stale)
    with pytest.raises(StaleDriver):
        await use(books, stale)
    assert (books.states(), books.machine(), books.held()) == ([], None, [])

    await use(books, fresh)


async def test_a_driver_that_loses_its_run_while_it_takes_the_machine_does_not_register_it(books: Books) -> None:
    seat = books.opened()
    taken: list[Seat] = []
    books.settings["before"] = lambda call, _: taken.append(books.taken(seat)) if call == "submitted" else None

    with pytest.raises(StaleDriver):
        await use(books, seat)
    del books.settings["before"]

    assert (books.states(), books.machine()) == (["submitting"], None)
    await use(books, taken[0])
    assert (books.states(), books.held()) == (["released"], [])


async def test_a_machine_that_is_gone_is_lost_and_another_try_is_made(books: Books) -> None:
    seat = books.opened()
    with pytest.raises(RuntimeError):
        await use(books, seat, RuntimeError())
    for file in (books.root / "held").iterdir():
        file.unlink()

    await use(books, books.taken(seat))

    assert [(row.ordinal, row.state) for row in books.submissions()] == [(1, "released"), (2, "released")]
    assert "submission.lost" in books.events()


async def test_a_machine_that_never_answers_is_failed_and_given_back(books: Books) -> None:
    books.settings["greets"] = False
    with pytest.raises(HostError, match="refused `hello`: broken"):
        await use(books, books.opened())
    assert (books.states(), books.held()) == (["released"], [])
    assert books.events()[-3:] == ["submission.failed", "submission.releasing", "submission.released"]


async def test_a_machine_without_the_sandbox_that_its_pool_demands_is_given_back(books: Books) -> None:
    with pytest.raises(HostError, match="demands bubblewrap"):
        await use(books, books.opened(), spec=PoolSpec(kind="local", sandbox="bubblewrap"))
    assert (books.states(), books.held()) == (["released"], [])


async def test_a_pool_that_does_not_let_go_ends_no_run_and_is_asked_again(books: Books) -> None:
    def refuses(call: str, submission: str) -> None:
        if call == "release":
            raise HostError("The cloud is down.")

    books.settings["before"] = refuses
    first = books.opened()
    await use(books, first)
    assert (books.states(), len(books.held())) == (["releasing"], 1)
    books.closed(first)
    del books.settings["before"]

    await use(books, books.opened())

    assert (books.states(), books.held()) == (["released"] * 2, [])


async def test_a_submission_moves_only_along_the_table_and_from_where_it_is(books: Books) -> None:
    seat = books.opened()
    with pytest.raises(RuntimeError):
        await use(books, seat, RuntimeError())
    mine = of_driver(books.ledger, seat)
    hold = await mine.open("local")
    assert hold is not None
    with pytest.raises(HostError, match="cannot become accepted"):
        await mine.move(hold, "accepted")

    await mine.move(hold, "releasing")
    events = books.events()
    with pytest.raises(StaleDriver, match="is not leased any more"):
        await mine.move(hold, "quarantined")

    assert (books.states(), books.events()) == (["releasing"], events)


async def test_one_try_of_an_acquisition_wins_and_none_is_written_twice(books: Books) -> None:
    with pytest.raises(RuntimeError):
        await use(books, books.opened(), RuntimeError())
    (row,) = books.submissions()
    twin = {**row._mapping, "id": "s-twin"}
    with pytest.raises(exc.IntegrityError), books.ledger.write() as connection:
        connection.execute(insert(submissions).values(**{**twin, "state": "planned"}))
    with books.ledger.write() as connection:
        connection.execute(insert(submissions).values(**{**twin, "state": "booting", "ordinal": 2}))
    with pytest.raises(exc.IntegrityError), books.ledger.write() as connection:
        connection.execute(update(submissions).where(submissions.c.id == "s-twin").values(state="ready"))
    with pytest.raises(exc.IntegrityError), books.ledger.write() as connection:
        connection.execute(update(submissions).values(state="unheard of", updated=now()))


async def test_a_kind_that_there_is_not_is_refused_before_anything_is_written(books: Books, tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="of kind aws") as refused:
        await use(books, books.opened(), spec=PoolSpec(kind="aws"))
    assert refused.value.do == "Use a pool of kind local."
    assert books.states() == []
