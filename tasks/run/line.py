"""One channel to a machine's runner, from its opening to its loss: requests out, answers to whoever waits for them.

A far end that is gone is seen by the reader. One that is there and says nothing is asked for a sign of life, and taken
for lost when it gives none; a slow answer is no such silence.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from types import NoneType
from typing import Any

from blocks.pools.base import Channel

LINE_BYTES = 256 << 20
"""A part can be long: hundreds of units with their output in one line."""


class Lost(Exception):
    """The pipe is gone, and with it the answers that were waited for."""


@dataclass(frozen=True)
class Patience:
    """How long a silent machine is believed in, and how hard a lost one is looked for."""

    quiet_seconds: float = 5.0  # so long waiting for any answer, then it is asked whether it is there
    dead_seconds: float = 20.0  # so long without a word, that question included: it hangs, and is cut off
    pauses: tuple[float, ...] = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0)  # seconds before each try to open the pipe again
    reopen_seconds: float = 45.0  # for all of these tries
    losses: int = 5  # a call that has lost its pipe so often may be what kills it


class Line:
    """One channel from its opening to its loss."""

    def __init__(self, channel: Channel, patience: Patience) -> None:
        self._channel, self._patience = channel, patience
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._heard = 0
        self._lost = ""
        self._tasks = (asyncio.create_task(self._read()), asyncio.create_task(self._mistrust()))

    async def ask(self, request: Mapping[str, Any], timeout: float) -> dict[str, Any]:
        """The answer. Raises Lost, TimeoutError."""
        if self._lost:
            raise Lost(self._lost)
        number = next(self._numbers)
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        try:
            # Not `wait_for`: until Python 3.12 it loses a cancel that comes in the same instant as the answer, and
            # whoever waits for the cancelled task then waits for ever.
            async with asyncio.timeout(timeout):
                await self._channel.write(json.dumps({"id": number, **request}).encode() + b"\n")
                return await answer
        except OSError as error:
            if isinstance(error, TimeoutError):
                raise
            self._end(f"it broke ({error})")
            raise Lost(self._lost) from error
        finally:
            self._waiting.pop(number, None)
            if answer.done() and not answer.cancelled():
                answer.exception()  # seen, even where the write failed first

    async def close(self, grace_seconds: float) -> None:
        self._end("it was closed")
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._channel.close(grace_seconds)

    def _end(self, why: str) -> None:
        self._lost = self._lost or why
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(Lost(self._lost))

    async def _read(self) -> None:
        pending: list[bytes] = []
        size = 0  # of `pending`; counted along, for a line may come in a million pieces
        try:
            while data := await self._channel.read():
                self._heard += 1
                first, *more = data.split(b"\n")
                pending.append(first)
                size += len(first)
                if more:
                    for line in (b"".join(pending), *more[:-1]):
                        self._take(line)
                    pending, size = [more[-1]], len(more[-1])
                elif size > LINE_BYTES:
                    raise ValueError(f"a line of more than {LINE_BYTES} bytes")
            self._end("the far end ended")
        except (ValueError, OSError, RecursionError) as error:
            self._end(f"it sent something that is no answer ({error})")

    def _take(self, line: bytes) -> None:
        if not line.strip():
            return
        reply = json.loads(line)
        if not isinstance(reply, dict) or type(reply.get("id")) not in (int, NoneType):
            raise ValueError(f"{line[:40]!r}")
        future = self._waiting.get(reply.get("id"))  # type: ignore[arg-type]
        if future is not None and not future.done():
            future.set_result(reply)

    async def _mistrust(self) -> None:
        """Notice a far end that is there and says nothing.

        Silence is counted in looks, not by the clock: who was stopped for a minute himself must first read what has
        come meanwhile, before he judges.
        """
        look = self._patience.quiet_seconds / 5
        silent = 0.0
        while True:
            heard = self._heard
            await asyncio.sleep(look)
            silent = silent + look if self._waiting and heard == self._heard else 0.0
            if silent >= self._patience.dead_seconds:
                return self._end(f"it has not said a word for {self._patience.dead_seconds:.0f} s")
            if silent >= self._patience.quiet_seconds:
                with contextlib.suppress(OSError):  # a broken one is the reader's news; a full one is silent
                    async with asyncio.timeout(look):
                        await self._channel.write(b'{"id": 0}\n')
