"""Who owns pools: a vendor, its participation level, its keys and what it gives."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Literal

Contribution = Literal["compute", "engineering", "credits"]


class Level(IntEnum):
    """How much a vendor's results count (PyTorch's RFC-0050). Each level includes those below it."""

    L1 = 1
    """Gets events."""
    L2 = 2
    """Shows on the dashboard."""
    L3 = 3
    """Shows a check that does not block."""
    L4 = 4
    """Shows a check that blocks."""


@dataclass(frozen=True)
class Vendor:
    """The owner of some pools. `keys` are ids of the public keys that its agents sign bundles with."""

    name: str
    level: Level = Level.L1
    keys: tuple[str, ...] = ()
    contributions: tuple[Contribution, ...] = ()
    contacts: tuple[str, ...] = ()

    @property
    def shown(self) -> bool:
        """Whether its results stand on the dashboard."""
        return self.level >= Level.L2

    @property
    def checks(self) -> bool:
        """Whether its results make a check on a change."""
        return self.level >= Level.L3

    @property
    def gates(self) -> bool:
        """Whether a failure on its machines blocks a change."""
        return self.level >= Level.L4


FOUNDATION = Vendor("foundation", Level.L4, contributions=("compute", "engineering"))
"""The project's own machines."""
