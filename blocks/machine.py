"""One host held for us: the states of its submission, and the only allowed ways from one to the next.

    planned -> submitting -> accepted -> booting -> ready <-> leased -> releasing -> released

`failed`, `lost` and `quarantined` stand beside that line. A record ends only in `released`: whatever may still exist
somewhere is released first, and only its owner's word that it is gone makes it so.
"""

from __future__ import annotations

from typing import Literal, get_args

from blocks.errors import HostError

State = Literal[
    "planned",
    "submitting",
    "accepted",
    "booting",
    "ready",
    "leased",
    "releasing",
    "released",
    "failed",
    "lost",
    "quarantined",
]
STATES: tuple[State, ...] = get_args(State)
FIRST: State = "planned"

TRANSITIONS: dict[State, frozenset[State]] = {
    # Written before the call is made; dropped without a call when it is not wanted any more.
    "planned": frozenset({"submitting", "released"}),
    # The call is out. After a crash it is replayed in this state (same token), or the machine is found by tag.
    "submitting": frozenset({"accepted", "failed", "lost", "releasing"}),
    "accepted": frozenset({"booting", "ready", "failed", "lost", "releasing"}),
    "booting": frozenset({"ready", "failed", "lost", "quarantined", "releasing"}),
    "ready": frozenset({"leased", "lost", "quarantined", "releasing"}),
    "leased": frozenset({"ready", "lost", "quarantined", "releasing"}),
    # A failed or lost one may still exist and cost money.
    "failed": frozenset({"releasing", "released"}),
    # Seen again after a partition, it comes back through the probes.
    "lost": frozenset({"booting", "releasing", "released"}),
    "quarantined": frozenset({"booting", "lost", "releasing"}),
    "releasing": frozenset({"released", "lost"}),
    "released": frozenset(),
}


def allowed(current: State, wanted: State) -> bool:
    """Whether a machine may go from `current` to `wanted`. Staying is always allowed: calls are replayed."""
    return wanted == current or wanted in TRANSITIONS[current]


def move(machine: str, current: State, wanted: State) -> State:
    """The new state. Raises HostError for a way that is not in the table."""
    if not allowed(current, wanted):
        ways = ", ".join(sorted(TRANSITIONS[current])) or "nothing"
        raise HostError(
            f"The machine {machine} is {current} and cannot become {wanted} (only {ways}).",
            kept="Its record was not changed.",
        )
    return wanted
