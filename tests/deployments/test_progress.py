"""What a terminal shows of a run: lanes that work, and why lanes wait."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from rich.console import Console

from deployments.cli.progress import line, picture
from tasks.run.agent import Lane
from tasks.run.watch import Watch

BUSY = "all slots of the machine are taken"


def watch(*lanes: Lane) -> Watch:
    agents: Any = [SimpleNamespace(lanes=list(lanes))]
    return Watch(phase="test", planned=3, agents=agents)


def drawn(watch: Watch) -> str:
    console = Console(width=100)
    with console.capture() as capture:
        console.print(picture(watch, began=0.0))
    return capture.get()


def test_a_run_whose_slots_are_all_taken_by_another_says_what_it_waits_for() -> None:
    waiting = watch(Lane(waits=BUSY), Lane(waits=BUSY))
    assert f"waiting: {BUSY}" in line(waiting)
    assert f"slot 1  waits: {BUSY}" in drawn(waiting)


def test_a_run_that_works_in_one_slot_waits_for_nothing() -> None:
    working = watch(Lane(waits=BUSY), Lane(lease="l-1", in_hand="test_api"))
    assert "waiting" not in line(working)
    assert "slot 1  test_api" in drawn(working)
