"""The workshop: temporary folders of builds in the making, swept when their process is dead, and one maker per build.

Ownership is a file lock, not a pid in a file: the kernel drops it at the very moment the owner dies, however it dies.

    workshop/making-*/   one build in the making      workshop/locks/   one file per build ever made here
    workshop/logs/       the log of what failed last
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tasks.build.base import Progress
from tasks.build.programs import start_time


@contextlib.contextmanager
def temporary_folder(workshop: Path) -> Iterator[Path]:
    """A folder that is ours until the end of the block; it is removed then, or by the next `sweep` after a kill."""
    with _gate(workshop):
        folder = Path(tempfile.mkdtemp(prefix="making-", dir=workshop))
        owner = (folder / "owner").open("w")
        fcntl.flock(owner, fcntl.LOCK_EX)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        owner.close()


def sweep(workshop: Path) -> int:
    """Remove the folders of dead builders, and end what they left running; returns how many there were."""
    swept = 0
    with _gate(workshop):
        for folder in workshop.glob("making-*"):
            with _claimed(folder) as ours:
                if ours:
                    _end_orphans(folder)
                    shutil.rmtree(folder, ignore_errors=True)
                    swept += 1
    return swept


@contextlib.contextmanager
def one_maker(workshop: Path, build: str, progress: Progress) -> Iterator[None]:
    """Of all processes that want `build` (a digest) at once, one is inside at a time; the others wait their turn."""
    locks = workshop / "locks"
    locks.mkdir(parents=True, exist_ok=True)
    with (locks / build.removeprefix("sha256:")[:32]).open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            maker = file.read(20).strip()
            progress(f"waiting for process {maker or '?'}, which makes the same build")
            fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        file.truncate()
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


@contextlib.contextmanager
def _gate(workshop: Path) -> Iterator[None]:
    """Held while a folder is made or swept: a folder that has no owner yet must not look abandoned."""
    workshop.mkdir(parents=True, exist_ok=True)
    with (workshop / "gate").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def _claimed(folder: Path) -> Iterator[bool]:
    """Whether the folder's owner is dead."""
    # Mode "a", for an owner that died while it was removing the folder, its own file first.
    try:
        owner = (folder / "owner").open("a")
    except FileNotFoundError:
        yield False  # the folder has just gone
        return
    with owner:
        try:
            fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def _end_orphans(folder: Path) -> None:
    for mark in folder.glob("running-*"):
        pid = int(mark.name.removeprefix("running-"))
        began = mark.read_text()
        if began and began == start_time(pid):  # otherwise the number belongs to somebody else by now
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)
