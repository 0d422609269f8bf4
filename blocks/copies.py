"""Copies of a bucket's objects on this machine: files that may go, the least recently used first.

A file's modification time says when it was used last. What was used within the hour is never taken: somebody may be
reading it, or may be about to open it by its path. So the bound is one on what lies about unused.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from pathlib import Path

COPIES_BYTES = 20 << 30
UNUSED_SECONDS = 3600.0

_brought: Counter[Path] = Counter()  # bytes since the folder was looked through last, by this process


def touched(path: Path) -> bool:
    """Whether the copy is there; if so it counts as used now."""
    try:
        os.utime(path)
    except FileNotFoundError:
        return False
    return True


def trim(
    folder: Path, *, brought: int | None = None, most_bytes: int | None = None, unused_seconds: float = UNUSED_SECONDS
) -> int:
    """Remove copies below `folder` until `most_bytes` are left (`COPIES_BYTES` by default); returns how many.

    With `brought`, the bytes that were just added, the folder is looked through only when enough came together.
    """
    bound = COPIES_BYTES if most_bytes is None else most_bytes
    if brought is not None:
        _brought[folder] += brought
        if _brought[folder] < bound / 10:
            return 0
    _brought[folder] = 0
    seen = []
    for path in folder.rglob("*"):
        try:
            status = path.stat()
        except FileNotFoundError:
            continue
        if path.is_file() and not path.name.startswith(".tmp-"):
            seen.append((status.st_mtime, status.st_size, path))
    excess = sum(size for _, size, _ in seen) - bound
    removed = 0
    for used, size, path in sorted(seen):
        if excess <= 0 or used > time.time() - unused_seconds:
            break
        path.unlink(missing_ok=True)
        excess -= size
        removed += 1
    return removed
