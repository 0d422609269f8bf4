"""How much a unit has put on disk, looked up as `du` does while it runs.

A pass over the work folder is cut into slices of some milliseconds, so that a tree of a million files holds up
neither the reading of output nor the clock. What counts are blocks on disk (a sparse file is as large as what is in
it), of files that were removed and are still held open too. Nothing is followed out of the folder, and no path is ever
put together: a tree may be thousands of folders deep.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from typing import Callable, Iterable, Iterator, List, Optional, Set, Tuple

from . import posix

WORK_BYTES = 10 << 30
WORK_FILES = 1_000_000
OPEN_FOLDERS = 250
"""So many are held open in one pass at most; only a tree that was made for it needs more."""

SLICE_SECONDS = 0.01
PAUSE_SECONDS = 0.1
REST_SECONDS = 2.0
LONGEST_REST_SECONDS = 30.0

FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


@dataclass(frozen=True)
class Room:
    """What a unit may put into its work folder: bytes on disk, and files and folders together."""

    folder: str
    bytes: int = WORK_BYTES
    files: int = WORK_FILES


class Watch:
    """Looks at a room again and again. `pids` gives the processes whose open files count."""

    def __init__(self, room: Room, pids: Callable[[], Iterable[int]]) -> None:
        self.room, self.pids = room, pids
        self.pass_: Optional[Iterator[str]] = None
        self.used = 0.0

    def look(self) -> Tuple[str, float]:
        """(what the unit did beyond its room, empty while it is within; seconds until the next look)."""
        began = posix.clock()
        if self.pass_ is None:
            self.pass_, self.used = measured(self.room, self.pids), 0.0
        for beyond in self.pass_:
            if beyond:
                return beyond, 0.0
            if posix.clock() - began >= SLICE_SECONDS:
                self.used += posix.clock() - began
                return "", PAUSE_SECONDS
        self.used += posix.clock() - began
        self.pass_ = None
        # About one percent of the time, as long as that is soon enough.
        return "", min(max(REST_SECONDS, 100 * self.used), LONGEST_REST_SECONDS)


def measured(room: Room, pids: Callable[[], Iterable[int]]) -> Iterator[str]:
    """One pass: an empty text for each thing looked at, and what the unit did beyond its room once that is seen."""
    held, files = 0, 0
    try:
        for size in _sizes(room.folder, pids):
            held, files = held + size, files + 1
            if held > room.bytes:
                yield f"wrote more than {shown(room.bytes)} in its work folder"
            elif files > room.files:
                yield f"made more than {room.files:,} files in its work folder"
            else:
                yield ""
    except _TooBushy:
        yield "nested the folders in its work folder so that they cannot be measured"


def shown(size: int) -> str:
    """A number of bytes, in words."""
    unit, name = next(((u, n) for u, n in ((1 << 30, "GiB"), (1 << 20, "MiB")) if size >= u), (1, "bytes"))
    return f"{size / unit:g} {name}"


class _TooBushy(Exception):
    """More folders would have to be held open than any tree needs that was not made for it."""


def _sizes(folder: str, pids: Callable[[], Iterable[int]]) -> Iterator[int]:
    """Bytes on disk of each file and folder below `folder`."""
    seen: Set[Tuple[int, int]] = set()
    for status in _entries(folder):
        yield _on_disk(status, seen)
    inside = os.path.realpath(folder) + os.sep
    for pid in pids():
        for status in _removed(pid, inside):
            yield _on_disk(status, seen)


def _on_disk(status: os.stat_result, seen: Set[Tuple[int, int]]) -> int:
    """Bytes that it takes; none where it was counted under another name."""
    if status.st_nlink != 1 and not stat.S_ISDIR(status.st_mode):
        if (status.st_dev, status.st_ino) in seen:
            return 0
        seen.add((status.st_dev, status.st_ino))
    return status.st_blocks * 512


def _entries(folder: str) -> Iterator[os.stat_result]:
    """Everything below `folder` on the same file system; what comes and goes meanwhile may be missing.

    Each folder is opened from the one that holds it. One stays open while folders in it are still to be visited.
    """
    waiting: List[Tuple[int, List[str]]] = []
    try:
        waiting += _opened(folder, None)
        device = os.fstat(waiting[0][0]).st_dev if waiting else 0
        while waiting:
            fd, below = waiting[-1]
            for name, status in _listed(fd):
                if stat.S_ISDIR(status.st_mode) and status.st_dev == device:
                    below.append(name)
                yield status
            _go_on(waiting)
            if len(waiting) > OPEN_FOLDERS:
                raise _TooBushy
    finally:
        for fd, _ in waiting:
            os.close(fd)


def _listed(fd: int) -> Iterator[Tuple[str, os.stat_result]]:
    """The entries of an open folder, as far as they can be read."""
    try:
        with os.scandir(fd) as entries:
            for entry in entries:
                try:
                    yield entry.name, entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue  # It has just been removed.
    except OSError:
        return  # The folder itself cannot be read.


def _go_on(waiting: List[Tuple[int, List[str]]]) -> None:
    """Open the next folder, on top of `waiting`, and close those that nothing is left to visit in."""
    while waiting:
        fd, below = waiting[-1]
        found = _opened(below.pop(), fd) if below else []
        if not below:
            os.close(waiting.pop()[0])
        if found:
            waiting += found
            return


def _opened(name: str, parent: Optional[int]) -> List[Tuple[int, List[str]]]:
    """The folder, open, with none of its folders known yet; nothing where it is gone or closed to us."""
    try:
        return [(os.open(name, FOLDER, dir_fd=parent), [])]
    except OSError:
        return []


def _removed(pid: int, inside: str) -> Iterator[os.stat_result]:
    """Files that the process holds open and that have no name any more, of those that had one `inside`."""
    folder = f"/proc/{pid}/fd"
    try:
        names = os.listdir(folder)
    except OSError:
        return  # Ended meanwhile.
    for name in names:
        try:
            path = os.path.join(folder, name)
            if os.readlink(path).startswith(inside):
                status = os.stat(path)
                if status.st_nlink == 0 and stat.S_ISREG(status.st_mode):
                    yield status
        except OSError:
            continue
