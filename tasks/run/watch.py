"""What a driver is doing right now, for those who watch: the command line and Prefect's artifacts.

A plain mutable picture that nobody decides anything from. Decisions are made from the ledger.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tasks.run.agent import Agent


@dataclass
class Watch:
    """The picture. `phase` is what the run is at (build, plan, test, ...), `note` what exactly."""

    run: str = ""
    phase: str = "starting"
    note: str = ""
    planned: int = 0
    finished: int = 0
    planned_seconds: float = 0.0
    finished_seconds: float = 0.0
    outcomes: Counter[str] = field(default_factory=Counter)
    agents: Sequence[Agent] = ()
    testing_since: float | None = None
    earlier_seconds: float = 0.0
    """What of `finished_seconds` was finished by drivers before this one."""

    def at(self, phase: str, note: str = "") -> None:
        """Enter a phase."""
        self.phase, self.note = phase, note

    def tell(self, note: str) -> None:
        """Say what exactly is going on in this phase."""
        self.note = note

    def resumed(self, finished: int, seconds: float) -> None:
        """So many units were finished before our time."""
        self.finished, self.finished_seconds, self.earlier_seconds = finished, seconds, seconds

    def delivered(self, part: Mapping[str, Any], estimate_seconds: float) -> None:
        """Count what an admitted part brought: units that were expected to take so long in all."""
        self.finished_seconds += estimate_seconds
        for line in part["records"]:
            self.finished += 1
            for attempt in line["attempts"]:
                if attempt["mode"] == "company":
                    self.outcomes.update(result["outcome"] for result in attempt["results"])

    def waits(self) -> str:
        """Why nothing of this run runs, while every slot waits; empty otherwise."""
        lanes = [lane for agent in self.agents for lane in list(agent.lanes)]
        return lanes[0].waits if lanes and all(lane.waits for lane in lanes) else ""

    def left_seconds(self) -> float | None:
        """How long it may take yet, from the estimates and how they have held so far; None while nobody can know."""
        ours = self.finished_seconds - self.earlier_seconds
        if self.testing_since is None or ours <= 0:
            return None
        pace = (time.monotonic() - self.testing_since) / ours
        return max(0.0, self.planned_seconds - self.finished_seconds) * pace
