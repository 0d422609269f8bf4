"""Work in a process beside ours: what needs much memory for a while in one that ends and gives all of it back.

    ours  --call-->    beside   a function by its name, with its arguments
    ours  <--ask---    beside   what only we can answer, as often as the function likes
    ours  --answer-->  beside
    ours  <--value---  beside   or its error, which is raised on our side

When to stop is for us to say: the other process has a session of its own, which no Ctrl-C reaches, and SIGTERM does
not end it (an installation that stops sends it to everybody). It ends with us, however we end: its standard input is
then closed. (`multiprocessing` would run our main module once more, Prefect's engine among others, and lets work go on
for which nobody waits.)
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import io
import os
import pickle
import queue
import signal
import sys
import threading
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import Future
from typing import Any, BinaryIO, TypeVar

from blocks.errors import CommonfleetError

T = TypeVar("T")

Answer = Callable[[Any], Awaitable[Any]]
Ask = Callable[[Any], Future[Any]]

LENGTH_BYTES = 8
START = "from tasks.beside import main; main()"


class Beside:
    """A process beside ours. It starts when it is first needed, and again where it was killed meanwhile."""

    def __init__(self, *modules: str) -> None:
        """`modules` are imported as soon as it starts."""
        self._modules = modules
        self._process: asyncio.subprocess.Process | None = None
        self._turn = asyncio.Lock()

    async def start(self) -> None:
        """Start it, so that the next call need not wait for that."""
        if self._process is not None and self._process.returncode is None:
            return
        self._process = await asyncio.create_subprocess_exec(
            # -P: a folder `tasks` where we happen to stand is none of ours.
            sys.executable, "-P", "-c", START, *self._modules,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, start_new_session=True,
        )  # fmt: skip

    async def call(self, function: Callable[..., T], *arguments: Any, answer: Answer | None = None) -> T:
        """The function's value over there; calls wait for each other. Raises what it raises.

        With `answer`, the function gets an `Ask` as its last argument. A call that is cancelled ends the process.
        Raises CommonfleetError where the process ended under it.
        """
        async with self._turn:
            await self.start()
            answering = _Answering(self._writer, answer)
            try:
                self._writer.write(_framed(("call", (function, arguments, answer is not None))))
                return await self._value(answering)  # type: ignore[no-any-return]
            except (EOFError, ConnectionError):
                raise await self._ended() from None
            except asyncio.CancelledError:
                await asyncio.shield(self.end())  # it would go on with what nobody waits for any more
                raise
            finally:
                await answering.end()

    async def end(self) -> None:
        """End it, whatever it is doing."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()

    @property
    def _writer(self) -> asyncio.StreamWriter:
        assert self._process is not None
        assert self._process.stdin is not None
        return self._process.stdin

    async def _value(self, answering: _Answering) -> Any:
        assert self._process is not None
        assert self._process.stdout is not None
        while True:
            kind, body = await _received(self._process.stdout)
            if kind == "value":
                return body
            if kind == "error":
                raise body
            answering.to(*body)

    async def _ended(self) -> CommonfleetError:
        assert self._process is not None
        code = await self._process.wait()
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        return CommonfleetError(
            f"A process that worked for this run {how}.",
            kept="Everything recorded is safe.",
            do="Look whether memory was short (`dmesg`), then `commonfleet resume RUN`.",
        )


@contextlib.asynccontextmanager
async def beside(*modules: str) -> AsyncIterator[Beside]:
    """A process beside ours that lives no longer than the block."""
    other = Beside(*modules)
    try:
        yield other
    finally:
        await other.end()


class _Answering:
    """The questions of one call, answered side by side."""

    def __init__(self, writer: asyncio.StreamWriter, answer: Answer | None) -> None:
        self._writer = writer
        self._answer = answer
        self._tasks: set[asyncio.Task[None]] = set()

    def to(self, number: int, question: Any) -> None:
        task = asyncio.ensure_future(self._to(number, question))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _to(self, number: int, question: Any) -> None:
        assert self._answer is not None
        try:
            said = _framed(("answer", (number, await self._answer(question))))
        except Exception as error:  # noqa: BLE001 - raised over there, where it was asked
            said = _framed(("refusal", (number, _portable(error))))
        self._writer.write(said)

    async def end(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


# -- what both sides send ------------------------------------------------------------------------------------------


def _framed(message: tuple[str, Any]) -> bytes:
    frame = io.BytesIO(bytes(LENGTH_BYTES))
    frame.seek(LENGTH_BYTES)
    pickler = pickle.Pickler(frame, pickle.HIGHEST_PROTOCOL)
    # Without a memo, which for the names of 100,000 tests is larger than they are. Nothing here refers to itself.
    pickler.fast = message[0] == "answer"
    pickler.dump(message)
    frame.seek(0)
    frame.write((frame.getbuffer().nbytes - LENGTH_BYTES).to_bytes(LENGTH_BYTES))
    return frame.getvalue()


async def _received(reader: asyncio.StreamReader) -> tuple[str, Any]:
    length = int.from_bytes(await reader.readexactly(LENGTH_BYTES))
    message: tuple[str, Any] = pickle.loads(await reader.readexactly(length))
    return message


def _portable(error: BaseException) -> BaseException:
    """The error as it can be sent: with its traceback as a note, unless it is one of ours, which people read."""
    if not isinstance(error, CommonfleetError):
        error.add_note("".join(traceback.format_exception(error)))
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # noqa: BLE001 - whatever its class does when it is copied
        return RuntimeError("".join(traceback.format_exception(error)))
    return error


# -- the other side ------------------------------------------------------------------------------------------------


class _Line:
    """The line to the process that we work for."""

    def __init__(self, reader: BinaryIO, writer: BinaryIO) -> None:
        self.calls: queue.SimpleQueue[tuple[Callable[..., Any], tuple[Any, ...], bool]] = queue.SimpleQueue()
        self._reader = reader
        self._writer = writer
        self._sending = threading.Lock()
        self._asked: dict[int, Future[Any]] = {}
        self._numbers = 0

    def send(self, kind: str, body: Any) -> None:
        with self._sending:
            self._writer.write(_framed((kind, body)))
            self._writer.flush()

    def ask(self, question: Any) -> Future[Any]:
        self._numbers += 1
        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()  # an answer may come when nobody waits for it any more
        self._asked[self._numbers] = future
        self.send("ask", (self._numbers, question))
        return future

    def read(self) -> None:
        """Until the line is cut, which is the end of this process, whatever it is doing."""
        try:
            while head := self._reader.read(LENGTH_BYTES):
                kind, body = pickle.loads(self._reader.read(int.from_bytes(head)))
                if kind == "call":
                    self.calls.put(body)
                elif kind == "answer":
                    self._asked.pop(body[0]).set_result(body[1])
                else:
                    self._asked.pop(body[0]).set_exception(body[1])
        except Exception:  # noqa: BLE001 - a call that cannot be read: there is no other way to say so
            traceback.print_exc()
        finally:
            os._exit(1)


def main() -> None:
    """The other process: does one call after the other, until nobody is there any more."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    line = _Line(sys.stdin.buffer, os.fdopen(os.dup(1), "wb"))
    os.dup2(2, 1)  # what anything prints must not run into the line
    for module in sys.argv[1:]:
        importlib.import_module(module)
    threading.Thread(target=line.read, daemon=True).start()  # not before: what it reads imports modules, too
    while True:
        function, arguments, asking = line.calls.get()
        try:
            said = ("value", function(*arguments, *([line.ask] if asking else [])))
        except Exception as error:  # noqa: BLE001 - raised where the call came from
            said = ("error", _portable(error))
        del function, arguments
        line.send(*said)
        del said
