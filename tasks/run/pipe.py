"""Our end of a machine's pipe: JSON lines to `runner.pyz serve` and back.

The far end only starts, watches and collects; runners live in sessions of their own, so losing a pipe (or all of
this process) loses nothing but the connection. For this machine the pipe is a child process's stdin and stdout;
over SSH it will be a channel with the same two streams.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from blocks.errors import HostError

LINE_BYTES = 256 << 20
"""A part can be long: hundreds of units with their output in one line."""


class Pipe:
    """An open pipe. Calls may overlap; each answer finds its caller by number."""

    def __init__(self, process: asyncio.subprocess.Process, name: str) -> None:
        self.name = name
        self._process = process
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._reader = asyncio.create_task(self._read())
        self._lost: str = ""

    async def call(self, op: str, *, timeout: float = 60.0, **arguments: Any) -> dict[str, Any]:
        """One request and its answer. Raises HostError when the machine refuses, is gone, or is silent too long."""
        if self._lost:
            raise HostError(f"The pipe to {self.name} is closed: {self._lost}.", do="The run can be resumed.")
        number = next(self._numbers)
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        line = json.dumps({"id": number, "op": op, **arguments}).encode() + b"\n"
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line)
            # Not `wait_for`: until Python 3.12 it loses a cancel that comes in the same instant as the answer, and
            # whoever waits for the cancelled task then waits for ever.
            async with asyncio.timeout(timeout):
                await self._process.stdin.drain()
                reply = await answer
        except TimeoutError as error:
            raise HostError(f"{self.name} did not answer `{op}` within {timeout:.0f} s.") from error
        except (BrokenPipeError, ConnectionResetError) as error:
            raise HostError(f"The pipe to {self.name} broke during `{op}`.", do="The run can be resumed.") from error
        finally:
            self._waiting.pop(number, None)
        if not reply.get("ok"):
            raise HostError(f"{self.name} refused `{op}`: {reply.get('error', 'no reason given')}")
        return reply

    async def close(self) -> None:
        """Close our end. Runners on the machine go on."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._process.wait(), 5)
        if self._process.returncode is None:
            self._process.kill()
            await self._process.wait()
        self._reader.cancel()

    async def _read(self) -> None:
        assert self._process.stdout is not None
        try:
            while line := await self._process.stdout.readline():
                reply = json.loads(line)
                future = self._waiting.get(reply.get("id"))
                if future is not None and not future.done():
                    future.set_result(reply)
            self._lost = "the far end ended"
        except (ValueError, OSError) as error:
            self._lost = f"it sent something that is no answer ({error})"
        for future in self._waiting.values():
            if not future.done():
                future.set_result({"ok": False, "error": self._lost})


@contextlib.asynccontextmanager
async def local_pipe(runner: Path, root: Path, name: str) -> AsyncIterator[Pipe]:
    """A pipe to this machine. `runner` is the zipapp, `root` the machine's folder."""
    root.mkdir(parents=True, exist_ok=True)
    with (root / "serve.log").open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable, str(runner), "serve", "--root", str(root),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=log,
            limit=LINE_BYTES, start_new_session=True,
        )  # fmt: skip
    pipe = Pipe(process, name)
    try:
        yield pipe
    finally:
        await pipe.close()
