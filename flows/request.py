"""What somebody asks for: the choices of the forms, and the `Request` that every driver gets.

Deliberately free of Prefect and pydantic, so that the command line reads its choices from here at once. `drive`
maps a Request onto the catalog's profile: each field narrows what the profile says, none widens it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Profile(StrEnum):
    """The occasions that ship in the catalog."""

    EMBEDDED = "embedded"
    FULL = "full"


class Suite(StrEnum):
    """The suites that ship in the catalog."""

    LIBTORCH = "libtorch"
    CONSUMER = "consumer"
    INDUCTOR = "inductor"
    BENCHMARK = "benchmark"


@dataclass(frozen=True)
class Request:
    """One wish for a run, as a form, a schedule or the command line states it.

    Defaults change nothing: `Request()` is the embedded profile as the catalog has it.
    """

    profile: str = Profile.EMBEDDED.value
    """Name of a profile of the catalog: which environments and suites there are at all."""

    suites: tuple[str, ...] = ()
    """Only these suites of the profile; empty means all of them. A name the profile lacks is an error."""

    environments: tuple[str, ...] = ()
    """Only environments whose name matches one of these globs; empty means all of the profile."""

    include: tuple[str, ...] = ()
    """Only tests that match one of these globs, as a matrix cell's `include` does; empty means all."""

    sample: float = 1.0
    """Share of what the profile would run, 0 < sample <= 1; it multiplies the tier's own sample."""

    slots: int = 0
    """Use at most this many slots of each machine; 0 means all of them."""

    retry_alone: int | None = None
    """At most this many failed or crashed tests of one unit are tried again alone; None leaves it to the suite."""


def request_from_json(body: Mapping[str, Any]) -> Request:
    """The request that a run's row holds, as `dataclasses.asdict` and JSON have left it."""
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in body.items()}
    return Request(**values)
