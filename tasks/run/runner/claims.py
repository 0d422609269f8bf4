"""Who may start leases here: the newest driver of a run, and nobody once the run is being stopped.

A driver that lost its run without knowing it still has a pipe. ROOT/runs/<run>.json holds the highest epoch that was
claimed; what an older driver asks for afterwards is refused.
"""

from __future__ import annotations

import os
import re
import time
from contextlib import AbstractContextManager
from typing import Any, Optional

from . import folders, spool
from .records import Json

RUN = re.compile(r"[A-Za-z0-9._-]{1,200}")
KEPT_SECONDS = 30 * 86400.0
NOBODY: Json = {"epoch": 0, "over": -1}
"""`over`: every start up to this epoch is refused, since the run is being stopped."""


def hold(root: str) -> AbstractContextManager[str]:
    """While this is held no claim is made: what was allowed a moment ago still is."""
    return folders.held(os.path.join(root, "runs"))


def claim(root: str, run: Any, epoch: Any, over: bool) -> int:
    """Remember that the driver of `epoch` has the run, and with `over`, that it stops it. Returns the highest epoch
    claimed so far. Raises ValueError for what is no run or no epoch."""
    path = _path(root, run)
    epoch = checked(epoch)
    with hold(root):
        before = _known(path)
        now = {"epoch": max(before["epoch"], epoch), "over": max(before["over"], epoch if over else -1)}
        spool.write(path, spool.encode(now))
    return int(now["epoch"])


def objection(root: str, order: Json) -> Optional[str]:
    """Why this order's driver may start nothing, or None when it may."""
    run, epoch = order["run"], checked(order.get("epoch", 0))
    known = _known(_path(root, run))
    if epoch < known["epoch"]:
        return f"a newer driver has taken run {run} over (epoch {known['epoch']}, this is of {epoch})"
    if epoch <= known["over"]:
        return f"run {run} is being stopped"
    return None


def checked(epoch: Any) -> int:
    """The epoch. Raises ValueError when it is none."""
    if isinstance(epoch, bool) or not isinstance(epoch, int) or epoch < 0:
        raise ValueError(f"an epoch is a number from 0, not {epoch!r}")
    return epoch


def forget_old(root: str) -> None:
    """Remove the claims that nobody has renewed for so long that no driver of them can be left."""
    folder = os.path.join(root, "runs")
    with hold(root):
        for name in os.listdir(folder):
            path = os.path.join(folder, name)
            if time.time() - os.path.getmtime(path) > KEPT_SECONDS:
                os.unlink(path)


def _path(root: str, run: Any) -> str:
    """Its name becomes a path, so it may only be what a plain name may be."""
    if not isinstance(run, str) or not RUN.fullmatch(run):
        raise ValueError(f"{run!r} is no run")
    return os.path.join(root, "runs", run + ".json")


def _known(path: str) -> Json:
    return {**NOBODY, **(spool.read(path) or {})}
