"""A process by what really identifies it: its id and its start time (ids are used again, pairs are not)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Process:
    """One process of this machine. `start_time` is in clock ticks since boot (/proc/PID/stat, field 22)."""

    pid: int
    start_time: int


def identify(pid: int) -> Process | None:
    """The process that has this id now; None where there is none, or only a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The command name stands in parentheses and may hold spaces and parentheses itself.
    fields = stat.rpartition(")")[2].split()
    if fields[0] in ("Z", "X"):
        return None
    return Process(pid, int(fields[19]))


def alive(process: Process) -> bool:
    """Whether exactly this process still runs (not another one that got its id)."""
    return identify(process.pid) == process
