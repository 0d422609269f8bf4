"""Our end of a pipe: calls that are given up, far ends that die or hang, and pipes that are opened again."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blocks.errors import HostError
from blocks.pools.base import Channel, Ground
from blocks.pools.local import Child, Local
from tasks.provision.held import runner_file
from tasks.run import line
from tasks.run.line import Patience
from tasks.run.pipe import open_pipe
from tests.tasks.run.far_end import Answer, FarEnd, refusing, until

SHORT = Patience(quiet_seconds=0.5, dead_seconds=2.0, pauses=(0.0, 0.05, 0.1), reopen_seconds=20, losses=3)


class Here:
    """This machine, with the far ends that were started."""

    def __init__(self, root: Path) -> None:
        self.pool = Local("here", Ground(root, runner_file(root)))
        self.started: list[Child] = []
        self.why: list[str] = []

    async def connect(self) -> Channel:
        channel = await self.pool.connect(self.pool.machine("s", 0.0))
        assert isinstance(channel, Child)
        self.started.append(channel)
        return channel

    async def reopened(self, why: str) -> None:
        self.why.append(why)


@pytest.fixture
def here(tmp_path: Path) -> Here:
    return Here(tmp_path)


def scripted(*answers: Answer) -> tuple[Callable[[], Any], list[FarEnd]]:
    """(connect, the far ends that it has made): each connection gets the next of the answers, the last one for good."""
    made: list[FarEnd] = []

    async def connect() -> Channel:
        made.append(FarEnd(answers[min(len(made), len(answers) - 1)]))
        return made[-1]

    return connect, made


def dies(at: str) -> Answer:
    """A far end that answers until it is asked for `at`."""

    def answer(request: dict[str, Any]) -> dict[str, Any] | None:
        return None if request.get("op") == at else {"ok": True}

    return answer


async def test_a_cancel_in_the_instant_of_the_answer_is_not_lost() -> None:
    connect, _ = scripted(dies("status"))
    async with open_pipe("there", connect) as pipe:
        await pipe.call("hello")
        calling = asyncio.create_task(pipe.call("status"))
        line = pipe._opening().result()
        await until(lambda: line._waiting)
        (answer,) = line._waiting.values()
        answer.set_result({"ok": True})
        calling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await calling


async def test_a_call_that_is_out_when_the_far_end_is_killed_is_answered_by_the_next_one(here: Here) -> None:
    async with open_pipe("here", here.connect, SHORT, here.reopened) as pipe:
        await pipe.call("status")
        os.kill(here.started[0].process.pid, signal.SIGSTOP)  # so that it cannot answer before it is killed
        calling = asyncio.create_task(pipe.call("hello"))
        await asyncio.sleep(0.05)
        os.kill(here.started[0].process.pid, signal.SIGKILL)

        assert (await calling)["protocol"] == 1

        assert len(here.started) == 2
        assert here.why == ["the far end ended"]


async def test_a_far_end_that_hangs_is_cut_off_and_replaced(here: Here) -> None:
    async with open_pipe("here", here.connect, SHORT, here.reopened) as pipe:
        await pipe.call("status")
        os.kill(here.started[0].process.pid, signal.SIGSTOP)
        began = time.monotonic()

        assert (await pipe.call("status"))["runners"] == []

        assert SHORT.dead_seconds <= time.monotonic() - began < SHORT.dead_seconds + 5
        assert here.started[0].process.returncode == -signal.SIGKILL
        assert "not said a word" in here.why[0]


async def test_a_slow_answer_is_waited_for_as_long_as_the_far_end_lives(here: Here, tmp_path: Path) -> None:
    slow = tmp_path / "slow"
    slow.write_text("#!/bin/sh\nsleep 2\necho Suite.\necho '  test'\n")
    slow.chmod(0o755)
    asked = {"kind": "gtest", "build": str(tmp_path), "binary": "slow", "sandbox": "none"}
    async with open_pipe("here", here.connect, SHORT) as pipe:
        assert (await pipe.call("discover", **asked))["tests"] == ["Suite.test"]
    assert len(here.started) == 1


async def test_who_was_stopped_himself_reads_first_what_has_come_meanwhile() -> None:
    class OnTheWay(FarEnd):
        async def read(self) -> bytes:
            data = await super().read()
            for _ in range(5):  # as bytes that a thread of a library brings
                await asyncio.sleep(0)
            return data

    made: list[FarEnd] = []

    async def connect() -> Channel:
        made.append(OnTheWay(dies("hello")))
        return made[-1]

    async with open_pipe("there", connect, SHORT) as pipe:
        await pipe.call("status")
        calling = asyncio.create_task(pipe.call("hello"))
        await asyncio.sleep(0.1)  # the silence has begun
        number = made[0].asked[-1]["id"]
        time.sleep(3 * SHORT.dead_seconds)  # noqa: ASYNC251 - as a SIGSTOP of this whole process would do
        made[0]._coming.put_nowait(b'{"ok": true, "id": %d}\n' % number)
        await calling
    assert len(made) == 1


async def test_a_call_that_takes_too_long_is_an_error_and_costs_nobody_the_pipe() -> None:
    connect, made = scripted(lambda request: None if request.get("op") == "stop" else {"ok": True})
    async with open_pipe("there", connect, SHORT) as pipe:
        with pytest.raises(HostError, match="did not answer `stop` within 0 s"):
            await pipe.call("stop", timeout=0.3)
        await pipe.call("status")
    assert len(made) == 1


async def test_a_machine_that_stays_away_is_looked_for_so_often_and_then_told() -> None:
    tries = itertools.count()

    async def connect() -> Channel:
        if next(tries) == 0:
            return FarEnd(lambda request: {"ok": True})
        raise ConnectionRefusedError("refused")

    async with open_pipe("there", connect, SHORT) as pipe:
        await pipe.call("status")
        pipe._opening().result()._channel.die()  # type: ignore[attr-defined]
        errors = await asyncio.gather(*(pipe.call("status") for _ in range(5)), return_exceptions=True)
        errors += await asyncio.gather(pipe.call("status"), return_exceptions=True)
    assert next(tries) == 1 + len(SHORT.pauses)
    for error in errors:
        assert isinstance(error, HostError)
        assert "cannot be opened again: there cannot be reached: refused" in str(error)
        assert "goes on" in error.kept


async def test_those_who_lose_a_pipe_together_open_one_new_one() -> None:
    connect, made = scripted(dies("status"), lambda request: {"ok": True})
    async with open_pipe("there", connect, SHORT) as pipe:
        await pipe.call("hello")
        calls = [asyncio.create_task(pipe.call("status")) for _ in range(20)]
        await asyncio.sleep(0.01)
        made[0].die()
        await asyncio.gather(*calls)
    assert len(made) == 2


async def test_a_call_that_kills_every_far_end_is_given_up() -> None:
    def answer(request: dict[str, Any]) -> dict[str, Any] | None:
        if request.get("op") == "unpack":
            made[-1].die()
        return {"ok": True}

    connect, made = scripted(answer)
    async with open_pipe("there", connect, SHORT) as pipe:
        with pytest.raises(HostError, match=r"lost 3 times during `unpack`"):
            await pipe.call("unpack")
        await pipe.call("status")
    assert [far.operations.count("unpack") for far in made] == [1, 1, 1, 0]


async def test_the_greeting_comes_first_on_every_new_pipe() -> None:
    connect, made = scripted(dies("start"), dies("start"), lambda request: {"ok": True})
    async with open_pipe("there", connect, SHORT) as pipe:
        await pipe.greet("claim", run="r", epoch=3)
        starting = asyncio.create_task(pipe.call("start"))
        for far in range(2):
            await until(lambda far=far: len(made) > far and "start" in made[far].operations)
            made[far].die()
        await starting
        await pipe.call("status")
    assert len(made) == 3
    for far in made[1:]:
        assert {key: far.asked[0].get(key) for key in ("op", "run", "epoch")} == {"op": "claim", "run": "r", "epoch": 3}


async def test_a_cancelled_caller_does_not_keep_the_others_from_the_next_pipe() -> None:
    connect, made = scripted(dies("status"), lambda request: {"ok": True})
    async with open_pipe("there", connect, SHORT) as pipe:
        await pipe.call("hello")
        first, second = (asyncio.create_task(pipe.call("status")) for _ in range(2))
        await asyncio.sleep(0.01)
        made[0].die()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        first.cancel()
        assert (await second)["ok"]
        with pytest.raises(asyncio.CancelledError):
            await first


async def test_after_it_is_closed_calls_end_and_nothing_is_opened_again() -> None:
    connect, made = scripted(dies("status"))
    async with open_pipe("there", connect, SHORT) as pipe:
        await pipe.call("hello")
        calling = asyncio.create_task(pipe.call("status"))
        await asyncio.sleep(0.01)
    with pytest.raises(HostError, match="is closed"):
        await calling
    with pytest.raises(HostError, match="is closed"):
        await pipe.call("status")
    assert len(made) == 1


async def test_what_the_far_end_refuses_is_told_and_not_repeated() -> None:
    connect, made = scripted(refusing)
    async with open_pipe("there", connect, SHORT) as pipe:
        with pytest.raises(HostError, match="refused `start`: a request names"):
            await pipe.call("start")
    assert made[0].operations.count("start") == 1


@pytest.mark.parametrize(
    "said",
    [
        b"[1, 2]\n", b"no JSON\n", b"\xff\xfe\n", b"[" * 100_000 + b"\n", b'{"id": [1], "ok": true}\n',
        b'{"id": {}, "ok": true}\n', b'{"id": true, "ok": true}\n',
    ],
    ids=["a list", "no JSON", "no text", "deep", "id [1]", "id {}", "id true"],
)  # fmt: skip
async def test_a_far_end_that_talks_nonsense_is_a_lost_one(said: bytes) -> None:
    connect, made = scripted(dies("status"), lambda request: {"ok": True})
    lost: list[str] = []

    async def reopened(why: str) -> None:
        lost.append(why)

    async with open_pipe("there", connect, SHORT, reopened) as pipe:
        await pipe.call("hello")
        made[0]._coming.put_nowait(said)
        await pipe.call("status")
    assert len(made) == 2
    assert "sent something that is no answer" in lost[0], "it was not merely silent"


async def test_a_line_without_an_end_is_given_up_and_costs_no_more_than_its_bytes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A host that sends byte by byte must not keep us busy: all pieces counted anew for each would be 10**9 steps."""
    monkeypatch.setattr(line, "LINE_BYTES", 40_000)
    far = FarEnd(lambda request: None)
    for _ in range(40_001):
        far._coming.put_nowait(b"x")
    ours = line.Line(far, Patience())
    began = time.process_time()
    with pytest.raises(line.Lost, match="a line of more than 40000 bytes"):
        await ours.ask({"op": "status"}, 60)
    assert time.process_time() - began < 4
    await ours.close(0)


@given(st.integers(0, 2**32), st.integers(1, 5))
def test_answers_arrive_whole_however_their_bytes_come(seed: int, calls: int) -> None:
    dice = random.Random(seed)

    def cut(data: bytes) -> list[bytes]:
        marks = sorted(dice.choices(range(1, len(data)), k=dice.randint(0, 4)))
        pieces = [data[a:b] for a, b in itertools.pairwise([0, *marks, len(data)])]
        return [piece for piece in pieces if piece]

    async def talk() -> None:
        async def connect() -> Channel:
            return FarEnd(lambda request: {"ok": True, "echo": request.get("text")}, cut)

        async with open_pipe("there", connect, SHORT) as pipe:
            texts = ["\n" * number + "x" * dice.randint(0, 300) for number in range(calls)]
            answers = await asyncio.gather(*(pipe.call("echo", text=text) for text in texts))
            assert [answer["echo"] for answer in answers] == texts

    asyncio.run(talk())
