"""Our end of a machine's pipe: JSON lines to `runner.pyz serve` and back, opened again whenever it is lost.

The far end only starts, watches and collects; runners live in sessions of their own, so losing a pipe (or all of
this process) loses nothing but the connection. Every operation may be asked for twice, so a call that was out when
the pipe was lost is simply repeated on the next one: callers see a slow answer, and an error only when the machine
stays out of reach. What carries the bytes is the pool's matter (`blocks.pools.base.Channel`).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

from blocks.errors import HostError
from blocks.pools.base import Channel
from tasks.run.line import Line, Lost, Patience

CLOSE_SECONDS = 5.0
ANYBODY: Mapping[str, Any] = {}
"""A request that names no operation. Whoever reads the lines refuses it at once, however busy the others are."""

PATIENCE = Patience()
Connect = Callable[[], Awaitable[Channel]]


async def _nobody(why: str) -> None:
    """Nobody wants to hear of it."""


class Pipe:
    """A pipe to one machine, for as long as we want it. Calls may overlap; each answer finds its caller."""

    def __init__(
        self,
        name: str,
        connect: Connect,
        patience: Patience = PATIENCE,
        reopened: Callable[[str], Awaitable[None]] = _nobody,
    ) -> None:
        self.name = name
        self._connect, self._patience, self._reopened = connect, patience, reopened
        self._greeting: Mapping[str, Any] = ANYBODY
        self._line: asyncio.Task[Line] | None = None
        self._why = ""  # the last line was lost; empty before the first one
        self._closed = False

    async def call(self, op: str, *, timeout: float = 60.0, **arguments: Any) -> dict[str, Any]:
        """One request and its answer. Raises HostError when the machine refuses, is too slow, or is gone for good."""
        for _ in range(self._patience.losses):
            opening = self._opening()
            # Shielded: who gives up waiting does not keep the others from the pipe.
            line = await asyncio.shield(opening)
            try:
                reply = await line.ask({"op": op, **arguments}, timeout)
            except TimeoutError as error:
                raise HostError(f"{self.name} did not answer `{op}` within {timeout:.0f} s.") from error
            except Lost as lost:
                self._lost(opening, str(lost))
                continue
            if not reply.get("ok"):
                raise HostError(f"{self.name} refused `{op}`: {reply.get('error', 'no reason given')}")
            return reply
        raise HostError(
            f"The pipe to {self.name} was lost {self._patience.losses} times during `{op}`: {self._why}.",
            do="The run can be resumed.",
        )

    async def greet(self, op: str, **arguments: Any) -> dict[str, Any]:
        """Call this now, and first of all on every pipe that takes the place of a lost one."""
        self._greeting = {"op": op, **arguments}
        return await self.call(op, **arguments)

    async def close(self) -> None:
        """Close our end, for good. Runners on the machine go on."""
        self._closed = True
        opening = self._line
        if opening is None:
            return
        if opening.done() and not opening.cancelled() and opening.exception() is None:
            await opening.result().close(CLOSE_SECONDS)
        opening.cancel()
        await asyncio.gather(opening, return_exceptions=True)

    def _opening(self) -> asyncio.Task[Line]:
        if self._closed:
            raise HostError(f"The pipe to {self.name} is closed.", do="The run can be resumed.")
        if self._line is None:
            self._line = asyncio.create_task(self._open(None))
        return self._line

    def _lost(self, opening: asyncio.Task[Line], why: str) -> None:
        """The first who notices has it opened again; the others find that this is under way."""
        if self._line is opening and not self._closed:
            self._why = why
            self._line = asyncio.create_task(self._open(opening.result()))
            # Where nobody waits for it any more, its failure is nobody's news.
            self._line.add_done_callback(lambda done: done.cancelled() or done.exception())

    async def _open(self, before: Line | None) -> Line:
        if before is None:
            return await self._found("cannot be opened")
        # What is left of the old far end is cut off: it may only hang, and would wake up beside the new one.
        await before.close(0)
        line = await self._found(f"was lost ({self._why}) and cannot be opened again")
        try:
            await self._reopened(self._why)
        except BaseException:
            await line.close(0)
            raise
        return line

    async def _found(self, what: str) -> Line:
        """A line that answers, tried for a while. Raises HostError that says `what`."""
        last = "it is silent"
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._patience.reopen_seconds):
                for pause in self._patience.pauses:
                    await asyncio.sleep(pause)
                    try:
                        return await self._tried()
                    except HostError as error:
                        last = error.what
        raise HostError(
            f"The pipe to {self.name} {what}: {last}",
            kept="What runs there goes on, and keeps what it finishes.",
            do="The run can be resumed.",
        )

    async def _tried(self) -> Line:
        """A line that has answered. Raises HostError."""
        try:
            line = Line(await self._connect(), self._patience)
        except OSError as error:
            raise HostError(f"{self.name} cannot be reached: {error}.") from error
        try:
            reply = await line.ask(self._greeting, self._patience.dead_seconds)
            if self._greeting and not reply.get("ok"):
                raise HostError(f"{self.name} refused `{self._greeting['op']}`: {reply.get('error')}")
        except (Lost, TimeoutError) as error:
            await line.close(0)
            raise HostError(f"{self.name} does not answer: {error or 'it is silent'}.") from error
        except BaseException:
            await line.close(0)
            raise
        return line


@contextlib.asynccontextmanager
async def open_pipe(
    name: str,
    connect: Connect,
    patience: Patience = PATIENCE,
    reopened: Callable[[str], Awaitable[None]] = _nobody,
) -> AsyncIterator[Pipe]:
    """A pipe to the machine of that name. `reopened` is told why each time a lost one has been opened again."""
    pipe = Pipe(name, connect, patience, reopened)
    try:
        yield pipe
    finally:
        await pipe.close()
