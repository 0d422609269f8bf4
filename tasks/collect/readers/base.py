"""What every reader of reports is asked for, and what comes of a file.

A kind is a module with `NAME`, `recognises` and `read` (the protocol `Reader`); `detect.py` lists them. A reader gets
the whole content and adds rows to `Rows`, and it says in a `Told` whether it saw the end. It keeps what is complete,
never raises for what a file may hold, and leaves time and memory to the process that it runs in.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from tasks.collect.readers.rows import Rows

MB = 1 << 20


BUSY = 10
"""How many times its seconds a file may take by the clock, as long as its process has not used them: a machine that is
busy with something else is no fault of the file."""


@dataclass(frozen=True)
class Limits:
    """What one file may cost. `seconds` grow with the file's size: see `allowed_seconds`."""

    bytes: int = 256 * MB  # of content, after decompression
    ratio: int = 250  # of content to its gzipped form, above `ratio_free_bytes`
    ratio_free_bytes: int = 4 * MB
    cases: int = 2_000_000
    depth: int = 32
    attributes: int = 64
    token_bytes: int = 8 * MB  # of one tag, comment or instruction; longer ones make expat's time quadratic
    memory_bytes: int = 1024 * MB  # address space of the process that reads
    seconds: float = 4.0  # of a processor
    bytes_per_second: int = 4 * MB

    def allowed_seconds(self, size: int) -> float:
        """Processor time for a file of `size` bytes, some ten times what it needs."""
        return self.seconds + size / self.bytes_per_second


@dataclass(frozen=True)
class Issue:
    """Something to know about a file whose rows were kept. `kind` is for machines: `time`, `count`, `repaired`, ..."""

    kind: str
    message: str
    count: int = 1


class Notes:
    """Collects issues; of each kind the first message, and how often."""

    def __init__(self) -> None:
        self._first: dict[str, str] = {}
        self._count: Counter[str] = Counter()

    def add(self, kind: str, message: str, count: int = 1) -> None:
        if count > 0:
            self._first.setdefault(kind, message)
            self._count[kind] += count

    def issues(self) -> tuple[Issue, ...]:
        return tuple(Issue(kind, message, self._count[kind]) for kind, message in self._first.items())


@dataclass(frozen=True)
class Told:
    """What a reader says of a content: did it see the end (`why` not, if not), how many cases should there be."""

    complete: bool
    why: str = ""
    known: int | None = None
    issues: tuple[Issue, ...] = ()


class Reader(Protocol):
    """One kind of report. Implemented by modules."""

    NAME: str

    def recognises(self, head: str) -> bool:
        """Whether a content that starts like this (without blanks before it) is of this kind."""
        ...

    def read(self, data: bytes, rows: Rows, limits: Limits) -> Told:
        """Add every complete row to `rows`."""
        ...


@dataclass(frozen=True)
class Reading:
    """The outcome of one source: exactly one for each, whatever it holds."""

    name: str
    outcome: Literal["ingested", "salvaged", "refused"]
    kind: str = ""
    digest: str = ""  # sha256:<hex> of the file's own bytes: its identity; empty where it could not be opened
    bytes: int = 0
    cases: int = 0
    metrics: int = 0
    known: int | None = None  # cases that the file says it should hold
    why: str = ""
    issues: tuple[Issue, ...] = field(default_factory=tuple)
    seconds: float = 0.0  # of a processor, that reading it took
    suite: str = ""  # the one that all its rows have; empty where they have several
    distinct: int = 0  # tests among the cases
    worst: str = "passed"  # outcome of all cases
    duration: float = 0.0  # seconds that the cases say they took together
    root: str = ""  # over the rows, as segments hold them (`blocks.ledger.roots`)
    stored: str = ""  # digest of the form in which the file is kept

    @property
    def expected(self) -> int:
        """Tests that there should be: those found and, of a file that was cut off, those that it told of beside."""
        more = max(0, (self.known or 0) - self.cases) if self.outcome == "salvaged" else 0
        return min(self.distinct + more, 2**31 - 1)

    def sentence(self) -> str:
        """The outcome for people."""
        rows = self.cases + self.metrics
        if self.outcome == "refused":
            return f"refused: {self.why}"
        if self.outcome == "ingested":
            return f"ingested ({rows:,})"
        of = "an unknown number" if self.known is None else f"{self.known:,}"
        return f"salvaged ({rows:,} of {of}): {self.why}"

    @staticmethod
    def of(name: str, kind: str, told: Told, cases: int, metrics: int, digest: str, size: int) -> Reading:
        """The outcome that follows from what the reader told and how many rows it made."""
        kept = cases + metrics > 0
        outcome: Literal["ingested", "salvaged", "refused"] = (
            "ingested" if told.complete else "salvaged" if kept else "refused"
        )
        return Reading(name, outcome, kind, digest, size, cases, metrics, told.known, told.why, told.issues)

    def to_json(self) -> dict[str, Any]:
        return {**self.__dict__, "issues": [issue.__dict__ for issue in self.issues]}

    @staticmethod
    def from_json(body: dict[str, Any]) -> Reading:
        return Reading(**{**body, "issues": tuple(Issue(**issue) for issue in body["issues"])})
