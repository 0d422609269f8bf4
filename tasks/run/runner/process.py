"""One process of a unit: started, drained, watched, ended.

A single thread and a selector: the same loop reads the output, notices the end, and looks at the clock, at memory, at
the work folder and at the wish to stop. Nothing in it waits for the unit to be so kind as to close a pipe.
"""

from __future__ import annotations

import math
import os
import selectors
import signal
import subprocess
import time
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple

from . import disk, posix

READ_BYTES = 1 << 18
POLL_SECONDS = 0.02
DRAIN_SECONDS = 2.0
MEMORY_SECONDS = 0.25
ENDING_SECONDS = 0.1

Sink = Callable[[bytes], None]


@dataclass(frozen=True)
class Pipe:
    """A pipe beside stdout and stderr; the process inherits `write`, and `sink` gets what it writes there."""

    read: int
    write: int
    sink: Sink


def open_pipe(sink: Sink) -> Pipe:
    read, write = os.pipe()
    return Pipe(read, write, sink)


@dataclass(frozen=True)
class Command:
    """What to start. `wrapped` says that a sandbox's program stands in front and reports a death as 128 + signal.
    `shown` and `stated` are the command line and the variables that go on record."""

    argv: Sequence[str]
    env: Mapping[str, str]
    cwd: str
    shown: Sequence[str] = ()
    pipes: Tuple[Pipe, ...] = ()
    wrapped: bool = False
    stated: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Limits:
    """`seconds` for the process, `quiet_seconds` between signs of progress, `memory_bytes` for its whole tree, `room`
    on disk."""

    seconds: float
    quiet_seconds: Optional[float] = None
    memory_bytes: Optional[int] = None
    room: Optional[disk.Room] = None


@dataclass
class Ended:
    """How a process ended. `killed` is why we ended it: "", "time", "quiet", "memory", "disk" or "stop"; `beyond` is
    what it did beyond its room on disk."""

    argv: List[str]
    exit: Optional[int]
    signal: Optional[int]
    seconds: float
    killed: str = ""
    peak_memory_bytes: Optional[int] = None
    survivors: int = 0
    env: Dict[str, str] = field(default_factory=dict)
    beyond: str = ""

    def record(self) -> Dict[str, Any]:
        told = {"argv": self.argv, "exit": self.exit, "signal": self.signal, "seconds": round(self.seconds, 6)}
        return {**told, "env": self.env}

    def how(self) -> str:
        """In words, to follow "the process"."""
        if self.killed == "memory":
            return "was ended by the runner: its processes went over the memory limit"
        if self.killed == "disk":
            return f"was ended by the runner: it {self.beyond}"
        if self.killed:
            return f"was ended by the runner ({self.killed})"
        if self.signal is not None:
            try:
                name = signal.Signals(self.signal).name
            except ValueError:
                name = "no known name"
            return f"was killed by signal {self.signal} ({name})"
        return f"ended with exit code {self.exit}"


@dataclass
class Surroundings:
    """What a process is run in: `sole` when all our descendants belong to it (true in a runner, not in `serve`)."""

    stop_fd: Optional[int] = None
    sole: bool = False
    started: Callable[[int], None] = field(default=lambda pid: None)


def run(
    command: Command,
    limits: Limits,
    stdout: Sink,
    stderr: Sink,
    last_sign: Callable[[], float],
    around: Surroundings,
) -> Ended:
    """Run to the end, whatever the end is. Raises OSError when the program cannot be started at all.

    `last_sign` gives the time (`posix.clock`) of the last progress, for `quiet_seconds`.
    """
    began = posix.clock()
    try:
        process = posix.spawn(command.argv, command.env, command.cwd, [pipe.write for pipe in command.pipes])
    except BaseException:
        for pipe in command.pipes:
            os.close(pipe.read)
        raise
    finally:
        for pipe in command.pipes:
            os.close(pipe.write)
    around.started(process.pid)
    sinks: Dict[int, Sink] = {pipe.read: pipe.sink for pipe in command.pipes}
    assert process.stdout is not None
    assert process.stderr is not None
    sinks[process.stdout.fileno()] = stdout
    sinks[process.stderr.fileno()] = stderr
    try:
        watch = _Watch(process, sinks, limits, began, last_sign, around)
        return watch.until_the_end(command)
    finally:
        posix.ended(process.pid)
        process.stdout.close()
        process.stderr.close()
        for pipe in command.pipes:
            os.close(pipe.read)


class _Watch:
    """The life of one started process."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        sinks: Dict[int, Sink],
        limits: Limits,
        began: float,
        last_sign: Callable[[], float],
        around: Surroundings,
    ) -> None:
        self.process, self.limits, self.began, self.last_sign, self.around = process, limits, began, last_sign, around
        self.sinks = sinks
        self.killed = ""
        self.peak = 0
        self.look_at_memory = began + MEMORY_SECONDS
        self.disk = None if limits.room is None else disk.Watch(limits.room, self.mine)
        self.look_at_disk = math.inf if self.disk is None else began + disk.REST_SECONDS
        self.beyond = ""
        self.status: Optional[Tuple[int, Any]] = None
        self.pidfd = posix.open_pidfd(process.pid)
        self.selector = selectors.DefaultSelector()
        for fd in sinks:
            os.set_blocking(fd, False)
            self.selector.register(fd, selectors.EVENT_READ)
        for other in (self.pidfd, around.stop_fd):
            if other is not None:
                self.selector.register(other, selectors.EVENT_READ)

    def until_the_end(self, command: Command) -> Ended:
        try:
            while not self.has_ended():
                self.step(self.timeout())
            seconds = posix.clock() - self.began
            survivors = self.end_what_is_left(command.wrapped)
            self.drain()
        finally:
            self.selector.close()
            if self.pidfd is not None:
                os.close(self.pidfd)
            if self.status is None:  # Only when something above raised: leave nothing running behind the error.
                self.end_main()
        assert self.status is not None
        return self.told(command, seconds, survivors)

    def has_ended(self) -> bool:
        if self.status is None:
            pid, status, usage = os.wait4(self.process.pid, os.WNOHANG)
            if pid:
                self.status = (status, usage)
                self.process.returncode = status  # So that Popen does not look for a process that we collected.
        return self.status is not None

    def timeout(self) -> float:
        now = posix.clock()
        until = min(self.time_is_over(), self.look_at_memory, self.look_at_disk)
        wait = max(0.0, until - now)
        return wait if self.pidfd is not None else min(wait, POLL_SECONDS)

    def time_is_over(self) -> float:
        over = self.began + self.limits.seconds
        if self.limits.quiet_seconds is not None:
            over = min(over, max(self.began, self.last_sign()) + self.limits.quiet_seconds)
        return over

    def step(self, timeout: float) -> None:
        for key, _ in self.selector.select(timeout):
            if key.fd in self.sinks:
                self.read(key.fd)
            elif key.fd == self.around.stop_fd:
                self.end_main("stop")
        now = posix.clock()
        if now >= self.time_is_over():
            self.end_main("time" if now >= self.began + self.limits.seconds else "quiet")
        elif now >= self.look_at_memory:
            self.weigh(now)
        elif now >= self.look_at_disk:
            self.measure()

    def read(self, fd: int) -> bool:
        """Hand on one piece; false when there is none for now, or none any more."""
        try:
            data = os.read(fd, READ_BYTES)
        except BlockingIOError:
            return False
        if data:
            self.sinks[fd](data)
            return True
        self.selector.unregister(fd)
        del self.sinks[fd]
        return False

    def weigh(self, now: float) -> None:
        held = posix.memory_of(self.mine())
        self.peak = max(self.peak, held)
        # On a host with thousands of processes a look is dear: spend at most about one percent of the time on it.
        self.look_at_memory = now + max(MEMORY_SECONDS, min(5.0, 100 * (posix.clock() - now)))
        if self.limits.memory_bytes is not None and held > self.limits.memory_bytes:
            self.end_main("memory")

    def measure(self) -> None:
        assert self.disk is not None
        self.beyond, rest = self.disk.look()
        self.look_at_disk = posix.clock() + rest
        if self.beyond:
            self.end_main("disk")

    def mine(self) -> List[int]:
        """The unit's processes."""
        if self.around.sole:
            return posix.descendants(os.getpid())
        return [*posix.descendants(self.process.pid), self.process.pid]

    def end_main(self, why: str = "") -> None:
        """Kill the unit's group and wait until its main process is gone."""
        self.killed = why
        posix.kill_group(self.process.pid)
        posix.kill(self.process.pid)
        while not self.has_ended():
            # What is already in the pipes is read on: a process blocked in a write is killed all the same, but the
            # last lines before a hang are the ones people want.
            for fd in list(self.sinks):
                self.read(fd)
            time.sleep(0.002)

    def end_what_is_left(self, wrapped: bool) -> int:
        """Processes that outlived the main one: counted and killed."""
        assert self.status is not None
        if wrapped and not self.killed and os.WIFEXITED(self.status[0]):
            return 0  # The sandbox's process namespace is gone, and everything in it.
        if self.around.sole:
            if not posix.has_children():
                return 0
            if not self.killed:
                time.sleep(ENDING_SECONDS)  # One that is about to end by itself is no survivor.
            return len(posix.end_all_below(os.getpid()))
        left = posix.members_of_session(self.process.pid)
        posix.kill_group(self.process.pid)
        for pid in left:
            posix.kill(pid)
        return len(left)

    def drain(self) -> None:
        """What the pipes still hold; bounded, since a process that we could not kill may hold one open."""
        until = time.monotonic() + DRAIN_SECONDS
        while self.sinks and time.monotonic() < until:
            found = [self.read(fd) for fd in list(self.sinks)]
            if self.sinks and not any(found):
                time.sleep(0.002)

    def told(self, command: Command, seconds: float, survivors: int) -> Ended:
        assert self.status is not None
        status, usage = self.status
        code: Optional[int] = os.WEXITSTATUS(status) if os.WIFEXITED(status) else None
        number: Optional[int] = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
        if command.wrapped and code is not None and 128 < code <= 128 + 64:
            number, code = code - 128, None
        return Ended(
            argv=list(command.shown or command.argv),
            exit=code,
            signal=number,
            seconds=seconds,
            killed=self.killed,
            # ru_maxrss (kB) sees short peaks between two looks, of the largest single process.
            peak_memory_bytes=max(self.peak, usage.ru_maxrss * 1024),
            survivors=0 if self.killed else survivors,
            env=dict(command.stated),
            beyond=self.beyond,
        )
