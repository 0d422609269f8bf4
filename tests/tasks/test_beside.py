"""A process beside ours: what it is asked to do comes back, and it never outlives us."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from blocks.errors import CommonfleetError, PlanError, StaleDriver
from blocks.process import identify
from tasks.beside import Ask, Beside, beside

NAMES = [f"Suite.test{number}" for number in range(100_000)]


@pytest.fixture
async def other() -> AsyncIterator[Beside]:
    async with beside() as made:
        yield made


def added(left: int, right: int) -> int:
    return left + right


def refused() -> None:
    raise PlanError("No host fits.", kept="Nothing was started.", do="Add a pool.")


def broken() -> None:
    raise KeyError("deep inside")


def noisy() -> int:
    print("this goes to people", flush=True)
    os.write(1, b"and this, too\n")
    return 7


def doubled(ask: Ask) -> int:
    return sum(future.result() for future in [ask(number) for number in range(20)])


def counted(ask: Ask) -> int:
    return len(ask("names").result())


def unanswered(ask: Ask) -> str:
    try:
        ask("?").result()
    except StaleDriver as error:
        return error.do
    return "it was answered"


def asleep(file: str) -> None:
    Path(file).write_text(str(os.getpid()))
    time.sleep(600)


def napping(file: str) -> str:
    Path(file).write_text(str(os.getpid()))
    time.sleep(0.5)
    return "done"


def stopped(pid: int) -> bool:
    return identify(pid) is None


async def until(condition: Any) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - it comes true in another process
            await asyncio.sleep(0.02)


async def pid_in(file: Path) -> int:
    await until(lambda: file.exists() and file.read_text())
    return int(file.read_text())


async def test_calls_give_values_one_after_the_other_from_one_process(other: Beside) -> None:
    pids = await asyncio.gather(*(other.call(os.getpid) for _ in range(3)))
    assert len(set(pids)) == 1
    assert pids[0] != os.getpid()
    assert await other.call(added, 2, 3) == 5


async def test_an_error_arrives_as_the_kind_that_it_is_with_all_that_it_says(other: Beside) -> None:
    with pytest.raises(PlanError) as caught:
        await other.call(refused)
    assert (caught.value.what, caught.value.kept, caught.value.do) == (
        "No host fits.", "Nothing was started.", "Add a pool.",
    )  # fmt: skip
    assert await other.call(added, 1, 1) == 2


async def test_an_error_that_nobody_meant_shows_where_it_happened(other: Beside) -> None:
    with pytest.raises(KeyError, match="deep inside") as caught:
        await other.call(broken)
    assert "in broken" in "".join(caught.value.__notes__)


async def test_what_is_printed_does_not_run_into_the_answers(other: Beside) -> None:
    assert await other.call(noisy) == 7
    assert await other.call(added, 1, 2) == 3


async def test_the_other_process_may_ask_back_several_things_at_once(other: Beside) -> None:
    together: list[int] = []

    async def answer(number: int) -> int:
        together.append(number)
        await asyncio.sleep(0.05)
        return len(together)

    assert await other.call(doubled, answer=answer) == 20 * 20


async def test_a_hundred_thousand_names_fit_into_an_answer(other: Beside) -> None:
    async def answer(_: str) -> list[str]:
        return NAMES

    assert await other.call(counted, answer=answer) == len(NAMES)


async def test_a_refusal_is_raised_where_it_was_asked(other: Beside) -> None:
    async def answer(_: str) -> None:
        raise StaleDriver("Taken over.", do="Nothing.")

    assert await other.call(unanswered, answer=answer) == "Nothing."


async def test_an_answer_that_cannot_be_handed_over_is_a_refusal_and_nobody_waits_for_it(other: Beside) -> None:
    deep: list[Any] = []
    for _ in range(sys.getrecursionlimit()):
        deep = [deep]

    async def answer(_: Any) -> Any:
        return deep

    async with asyncio.timeout(20):
        with pytest.raises((RecursionError, CommonfleetError)):
            await other.call(counted, answer=answer)


async def test_a_call_that_is_cancelled_ends_the_process_at_once_and_the_next_one_has_another(
    other: Beside, tmp_path: Path
) -> None:
    call = asyncio.create_task(other.call(asleep, str(tmp_path / "pid")))
    pid = await pid_in(tmp_path / "pid")

    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call

    await until(lambda: stopped(pid))
    assert await other.call(added, 2, 2) == 4


async def test_a_process_that_is_killed_is_told_in_words_and_the_next_call_has_another(
    other: Beside, tmp_path: Path
) -> None:
    call = asyncio.create_task(other.call(asleep, str(tmp_path / "pid")))
    os.kill(await pid_in(tmp_path / "pid"), signal.SIGKILL)

    with pytest.raises(CommonfleetError, match="killed by signal 9"):
        await call
    assert await other.call(added, 2, 2) == 4


async def test_a_sigterm_to_everybody_leaves_it_at_work_for_as_long_as_we_are_there(
    other: Beside, tmp_path: Path
) -> None:
    call = asyncio.create_task(other.call(napping, str(tmp_path / "pid")))
    os.kill(await pid_in(tmp_path / "pid"), signal.SIGTERM)
    assert await call == "done"


async def test_it_does_not_outlive_its_block_whatever_it_is_doing(tmp_path: Path) -> None:
    async with beside() as made:
        call = asyncio.create_task(made.call(asleep, str(tmp_path / "pid")))
        pid = await pid_in(tmp_path / "pid")
    assert stopped(pid)
    with pytest.raises(CommonfleetError):
        await call


OURS = """
import asyncio, sys
from tasks.beside import beside
from tests.tasks.test_beside import asleep
async def main():
    async with beside() as other:
        await other.call(asleep, sys.argv[1])
asyncio.run(main())
"""


async def test_it_ends_with_us_even_when_we_are_killed(tmp_path: Path) -> None:
    root = str(Path(__file__).parents[2])
    ours = subprocess.Popen(  # noqa: ASYNC220 - this one is to be killed while it works
        [sys.executable, "-c", OURS, str(tmp_path / "pid")], env={**os.environ, "PYTHONPATH": root}
    )
    try:
        pid = await pid_in(tmp_path / "pid")
    finally:
        ours.kill()
        ours.wait()
    await until(lambda: stopped(pid))


async def test_a_folder_of_the_same_name_where_we_stand_is_not_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "__init__.py").write_text("raise SystemExit('the wrong one')")
    monkeypatch.chdir(tmp_path)
    async with beside() as made:
        assert await made.call(added, 1, 1) == 2
