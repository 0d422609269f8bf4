"""The shapes of the lease protocol: JSON over a pipe or SSH to machines that we reach, over HTTPS otherwise.

    desk  --Grant-->  agent  --Order-->  runner
    desk  <--Part (signed)--  agent  <--Part--  runner

The runner imports nothing of ours, so these shapes are its contract by convention; `tests/tasks/run` holds both
ends against it. Times named `*_seconds` are durations; `started` is the machine's own wall clock (display only).
"""

from __future__ import annotations

from typing import Any, Literal, NotRequired, TypedDict, final

PROTOCOL = 1
NAME_CHARACTERS = 4_000
"""Longest name of a test that a record may hold; a part with a longer one is refused."""

Outcome = Literal["passed", "failed", "error", "skipped", "xfailed", "xpassed", "crashed", "timed_out"]
OUTCOMES: tuple[Outcome, ...] = (
    "passed", "failed", "error", "skipped", "xfailed", "xpassed", "crashed", "timed_out",
)  # fmt: skip
BAD: frozenset[str] = frozenset({"failed", "error", "crashed", "timed_out"})
"""Outcomes that make people look. (`xpassed` is told in the report and does not gate.)"""


class Result(TypedDict):
    """One test case of one attempt. `name` is never empty; `file` is the gtest binary or the pytest file."""

    file: str
    cls: str
    name: str
    outcome: Outcome
    seconds: float | None
    message: NotRequired[str]


class Metric(TypedDict):
    """One figure of a benchmark unit, with its interval where there is one. `unit` names the unit of measure."""

    model: str
    mode: str
    name: str
    value: float
    unit: str
    low: NotRequired[float]
    high: NotRequired[float]
    samples: NotRequired[list[float]]


class Process(TypedDict):
    """One process of an attempt. `signal` is set when it was killed by one. `env` are the variables that were asked for
    (threads, devices, suite, environment); the paths of the machine are not among them."""

    argv: list[str]
    exit: int | None
    signal: int | None
    seconds: float
    env: NotRequired[dict[str, str]]


class AttemptRecord(TypedDict):
    """What the runner writes for one attempt."""

    ordinal: int
    mode: Literal["company", "alone"]
    test: str | None
    started: float
    seconds: float
    outcome: Outcome
    results: list[Result]
    metrics: list[Metric]
    processes: list[Process]
    output: str
    output_bytes: int
    isolation: str
    peak_memory_bytes: int | None
    survivors: int
    note: str


class UnitRecord(TypedDict):
    """One finished unit: a line of the spool."""

    unit: str
    seq: int
    attempts: list[AttemptRecord]


class Part(TypedDict):
    """A numbered part of a bundle. Part k of a lease always has the same content, however often it is sent."""

    protocol: int
    lease: str
    part: int
    records: list[UnitRecord]


class OrderedUnit(TypedDict):
    """A unit as the runner gets it."""

    unit: str
    name: str
    kind: str
    spec: dict[str, Any]
    tests: list[str]
    suite: str
    timeout_seconds: float
    test_timeout_seconds: float
    memory_bytes: int
    exclusive: bool


class Order(TypedDict):
    """Everything a runner needs for one lease. Paths are the machine's own."""

    protocol: int
    lease: str
    run: str
    epoch: int  # of the driver: a machine that has seen a newer one refuses it
    slot: int
    units: list[OrderedUnit]
    build: str | None  # root of the unpacked build (its wheels are in `site/`)
    sources: dict[str, str]  # suite -> root of its unpacked files
    python: str
    accelerator: dict[str, Any]  # class, devices (indices), env (visibility variables), nodes (device files)
    threads: int
    deadline_seconds: float  # the runner starts no unit later than this after its own start
    sandbox: Literal["auto", "bubblewrap", "none"]
    retry_alone: int  # how many failed or crashed tests of one unit are tried again alone
    output_cap_bytes: int
    env: dict[str, str]  # a unit's own, in its spec, come on top
    work_bytes: NotRequired[int]  # how much a unit may put on disk; by default what the runner says
    work_files: NotRequired[int]


@final
class Grant(TypedDict):
    """What the desk answers to a slot that asks for work."""

    lease: str
    token: str
    deadline_seconds: float  # from now, by the database's clock
    slot: int
    environment: str
    suite: str
    units: list[dict[str, Any]]  # Unit.to_json()


@final
class Wait(TypedDict):
    """Nothing to grant now: ask again after `seconds`. `dry` says that this run has nothing left to grant, ever."""

    seconds: float
    dry: bool
    why: str  # for people


def worst(outcomes: list[str]) -> Outcome:
    """The outcome that stands for many: the most serious one, `skipped` only where nothing else happened."""
    order: tuple[Outcome, ...] = (
        "crashed", "timed_out", "error", "failed", "xpassed", "passed", "xfailed", "skipped",
    )  # fmt: skip
    present = set(outcomes)
    return next((outcome for outcome in order if outcome in present), "error")
