"""`local`: the machine that the orchestrator runs on. One offer, nothing to boot, nothing to pay.

Several submissions may hold it at once (runs share its slots; the desk sees to that). What holds it is a small file
each, so that a crash leaves the same thing to find and release as a cloud would. Its channel is a child process.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from blocks.catalog.models import PoolSpec
from blocks.errors import HostError
from blocks.pools.base import Channel, Ground, Health, Machine, Offer, Submission
from blocks.requirement import Requirement, facts_from_hello, slots_of, why_not

FILE_SUFFIX = ".held.json"
READ_BYTES = 1 << 20
HELLO_SECONDS = 60.0
TRIES = 6


@dataclass
class Local:
    """This machine. `hello`, what its runner says about it, is asked for once, when somebody wants to know."""

    name: str
    ground: Ground
    spec: PoolSpec = field(default_factory=lambda: PoolSpec(kind="local"))
    hello: Mapping[str, Any] | None = None
    _asked_on: Channel | None = None

    @property
    def folder(self) -> Path:
        """Where the holds lie."""
        return self.ground.root / "held"

    async def offers(self, requirement: Requirement) -> list[Offer]:
        self.hello = self.hello or await self._ask()
        facts = facts_from_hello(self.hello)
        if why_not(requirement, facts):
            return []
        slots = self.spec.slots or slots_of(facts, self.spec.threads_per_slot or 1)
        return [Offer(self.name, facts.arch, socket.gethostname(), "own", facts, slots, 0.0, 0.0)]

    async def submit(self, submission: Submission) -> Machine:
        held = await self.find(submission)
        if held is None:
            held = self.machine(submission.id, submission.expires)
            self._write(submission.id, held)
        return held

    async def find(self, submission: Submission) -> Machine | None:
        return self._read(self._file(submission.id))

    async def connect(self, machine: Machine) -> Channel:
        asked_on, self._asked_on = self._asked_on, None
        return asked_on or await self._start()

    async def bring(self, machine: Machine, file: Path) -> str:
        return str(file)

    async def observe(self, machine: Machine) -> Machine:
        return self._read(self._file(machine.submission)) or replace(machine, presence="gone")

    async def release(self, machine: Machine) -> Machine:
        self._file(machine.submission).unlink(missing_ok=True)
        return replace(machine, presence="gone")

    async def inventory(self) -> list[Machine]:
        files = sorted(self.folder.glob(f"*{FILE_SUFFIX}"))
        return [machine for file in files if (machine := self._read(file)) is not None]

    async def health(self) -> Health:
        if not os.access(self.ground.root, os.W_OK):
            return Health(False, f"{self.ground.root} cannot be written.")
        return Health(True)

    async def close(self) -> None:
        asked_on, self._asked_on = self._asked_on, None
        if asked_on is not None:
            await asked_on.close(0)

    def machine(self, submission: str, expires: float) -> Machine:
        """This machine, as the one that the submission holds."""
        name = f"{self.name}-{socket.gethostname()}"
        return Machine(name, self.name, submission, "here", str(self.ground.root), expires)

    async def _start(self) -> Channel:
        self.ground.root.mkdir(parents=True, exist_ok=True)
        with (self.ground.root / "serve.log").open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable, str(self.ground.runner), "serve", "--root", str(self.ground.root),
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=log,
                limit=READ_BYTES, start_new_session=True,
            )  # fmt: skip
        return Child(process)

    async def _ask(self) -> Mapping[str, Any]:
        """What the runner says to `hello`. Whoever connects next gets the channel that we have asked on: starting
        another runner takes half a second. Raises HostError."""
        why = ""
        for nth in range(TRIES):
            await asyncio.sleep(nth * 0.2)
            channel = await self._start()
            try:
                async with asyncio.timeout(HELLO_SECONDS):
                    await channel.write(b'{"id": 0, "op": "hello"}\n')
                    hello: dict[str, Any] = json.loads(await _line(channel))
            except (OSError, ValueError) as error:  # it ended, or is silent
                why = str(error) or "it is silent"
                await channel.close(0)
                continue
            except BaseException:
                await channel.close(0)
                raise
            self._asked_on = channel
            return hello
        raise HostError(
            f"The runner of {self.name} does not say what machine it is on: {why}.",
            do=f"See {self.ground.root / 'serve.log'}.",
        )

    def _file(self, submission: str) -> Path:
        if not submission or "/" in submission or submission.startswith("."):
            raise HostError(f"{submission!r} is no name of a submission.")
        return self.folder / f"{submission}{FILE_SUFFIX}"

    def _write(self, submission: str, machine: Machine) -> None:
        """The file appears whole or not at all, also after a crash of the host."""
        target = self._file(submission)
        new = target.with_name(f".{target.name}.{os.getpid()}")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with new.open("w") as file:
                json.dump(asdict(machine), file)
                file.flush()
                os.fsync(file.fileno())
            new.replace(target)
        except OSError as error:
            new.unlink(missing_ok=True)
            raise HostError(
                f"{self.folder} cannot be written: {error.strerror}.", do="Free some space, or set COMMONFLEET_HOME."
            ) from error

    def _read(self, file: Path) -> Machine | None:
        try:
            return Machine(**json.loads(file.read_text()))
        except FileNotFoundError:
            return None


async def _line(channel: Channel) -> bytes:
    """One whole line, and nothing may follow it. Raises OSError when there is none."""
    line = b""
    while not line.endswith(b"\n"):
        piece = await channel.read()
        if not piece:
            raise BrokenPipeError("it ended at once")
        line += piece
    return line


@dataclass(frozen=True)
class Child:
    """A child process as a channel."""

    process: asyncio.subprocess.Process

    async def read(self) -> bytes:
        assert self.process.stdout is not None
        return await self.process.stdout.read(READ_BYTES)

    async def write(self, data: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(data)
        await self.process.stdin.drain()

    async def close(self, grace_seconds: float) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(grace_seconds):
                    await self.process.wait()
        finally:
            if self.process.returncode is None:
                # Not `process.kill()`: that first asks how it ended, and takes the answer away from asyncio's watcher.
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self.process.pid, signal.SIGKILL)
        await self.process.wait()


def open_pool(name: str, spec: PoolSpec, ground: Ground) -> Local:
    """This machine as the pool of that name."""
    return Local(name, ground, spec)
