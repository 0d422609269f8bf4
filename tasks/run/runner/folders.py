"""Folders that several processes share.

More than one `serve` may work on one machine's folder: a dying driver's and the next one's. What must not happen twice
at a time is done while the folder it concerns is held.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
from contextlib import contextmanager
from typing import Iterator

from . import workplace


@contextmanager
def held(folder: str) -> Iterator[str]:
    """Wait until nobody else holds `folder`, and hold it: against other processes and against our own threads.

    Gives a path that means this very folder, also when another one has taken its place meanwhile. It goes with the
    process, however that ends. Raises FileNotFoundError where there is no such folder (any more).
    """
    fd = _take(folder)
    own = f"/proc/self/fd/{fd}"
    try:
        yield own if os.path.isdir(own) else folder
    finally:
        os.close(fd)


def is_still(own: str, folder: str) -> bool:
    """Whether the folder that is held as `own` is the one that stands at `folder`."""
    try:
        return os.path.samefile(own, folder)
    except OSError:
        return False


@contextmanager
def temporary(parent: str) -> Iterator[str]:
    """A new folder in `parent`, held while it is used and removed afterwards, unless it was renamed.

    Its name begins with a dot, as no other in `parent` does. Those left by killed processes are removed first.
    """
    os.makedirs(parent, exist_ok=True)
    with held(parent):  # Else another process could take the new folder for a leftover, before it is held.
        _remove_leftovers(parent)
        folder = tempfile.mkdtemp(prefix=".", dir=parent)
        fd = _take(folder)
    try:
        yield folder
    finally:
        workplace.remove(folder)
        os.close(fd)


def _take(folder: str) -> int:
    while True:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            if os.path.samestat(os.fstat(fd), os.stat(folder)):
                return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)  # While we waited it was removed and made anew.


def _remove_leftovers(parent: str) -> None:
    for name in os.listdir(parent):
        folder = os.path.join(parent, name)
        if name.startswith(".") and not _is_held(folder):
            workplace.remove(folder)


def _is_held(folder: str) -> bool:
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return True  # Gone meanwhile, or no folder: in any case not ours to remove.
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(fd)
    return False
