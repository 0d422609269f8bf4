"""Units that are one process with one verdict: `benchmark` and `command`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable, Optional

from . import posix, process
from .company import Stopped, counted
from .output import Output, Tail

TAIL_BYTES = 4096


@dataclass
class Single:
    """How the process ended, or why it could not be started."""

    ended: Optional[process.Ended]
    survivors: int
    why_not: str = ""
    printed: str = ""

    def outcome(self, exit_skipped: Optional[int] = None) -> str:
        """`skipped` only where the kind knows an exit code for it."""
        ended = self.ended
        if ended is None:
            return "error"
        if ended.killed in ("time", "quiet"):
            return "timed_out"
        if ended.killed or ended.signal is not None:
            return "crashed"
        if ended.exit == 0:
            return "passed"
        return "skipped" if ended.exit == exit_skipped else "failed"

    def message(self) -> str:
        """Why it did not pass: how it ended and the last that it printed."""
        if self.ended is None:
            return self.why_not
        return f"the process {self.ended.how()}\n{self.printed}"


def run(
    command: Callable[[Callable[[bytes], None]], process.Command],
    limits: process.Limits,
    around: process.Surroundings,
    output: Output,
) -> Single:
    """Run the one process. `command` gets the sink for the number of survivors. Raises Stopped."""
    survivors, tail = Tail(64), Tail(TAIL_BYTES)

    def take(data: bytes) -> None:
        output.add(data)
        tail.add(data)

    began = posix.clock()
    try:
        ended = process.run(command(survivors.add), limits, take, take, lambda: began, around)
    except OSError as error:
        return Single(None, 0, f"the program cannot be started: {error}")
    if ended.killed == "stop":
        raise Stopped
    return Single(ended, ended.survivors + counted(survivors), "", tail.bytes().decode("utf-8", "replace"))
