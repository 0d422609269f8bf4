"""Live progress in a terminal: what is building, units done of planned, results so far, slots, time left.

A terminal gets a small picture that is redrawn; a pipe or a log gets a line when something has changed, and at
least one every half minute, so that nobody wonders whether it still lives.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Iterator

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from tasks.run.agent import Lane
from tasks.run.watch import Watch

LINE_SECONDS = 30.0
STYLES = {"passed": "green", "failed": "red", "crashed": "red", "error": "red", "timed_out": "red", "skipped": "dim"}


@contextlib.contextmanager
def shown(watch: Watch, *, quiet: bool) -> Iterator[None]:
    """Show `watch` on standard error while the block runs; standard output stays free for what was asked."""
    console = Console(stderr=True)
    if quiet:
        yield
    elif console.is_terminal:
        began = time.monotonic()
        with Live(get_renderable=lambda: picture(watch, began), console=console, refresh_per_second=4, transient=True):
            yield
    else:
        over = threading.Event()
        teller = threading.Thread(target=_tell, args=(watch, over), daemon=True)
        teller.start()
        try:
            yield
        finally:
            over.set()
            teller.join(2)


def picture(watch: Watch, began: float) -> Group:
    """The picture of this moment."""
    head = Text.assemble((f"{clock(time.monotonic() - began)}  ", "dim"), (watch.phase, "bold cyan"))
    if watch.note and watch.phase != "test":
        head.append(f"  {watch.note}")
    if watch.run:
        head.append(f"   {watch.run}", "dim")
    if not watch.planned:
        return Group(head)
    left = watch.left_seconds()
    bar = Table.grid(padding=(0, 1))
    bar.add_row(
        ProgressBar(total=max(1.0, watch.planned_seconds), completed=watch.finished_seconds, width=40),
        f"{watch.finished} of {watch.planned} units",
        f"about {clock(left)} left" if left is not None and watch.phase == "test" else "",
    )
    results = Text("  ").join(
        Text(f"{count:,} {outcome}", STYLES.get(outcome, "yellow")) for outcome, count in watch.outcomes.most_common()
    )
    lanes = [
        Text(f"  slot {number}  {_doing(lane)}", "dim")
        for agent in watch.agents
        for number, lane in enumerate(list(agent.lanes))
    ]
    return Group(head, bar, results, *lanes)


def line(watch: Watch) -> str:
    """The same in one line, for logs."""
    parts = [watch.phase + (f": {watch.note}" if watch.note else "")]
    if watch.planned:
        parts.append(f"{watch.finished} of {watch.planned} units")
        parts.extend(f"{count} {outcome}" for outcome, count in watch.outcomes.most_common())
        left = watch.left_seconds()
        if left is not None and watch.phase == "test":
            parts.append(f"about {clock(left)} left")
        if watch.phase == "test" and (why := watch.waits()):
            parts.append(f"waiting: {why}")
    return ", ".join(parts)


def clock(seconds: float) -> str:
    """Minutes and seconds, with hours where there are any."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _doing(lane: Lane) -> str:
    if lane.waits:
        return f"waits: {lane.waits}"
    return lane.in_hand or ("between units" if lane.lease else "idle")


def _tell(watch: Watch, over: threading.Event) -> None:
    began, said, when = time.monotonic(), ("", ""), -LINE_SECONDS
    while not over.wait(0.1):
        state = (watch.phase, watch.note if watch.phase != "test" else watch.waits())
        moment = time.monotonic()
        if state != said or moment - when >= LINE_SECONDS:
            print(f"[{clock(moment - began)}] {line(watch)}", file=sys.stderr, flush=True)
            said, when = state, moment
