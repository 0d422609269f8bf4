"""What an `up` that was killed left behind, and how the next one ends it.

`prefect/up.json` names the process of `up`, its mark and each child by (pid, start time, role). A child that was
started in the instant before the kill, and what the worker started, is found by the mark in its environment. Test
runners are left alone: they outlive their orchestrator by design, and whoever resumes the run adopts them.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from blocks.errors import CommonfleetError
from blocks.home import Home
from blocks.process import Process, alive, identify
from deployments.up.settings import MARK
from flows.server import stopping_file

DRIVER_SECONDS = 12.0
"""What a driver gets to stop its machines; what it leaves open is resumed by the next one."""
OURS = ("prefect", "deployments.up.")
"""What stands in the command line of a process that belongs to the installation (and not to a unit under test)."""


@dataclass(frozen=True)
class Record:
    """What is written down about a running `up`."""

    pid: int
    start_time: int
    mark: str
    children: dict[str, Process] = field(default_factory=dict)


def record_file(home: Home) -> Path:
    return home.prefect / "up.json"


def write_record(home: Home, record: Record) -> Record:
    """Put the record down, durably and in one step."""
    new = record_file(home).with_suffix(".new")
    with new.open("w") as file:
        json.dump(asdict(record), file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    new.replace(record_file(home))
    return record


def with_child(record: Record, role: str, process: Process | None) -> Record:
    """The record with this role's process, or without it."""
    children = {name: child for name, child in record.children.items() if name != role}
    return replace(record, children={**children, role: process} if process else children)


def read_record(home: Home) -> Record | None:
    """What the last `up` wrote; None where there is nothing, or nothing readable."""
    try:
        body = json.loads(record_file(home).read_text())
        children = {role: Process(**child) for role, child in body["children"].items()}
        return Record(body["pid"], body["start_time"], body["mark"], children)
    except (OSError, ValueError, TypeError, KeyError):
        return None


def hold(home: Home) -> int:
    """Be the only `up` of this state folder until this process ends, however it ends.

    Returns the descriptor that holds the lock. Raises CommonfleetError naming the one that runs already.
    """
    descriptor = os.open(home.prefect / "up.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        record = read_record(home)
        raise CommonfleetError(
            f"`commonfleet up` runs already for {home.root}, as process {record.pid if record else 'unknown'}.",
            kept="It was not touched.",
            do=f"Stop it with Ctrl-C there, or with: kill {record.pid if record else 'PID'}",
        ) from None
    return descriptor


@contextlib.contextmanager
def stopping(home: Home) -> Iterator[None]:
    """While this holds, a driver that gets SIGTERM leaves its run open, for the next start to resume."""
    stopping_file(home).touch()
    try:
        yield
    finally:
        stopping_file(home).unlink(missing_ok=True)


def marked(mark: str, *, runners: bool = False) -> list[Process]:
    """Every process of the installation that carries this mark in its environment; with `runners`, also those."""
    wanted = f"{MARK}={mark}".encode()
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit() or int(folder.name) == os.getpid():
            continue
        try:
            if wanted not in (folder / "environ").read_bytes().split(b"\0"):
                continue
            line = (folder / "cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue  # gone meanwhile, or somebody else's
        process = identify(int(folder.name))
        if process and (runners or any(word in line for word in OURS)):
            found.append(process)
    return found


def end_leftovers(home: Home, postmaster: Callable[[], int | None]) -> list[str]:
    """End what the last `up` left running. Returns a line for each; nothing else on this machine is touched.

    `postmaster` gives the process that has our database open, known by its data folder.
    """
    record = read_record(home)
    lines = []
    if record:
        children = {child for role, child in record.children.items() if role != "database"}
        drivers = set(marked(record.mark)) - children
        with stopping(home):
            # The drivers first, while they can still tell the server how they ended.
            ended = end(filter(alive, drivers), signal.SIGTERM, patience=DRIVER_SECONDS)
            ended += end(filter(alive, children), signal.SIGTERM, patience=DRIVER_SECONDS)
        lines += [f"ended process {process.pid}, left behind by an earlier `up`" for process in ended]
    pid = postmaster()
    if pid and (process := identify(pid)):
        # SIGINT is PostgreSQL's fast shutdown; SIGQUIT leaves recovery to the next start. Never SIGKILL first:
        # its shared memory would stay.
        if end([process], signal.SIGINT, patience=5, group=False, last=signal.SIGQUIT):
            lines.append(f"stopped the database, left running by an earlier `up` (process {pid})")
        if not wait_gone([process], 5):
            end([process], signal.SIGKILL, patience=1, group=False)
    record_file(home).unlink(missing_ok=True)
    return lines


def end(
    processes: Iterable[Process],
    first: signal.Signals,
    *,
    patience: float,
    group: bool = True,
    last: signal.Signals = signal.SIGKILL,
) -> list[Process]:
    """Ask with `first`, wait `patience` seconds, then `last`; with `group`, also for what a session's leader leads."""
    processes = list(processes)
    for process in processes:
        send(process, first, group)
    wait_gone(processes, patience)
    for process in processes:
        send(process, last, group)
    return processes


def wait_gone(processes: Iterable[Process], seconds: float) -> bool:
    """Wait until all of them are gone; False when some are left."""
    until = time.monotonic() + seconds
    processes = list(processes)
    while any(alive(process) for process in processes):
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True


def send(process: Process, number: signal.Signals, group: bool) -> None:
    """Signal exactly this process, and its group where it leads one."""
    if not alive(process):
        return
    try:
        if group and os.getpgid(process.pid) == process.pid:
            os.killpg(process.pid, number)
        else:
            os.kill(process.pid, number)
    except ProcessLookupError:
        pass  # it went in between
