"""A component of the installation: started, awaited, watched, restarted when it dies, stopped.

Each runs in a session of its own, so that a Ctrl-C at the terminal reaches only us and the order of stopping is
ours. Its output goes to a file that we own; nothing here reads from a child.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from blocks.errors import CommonfleetError
from blocks.process import Process, identify

DEATHS, WITHIN_SECONDS = 5, 60.0
"""A component that dies this often in this time will not come right by itself."""
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.5, 8.0
LOG_BYTES = 10 << 20
"""A log larger than this is put aside (one older file is kept) when its component starts."""


def nothing() -> None:
    """A component that needs no preparation."""


@dataclass(frozen=True)
class Component:
    """How one child is run. `prepare` is called before each start; `ready` is asked until it says so."""

    role: str
    argv: Sequence[str]
    environment: Mapping[str, str]
    log: Path
    ready: Callable[[], Awaitable[bool]]
    ready_seconds: float = 60.0
    stop: signal.Signals = signal.SIGTERM
    grace_seconds: float = 6.0
    folder: Path = Path("/")
    account: Mapping[str, Any] = field(default_factory=dict)
    prepare: Callable[[], None] = nothing


class Supervised:
    """One component over its life. `told` hears of every process it starts, as soon as it exists."""

    def __init__(self, component: Component, told: Callable[[str, Process | None], None]) -> None:
        self.component = component
        self.told = told
        self.child: asyncio.subprocess.Process | None = None
        self.deaths: deque[float] = deque(maxlen=DEATHS)
        self.asked = False

    async def start(self) -> None:
        """Start it and wait until it is ready. Raises CommonfleetError, with the end of its log, when it does not."""
        component = self.component
        await asyncio.to_thread(component.prepare)
        await self.spawn()
        until = time.monotonic() + component.ready_seconds
        while not await component.ready():
            if self.child is None or self.child.returncode is not None or time.monotonic() > until:
                raise CommonfleetError(
                    f"The {component.role} did not come up: {tail(component.log)}",
                    kept="Everything already recorded is kept.",
                    do=f"Its log is {component.log}.",
                )
            await asyncio.sleep(0.1)

    async def spawn(self) -> None:
        component = self.component
        if component.log.exists() and component.log.stat().st_size > LOG_BYTES:
            component.log.replace(component.log.with_suffix(".log.1"))
        with component.log.open("ab") as log:
            self.child = await asyncio.create_subprocess_exec(
                *component.argv,
                env=dict(component.environment),
                cwd=component.folder,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                **component.account,
            )
        self.told(component.role, identify(self.child.pid))

    async def keep(self) -> None:
        """Restart it whenever it dies, more slowly each time. Raises CommonfleetError when it keeps dying."""
        while True:
            assert self.child is not None
            code = await self.child.wait()
            self.deaths.append(time.monotonic())
            if len(self.deaths) == DEATHS and self.deaths[-1] - self.deaths[0] < WITHIN_SECONDS:
                raise CommonfleetError(
                    f"The {self.component.role} died {DEATHS} times within a minute (last with {code}): "
                    f"{tail(self.component.log)}",
                    kept="Everything already recorded is kept.",
                    do=f"Its log is {self.component.log}.",
                )
            recent = sum(1 for moment in self.deaths if self.deaths[-1] - moment < WITHIN_SECONDS)
            await asyncio.sleep(min(FIRST_PAUSE_SECONDS * 2 ** (recent - 1), LONGEST_PAUSE_SECONDS))
            await asyncio.to_thread(self.component.prepare)
            await self.spawn()

    def ask(self) -> None:
        """Ask it to stop, once: Prefect takes a second signal as an order to die at once."""
        if self.child and self.child.returncode is None and not self.asked:
            self.asked = True
            self.child.send_signal(self.component.stop)

    async def end(self) -> None:
        """Ask it to stop, wait its grace, then end its whole group."""
        if self.child is None:
            return
        if self.child.returncode is None:
            self.ask()
            try:
                await asyncio.wait_for(self.child.wait(), self.component.grace_seconds)
            except TimeoutError:
                pass  # it has had its time: the group is ended below
        try:
            # Also what a component left in its session (the group outlives its leader).
            os.killpg(self.child.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass
        await self.child.wait()
        self.told(self.component.role, None)


def tail(log: Path, lines: int = 8) -> str:
    """The last lines of a log, for an error message."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 4000))
            text = file.read().decode(errors="replace")
    except OSError:
        return "(no log)"
    return "\n" + "\n".join(text.strip().splitlines()[-lines:])
