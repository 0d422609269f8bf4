"""The verdict on each test that looked bad: a pure function from what was seen to the cause.

`evidence.py` gathers what was seen, `judge.py` writes what was decided. Nothing here reads a clock or a ledger.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from blocks.catalog.match import quarantined
from blocks.catalog.models import Quarantined
from blocks.lease import BAD, worst

Cause = Literal["broke", "broken_trunk", "flaky", "order_dependent", "infra", "vendor", "unknown"]
Standing = Literal["new", "quarantined", "known", "order_dependent"]

POISON = "poison"
"""How the reason starts of a unit that was lost because leases died with it in hand."""


@dataclass(frozen=True)
class Sighting:
    """One outcome of one test in one attempt of the judged run."""

    attempt: str
    mode: str  # company, alone
    outcome: str
    counted: bool
    ordinal: int  # of the attempt within its lease
    reason: str = ""  # why it is not counted
    unit: str = ""  # whose attempt it was: two units may have a test of the same name


@dataclass(frozen=True)
class Seen:
    """All that is known of one test that was bad in a counted attempt (or of a unit that was lost: test `NAME::*`).

    `previous_run` is the last complete run before this one in which the test came to a final outcome in this
    environment, `previous` that outcome; None where there is none.
    """

    environment: str
    suite: str
    test: str
    sightings: tuple[Sighting, ...]
    previous_run: str | None = None
    previous: str | None = None
    lost: str | None = None  # a whole unit: why it was lost
    unit: str = ""


@dataclass(frozen=True)
class Verdict:
    """The cause of one bad test. `standing` is how the run's conclusion counts it; `gates` whether it blocks."""

    environment: str
    suite: str
    test: str
    cause: Cause
    gates: bool
    standing: Standing
    outcome: str
    evidence: Mapping[str, Any]


def decide(seen: Iterable[Seen], quarantine: Sequence[Quarantined], today: datetime.date) -> list[Verdict]:
    """A verdict for each bad test, in the order of environment, suite and test."""
    ordered = sorted(seen, key=lambda s: (s.environment, s.suite, s.test))
    return [_decide(one, _entry(one, quarantine, today)) for one in ordered]


def _entry(seen: Seen, quarantine: Sequence[Quarantined], today: datetime.date) -> Quarantined | None:
    return quarantined(quarantine, suite=seen.suite, environment=seen.environment, label=seen.test, today=today)


def _decide(seen: Seen, entry: Quarantined | None) -> Verdict:
    final = final_outcome(seen)
    failed_before = seen.previous in BAD
    cause: Cause
    standing: Standing
    if final not in BAD:
        cause, standing = "order_dependent", "order_dependent"
    elif failed_before:
        cause, standing = "broken_trunk", "quarantined" if entry else "known"
    elif entry:
        # Without a try alone there is too little to say that the test itself is at fault.
        cause, standing = "broke" if seen.lost or _alone(seen) else "unknown", "quarantined"
    else:
        cause, standing = "broke", "new"
    return Verdict(
        seen.environment,
        seen.suite,
        seen.test,
        cause,
        standing == "new",
        standing,
        final,
        _evidence(seen, final, entry),
    )


def final_outcome(seen: Seen) -> str:
    """The outcome that stands: the worst of those that stand in each unit that has the test."""
    units: dict[str, list[Sighting]] = {}
    for sighting in seen.sightings:
        if sighting.counted:
            units.setdefault(sighting.unit, []).append(sighting)
    # A unit that was lost has no outcome of its own.
    return worst([_of_unit(sightings) for sightings in units.values()]) if units else "crashed"


def _of_unit(sightings: Sequence[Sighting]) -> str:
    """The last outcome alone where the test was tried alone, else the worst in company."""
    alone = [s for s in sightings if s.mode == "alone"]
    return max(alone, key=lambda s: (s.ordinal, s.attempt)).outcome if alone else worst([s.outcome for s in sightings])


def _alone(seen: Seen) -> list[Sighting]:
    return [s for s in seen.sightings if s.counted and s.mode == "alone"]


def _evidence(seen: Seen, final: str, entry: Quarantined | None) -> dict[str, Any]:
    evidence: dict[str, Any] = {
        "final": final,
        "attempts": [
            {"attempt": s.attempt, "mode": s.mode, "outcome": s.outcome}
            | ({} if s.counted else {"counted": False, "reason": s.reason})
            for s in sorted(seen.sightings, key=lambda s: (not s.counted, s.ordinal, s.attempt))
        ],
        "previous_run": seen.previous_run,
        "previous_outcome": seen.previous,
    }
    if seen.lost:
        evidence["lost"] = {"unit": seen.unit, "reason": seen.lost}
    if entry:
        evidence["quarantined"] = {
            "reason": entry.reason, "expires": entry.expires.isoformat(), "owner": entry.owner, "link": entry.link,
            "evidence": entry.evidence,
        }  # fmt: skip
    return evidence
