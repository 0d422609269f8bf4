"""A few reading processes, each replaced when a file has killed it.

A thread per process hands over a batch, watches the clock of the file in hand and takes the rows. A batch whose
process dies is answered for in two ways: the file in hand is refused with the reason, and the rest is read again.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import queue
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypedDict

from blocks.canonical import digest_file
from blocks.errors import CommonfleetError
from tasks.collect.readers.base import BUSY, MB, Limits, Reading
from tasks.collect.readers.child import FRAME
from tasks.collect.readers.find import Source

_BATCH_FILES = 64
_BATCH_BYTES = 8 * MB
_START_SECONDS = 60.0  # for a process to come up on a busy machine
_MOST_BYTES = 4096 * MB  # of one batch's rows


@dataclass(frozen=True)
class Numbered:
    """A source and its place among all."""

    at: int
    source: Source


@dataclass(frozen=True)
class Raw:
    """What came of a batch: readings by place, and the rows as Arrow streams or as segments.

    `kept` are the files as they are to be kept, by place: of those that were read and not known already.
    """

    readings: tuple[tuple[int, Reading], ...]
    cases: bytes | bytearray = b""
    metrics: bytes | bytearray = b""
    kept: Mapping[int, bytes | bytearray] = field(default_factory=dict)


class Order(TypedDict):
    """What is to be made of every source."""

    suite: str | None
    format: str | None
    stamp: dict[str, Any] | None


Known = Callable[[Sequence[tuple[int, Reading]]], set[int]]
"""Which of these files, by place, are to be left out: their rows are known already. Asked by several threads."""


class _Died(Exception):
    """The process ended, or was ended, with `in_hand`."""

    def __init__(self, why: str, in_hand: int | None) -> None:
        super().__init__(why)
        self.why, self.in_hand = why, in_hand


def batches(sources: Iterator[Numbered]) -> Iterator[list[Numbered]]:
    """Sources in runs of some 8 MB, so that thousands of small files cost few messages."""
    batch: list[Numbered] = []
    size = 0
    for one in sources:
        if batch and (len(batch) >= _BATCH_FILES or size + one.source.bytes > _BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(one)
        size += one.source.bytes
    if batch:
        yield batch


def read_all(sources: Iterator[Numbered], *, workers: int, order: Order, limits: Limits, known: Known) -> Iterator[Raw]:
    """Everything, as it gets ready. Closing the iterator ends the processes."""
    work = _Work(batches(sources))
    done: queue.Queue[Raw | BaseException | None] = queue.Queue(maxsize=workers)
    stop = threading.Event()
    arguments = (work, done, stop, order, limits, known)
    threads = [threading.Thread(target=_serve, args=arguments, daemon=True) for _ in range(workers)]
    for thread in threads:
        thread.start()
    running = len(threads)
    try:
        while running:
            got = done.get()
            if isinstance(got, BaseException):
                raise got
            if got is None:
                running -= 1
            else:
                yield got
    finally:
        stop.set()
        while any(thread.is_alive() for thread in threads):
            with contextlib.suppress(queue.Empty):
                done.get(timeout=0.05)


class _Work:
    """Batches for several threads. What is to be read again comes first; none leaves while another may bring some."""

    def __init__(self, fresh: Iterator[list[Numbered]]) -> None:
        self._fresh = fresh
        self._again: list[list[Numbered]] = []
        self._out = 0
        self._changed = threading.Condition()

    def take(self) -> list[Numbered] | None:
        with self._changed:
            while True:
                batch = self._again.pop() if self._again else next(self._fresh, None)
                if batch is not None:
                    self._out += 1
                    return batch
                if self._out == 0:
                    return None
                self._changed.wait()

    def finished(self, again: list[list[Numbered]]) -> None:
        with self._changed:
            self._out -= 1
            self._again += again
            self._changed.notify_all()


def _serve(
    work: _Work,
    done: queue.Queue[Raw | BaseException | None],
    stop: threading.Event,
    order: Order,
    limits: Limits,
    known: Known,
) -> None:
    process: _Process | None = None
    try:
        while not stop.is_set() and (batch := work.take()) is not None:
            again: list[list[Numbered]] = []
            try:
                process = process or _Process(limits)
                raw = process.read(batch, order, stop, known)
            except _Died as died:
                process = None
                raw, again = _answer(batch, died)
            finally:
                work.finished(again)
            _put(done, raw, stop)
        _put(done, None, stop)
    except BaseException as error:  # noqa: BLE001  (the caller raises it)
        _put(done, error, stop)
    finally:
        if process is not None:
            process.end()


def _put(done: queue.Queue[Any], value: object, stop: threading.Event) -> None:
    while not stop.is_set():
        try:
            done.put(value, timeout=0.2)
            return
        except queue.Full:
            continue


def _answer(batch: list[Numbered], died: _Died) -> tuple[Raw, list[list[Numbered]]]:
    """The refusal of the file in hand, and what is to be read again.

    With none in hand the rows of all were too much: a file that is alone is to blame, many are read in two halves.
    """
    blamed = died.in_hand if died.in_hand is not None else batch[0].at if len(batch) == 1 else None
    refused = tuple(
        (one.at, Reading(one.source.name, "refused", "", _digest(one.source), one.source.bytes, why=died.why))
        for one in batch
        if one.at == blamed
    )
    if blamed is None:
        half = len(batch) // 2
        return Raw(()), [batch[:half], batch[half:]]
    rest = [one for one in batch if one.at != blamed]
    return Raw(refused), [rest] if rest else []


def _digest(source: Source) -> str:
    """The identity of a file whose reader died; empty where it is gone meanwhile."""
    try:
        return digest_file(source.path)
    except OSError:
        return ""


class _Process:
    """One reading process."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._serves = False  # whether it ever began with a file
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  (closed in `end`)
        path = os.pathsep.join(os.path.abspath(entry) for entry in sys.path if entry)
        env = {
            "PATH": os.defpath,
            "PYTHONPATH": path,
            "LANG": "C.UTF-8",
            # Pages that are given back and asked for again with every file cost more than the reading of it.
            "ARROW_DEFAULT_MEMORY_POOL": "system",
            "MALLOC_MMAP_THRESHOLD_": "134217728",
            "MALLOC_TRIM_THRESHOLD_": "268435456",
            "MALLOC_TOP_PAD_": "4194304",
        }
        argv = [sys.executable, "-P", "-m", "tasks.collect.readers.child", json.dumps(asdict(limits))]
        pipe = subprocess.PIPE
        self._popen = subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=self._errors, env=env, bufsize=0)

    def read(self, batch: Sequence[Numbered], order: Order, stop: threading.Event, known: Known) -> Raw:
        """Have a batch read. Raises _Died, and is of no use any more then."""
        self._in_hand: int | None = None
        self._allow(_START_SECONDS)
        sizes = {one.at: one.source.bytes for one in batch}
        readings: list[tuple[int, Reading]] = []
        try:
            self._order(batch, order)
            while True:
                frame = json.loads(self._take(FRAME.unpack(self._take(FRAME.size, stop))[0], stop))
                if "began" in frame:
                    self._in_hand, self._serves = frame["began"], True
                    self._allow(self._limits.allowed_seconds(sizes[frame["began"]]))
                elif "holds" in frame:  # a compressed file is allowed the time of what it holds
                    self._allow(self._limits.allowed_seconds(min(frame["holds"], self._limits.bytes)))
                elif "read" in frame:
                    readings.append((frame["read"], Reading.from_json(frame["reading"])))
                    self._in_hand = None
                    self._allow(_START_SECONDS)
                elif "asks" in frame:
                    self._say(sorted(known([one for one in readings if one[1].outcome != "refused"])))
                    self._allow(_START_SECONDS)
                else:
                    cases, metrics = (self._take(size, stop) for size in frame["rows"])
                    kept = {at: self._take(size, stop) for at, size in frame["kept"]}
                    return Raw(tuple(readings), cases, metrics, kept)
        except BaseException:
            self.end()
            raise

    def end(self) -> None:
        """End the process, whatever it does."""
        self._popen.kill()
        self._popen.wait()
        for file in (self._popen.stdin, self._popen.stdout, self._errors):
            if file is not None:
                file.close()

    def _order(self, batch: Sequence[Numbered], order: Order) -> None:
        sources = [
            {"at": one.at, "name": one.source.name, "path": str(one.source.path), "bytes": one.source.bytes}
            for one in batch
        ]
        self._say({**order, "sources": sources})

    def _say(self, value: Any) -> None:
        assert self._popen.stdin is not None
        view = memoryview(json.dumps(value).encode() + b"\n")
        try:
            while view:
                view = view[self._popen.stdin.write(view) or 0 :]
        except BrokenPipeError:
            raise self._dead() from None

    def _take(self, size: int, stop: threading.Event) -> bytearray:
        """Exactly so many bytes, before the clock of the file in hand runs out."""
        assert self._popen.stdout is not None
        if size > _MOST_BYTES:
            raise _Died("its rows are more than can be handed over", self._in_hand)
        taken, descriptor = bytearray(size), self._popen.stdout.fileno()
        view = memoryview(taken)
        while view:
            left = self._left()
            if left <= 0:
                raise _Died(f"it took longer than {self._allowed:.1f} s", self._in_hand)
            if stop.is_set():
                raise _Died("reading was given up", self._in_hand)
            if select.select([descriptor], [], [], min(left, 0.5))[0]:
                got = os.readv(descriptor, [view[:MB]])
                if not got:
                    raise self._dead()
                view = view[got:]
        return taken

    def _allow(self, seconds: float) -> None:
        self._allowed, self._since, self._used = seconds, time.monotonic(), _processor_seconds(self._popen.pid)
        self._until = self._since + seconds

    def _left(self) -> float:
        """Seconds until the process is to be looked at again; none where it has had what it was allowed."""
        left = self._until - time.monotonic()
        if left > 0:
            return left
        unused = self._allowed - (_processor_seconds(self._popen.pid) - self._used)
        if not unused > 0:  # nor where nobody knows
            return 0.0
        self._until = min(time.monotonic() + unused, self._since + BUSY * self._allowed)
        return self._until - time.monotonic()

    def _dead(self) -> _Died:
        """Why the process is gone: its last words, or the signal that ended it."""
        try:
            code = self._popen.wait(5)
        except subprocess.TimeoutExpired:
            code = 0
        self._errors.seek(0, os.SEEK_END)
        self._errors.seek(max(0, self._errors.tell() - 2_000))
        words = self._errors.read().decode("utf-8", "replace").strip().splitlines()
        if (words and "MemoryError" in words[-1]) or code == -signal.SIGKILL:
            why = f"reading it needs more than {self._limits.memory_bytes // MB} MB of memory"
        elif code < 0:
            why = f"the process that read it was ended by {signal.Signals(-code).name}"
        else:
            why = f"the reader failed: {words[-1][:300]}" if words else f"the reader ended with {code}"
        if not self._serves:
            raise CommonfleetError(
                f"The process that reads reports does not start: {why}.",
                do="Run `commonfleet doctor`: the installation is incomplete, or the machine is short of memory.",
            )
        return _Died(why, self._in_hand)


def _processor_seconds(pid: int) -> float:
    """What the process has used until now: fields 14 and 15 of proc(5)'s stat. Without such a file, infinitely much."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return math.inf
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
