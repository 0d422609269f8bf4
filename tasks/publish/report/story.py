"""The story of a run: everything the report says, as plain frozen values.

`gather.py` reads it from the ledger, `render.py` writes it as a page. All texts here are as they were recorded; the
page escapes them. Times are seconds since the epoch (UTC), durations are seconds, sizes are bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

GroupKind = Literal["new", "unjudged", "quarantined", "known", "order_dependent", "other"]


@dataclass(frozen=True)
class Books:
    """The units of something: planned, and what became of them. `open` ones have no terminal state yet."""

    planned: int = 0
    ran: int = 0
    skipped: int = 0
    not_run: int = 0
    lost: int = 0

    @property
    def open(self) -> int:
        return self.planned - self.ran - self.skipped - self.not_run - self.lost


@dataclass(frozen=True)
class Cell:
    """One suite in one environment. `outcomes` counts tests, each once, by what it ended as."""

    suite: str
    environment: str
    books: Books
    outcomes: Mapping[str, int]
    work_seconds: float


@dataclass(frozen=True)
class Reason:
    """Why units did not run, or why something was left out of the plan; some names as examples."""

    what: str
    suite: str
    environment: str
    reason: str
    count: int
    names: tuple[str, ...]


@dataclass(frozen=True)
class DarkTests:
    """Tests that ran in the runs before and have no result here, for one reason; some names, each with its reason."""

    why: str
    count: int
    names: tuple[tuple[str, str, str], ...]  # environment, test, reason


@dataclass(frozen=True)
class Clip:
    """A text with its middle cut out where it was too long: `dropped` characters stood between head and tail."""

    head: str
    dropped: int = 0
    tail: str = ""


@dataclass(frozen=True)
class Try:
    """One attempt as one test saw it."""

    mode: str
    outcome: str
    seconds: float | None
    machine: str


@dataclass(frozen=True)
class Failure:
    """One test that did not end well, with all that is needed to look into it."""

    suite: str
    environment: str
    test: str
    unit: str
    outcome: str
    cause: str
    gates: bool
    evidence: tuple[tuple[str, str], ...]
    tries: tuple[Try, ...]
    message: Clip | None
    output: Clip | None
    command: str


@dataclass(frozen=True)
class FailureGroup:
    """Failures that mean the same. `total` may be more than are shown."""

    kind: GroupKind
    total: int
    failures: tuple[Failure, ...]


@dataclass(frozen=True)
class Span:
    """A stretch of a lane. `count` attempts, merged where they are too small to be told apart."""

    start: float
    end: float
    outcome: str
    alone: bool
    count: int
    title: str


@dataclass(frozen=True)
class Lane:
    """One slot of one machine over time."""

    machine: str
    slot: int
    leases: tuple[tuple[float, float], ...]
    spans: tuple[Span, ...]
    busy_seconds: float
    attempts: int


@dataclass(frozen=True)
class Timeline:
    """All lanes between `start` and `end`. `left_out` lanes are not drawn."""

    start: float
    end: float
    lanes: tuple[Lane, ...]
    busy_seconds: float
    """Of all slots together, those that are not drawn included."""
    left_out: int = 0


@dataclass(frozen=True)
class SlowTest:
    suite: str
    environment: str
    test: str
    seconds: float
    outcome: str


@dataclass(frozen=True)
class SlowUnit:
    """A unit's own time (all its counted attempts) beside what the plan expected."""

    suite: str
    environment: str
    unit: str
    seconds: float
    estimate_seconds: float
    tests: int


@dataclass(frozen=True)
class Figure:
    """One metric of a model, with its interval where there is one. `unit` names the unit of measure."""

    value: float
    unit: str
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class BenchmarkTable:
    """A row per model; columns are (metric, mode). `rows` maps a model to its figures by column."""

    suite: str
    environment: str
    columns: tuple[tuple[str, str], ...]
    rows: tuple[tuple[str, Mapping[tuple[str, str], Figure]], ...]


@dataclass(frozen=True)
class Uncounted:
    """Attempts that do not count, for one reason, with some examples (unit, machine)."""

    reason: str
    count: int
    examples: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class MachineFacts:
    """A machine and what it says of itself, flattened to (key, value)."""

    id: str
    pool: str
    vendor: str
    slots: int
    headline: str
    facts: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class BuildFacts:
    """A build that units were planned against. `digest` is whole; people see its first digits."""

    name: str
    digest: str
    version: str
    environments: tuple[str, ...]


@dataclass(frozen=True)
class Story:
    """A run, told from the ledger."""

    run: str
    flow: str
    state: str
    created: float
    finished: float | None
    asked: float
    """When the ledger was read: an unfinished run's report says as of when."""
    exit_code: int | None
    sentence: str
    plan: str
    version: str
    books: Books
    outcomes: Mapping[str, int]
    """Tests by what they ended as: where one was tried again alone, that try stands for it."""
    company: Mapping[str, int] = field(default_factory=dict)
    """The same before anything was tried again alone."""
    missing: int = 0
    """Planned tests of units that ran which have no result."""
    missing_names: tuple[str, ...] = ()
    damaged: tuple[str, ...] = ()
    """Bundles that cannot be trusted any more, so that their rows are missing here."""
    dark: tuple[DarkTests, ...] = ()
    dark_trouble: str = ""
    """Why dark tests could not be looked for, where they could not."""

    compared: tuple[str, ...] = ()
    """The runs before that dark tests were looked for in."""
    cells: tuple[Cell, ...] = ()
    reasons: tuple[Reason, ...] = ()
    left_out: tuple[Reason, ...] = ()
    groups: tuple[FailureGroup, ...] = ()
    timeline: Timeline | None = None
    slow_tests: tuple[SlowTest, ...] = ()
    slow_units: tuple[SlowUnit, ...] = ()
    benchmarks: tuple[BenchmarkTable, ...] = ()
    attempts: int = 0
    uncounted: tuple[Uncounted, ...] = ()
    machines: tuple[MachineFacts, ...] = ()
    builds: tuple[BuildFacts, ...] = ()
    isolation: Mapping[str, int] = field(default_factory=dict)
    events: Mapping[str, int] = field(default_factory=dict)
