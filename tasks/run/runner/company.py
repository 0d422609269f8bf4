"""Many tests in one process, and what happens when that process dies.

The last test that had started gets the blame (`crashed`, or `timed_out` when it hung), and the rest goes on in a new
process. Each process settles at least one test, or all that is left is settled as `error`: it always comes to an end,
and every planned test has exactly one finding.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from typing import Callable, Dict, List, Optional, Sequence, Set

from . import posix, process, workplace
from .output import Output, Tail
from .records import BAD, Json, worst
from .workplace import Place

TAIL_BYTES = 4096
NAMED = 5
NAME_CHARACTERS = 200
"""How many tests a note names, and how long a name in it may be."""


class Stopped(Exception):
    """The runner was told to stop; the unit in hand is given up."""


@dataclass
class Finding:
    """What became of one test."""

    outcome: str
    seconds: Optional[float] = None
    message: str = ""


class Progress:
    """What the tests of a unit have come to so far, fed by a kind's reader while the process runs.

    With an empty plan it is open: whatever turns up belongs to it.
    """

    def __init__(self, planned: Sequence[str]) -> None:
        self.planned: List[str] = list(dict.fromkeys(planned))
        self.open = not self.planned
        self.findings: Dict[str, Finding] = {}
        self.ran: Set[str] = set()
        self.in_hand: Optional[str] = None
        self.in_hand_since = 0.0
        self.last_sign = 0.0
        self.advanced = False
        self.batch: List[str] = []

    def begin(self, batch: Sequence[str]) -> None:
        """A new process begins, asked for `batch`."""
        self.batch = list(batch)
        self.in_hand, self.advanced, self.last_sign = None, False, posix.clock()

    def remaining(self) -> List[str]:
        return [name for name in self.planned if name not in self.findings]

    def add(self, names: Sequence[str]) -> None:
        """Tests that turned up, where nothing was planned."""
        if self.open:
            known = set(self.planned)
            fresh = [name for name in names if name not in known]
            self.planned.extend(fresh)
            self.batch.extend(fresh)

    def sign(self) -> None:
        self.last_sign = posix.clock()

    def started(self, name: str) -> bool:
        """True when that is a test which may start now (a test can print anything, other tests' markers too)."""
        self.add([name])
        if name in self.findings or name not in self.batch:
            return False
        self.sign()
        self.in_hand, self.in_hand_since, self.advanced = name, self.last_sign, True
        self.ran.add(name)
        return True

    def finished(self, name: str, finding: Finding) -> None:
        if name in self.findings or name not in self.batch:
            return
        self.sign()
        self.advanced = True
        self.findings[name] = finding
        if self.in_hand == name:
            self.in_hand = None

    def settle(self, names: Sequence[str], outcome: str, message: str) -> None:
        for name in names:
            self.findings.setdefault(name, Finding(outcome, None, message))


@dataclass
class Launch:
    """One process that a kind wants started for a batch.

    `conclude` reads what it left behind; it returns whether the process came to the end of its batch by itself.
    `good_exits` are exit codes that say nothing bad. `own_part` cuts what was printed down to what belongs to a test.
    """

    command: process.Command
    batch: Sequence[str]
    conclude: Callable[[process.Ended], bool]
    stdout: process.Sink = field(default=lambda data: None)
    good_exits: Sequence[int] = (0,)
    own_part: Callable[[str, str], str] = field(default=lambda text, test: text)


@dataclass
class Company:
    """What one attempt in company came to."""

    progress: Progress
    processes: List[Json] = field(default_factory=list)
    survivors: int = 0
    peak_memory_bytes: int = 0
    outcome: Optional[str] = None
    notes: List[str] = field(default_factory=list)

    def befell(self, outcome: str, note: str) -> None:
        """Something beyond the single tests."""
        self.outcome = worst([outcome] + ([self.outcome] if self.outcome else []))
        self.notes.append(note)


Starter = Callable[[Place, Progress, Callable[[bytes], None]], Launch]


def run(
    place: Place,
    planned: Sequence[str],
    start: Starter,
    limits: process.Limits,
    around: process.Surroundings,
    output: Output,
) -> Company:
    """Run all planned tests, in as many processes as it takes. `limits.seconds` is for all of them together.

    Raises Stopped, and OSError when the work folder cannot be written.
    """
    company = Company(Progress(planned))
    progress = company.progress
    until = posix.clock() + limits.seconds
    while progress.open or progress.remaining():
        left = until - posix.clock()
        if left <= 0:
            _not_reached(company, limits.seconds)
            break
        survivors = Tail(64)
        launch = start(place, progress, survivors.add)
        tail = Tail(TAIL_BYTES)
        progress.begin(launch.batch)
        try:
            ended = _run_one(launch, replace(limits, seconds=left), around, output, tail, progress)
        except OSError as error:
            progress.settle(progress.remaining(), "error", f"the program cannot be started: {error}")
            company.befell("error", f"the program cannot be started: {error}")
            break
        _record(company, ended, survivors)
        complete = launch.conclude(ended)
        _say_if_it_ended_badly(company, ended, launch.good_exits)
        if ended.killed == "disk":
            _make_room(place)
        if not _settle(company, ended, complete, launch.own_part, tail, limits):
            break
    return company


def _run_one(
    launch: Launch,
    limits: process.Limits,
    around: process.Surroundings,
    output: Output,
    tail: Tail,
    progress: Progress,
) -> process.Ended:
    def stdout(data: bytes) -> None:
        output.add(data)
        tail.add(data)
        launch.stdout(data)

    def stderr(data: bytes) -> None:
        output.add(data)
        tail.add(data)

    return process.run(launch.command, limits, stdout, stderr, lambda: progress.last_sign, around)


def _record(company: Company, ended: process.Ended, survivors: Tail) -> None:
    company.processes.append(ended.record())
    company.peak_memory_bytes = max(company.peak_memory_bytes, ended.peak_memory_bytes or 0)
    company.survivors += ended.survivors + counted(survivors)
    if ended.killed == "stop":
        raise Stopped


def counted(survivors: Tail) -> int:
    """The number that the sandbox's shell wrote, if it came to that."""
    text = survivors.bytes().strip()
    return int(text) if text.isdigit() else 0


def _settle(
    company: Company,
    ended: process.Ended,
    complete: bool,
    own_part: Callable[[str, str], str],
    tail: Tail,
    limits: process.Limits,
) -> bool:
    """Decide what the end of a process means. True when there may be more to run."""
    progress = company.progress
    if progress.in_hand is not None:
        printed = own_part(tail.bytes().decode("utf-8", "replace"), progress.in_hand)
        _blame(progress, ended, printed, limits)
        if ended.killed == "time":
            _not_reached(company, limits.seconds)
        return ended.killed != "time"
    if ended.killed == "time":
        _not_reached(company, limits.seconds)
        return False
    if complete:
        _unreported(company)
        progress.open = False
    elif not progress.advanced:
        message = "the process {} before any test started\n{}".format(
            ended.how(), tail.bytes().decode("utf-8", "replace")
        )
        progress.settle(progress.remaining(), "error", message)
        return False
    return True


def _unreported(company: Company) -> None:
    """Tests that a process was asked for, and came to its end without a word of."""
    progress = company.progress
    unreported = [name for name in progress.batch if name not in progress.findings]
    if unreported:
        progress.settle(unreported, "error", "planned, but the process did not report this test")
        more = f" and {len(unreported) - NAMED} more" if len(unreported) > NAMED else ""
        named = ", ".join(name[:NAME_CHARACTERS] for name in unreported[:NAMED])
        company.notes.append(f"planned, but not reported by their process: {named}{more}")


def _make_room(place: Place) -> None:
    """The next process begins with an empty folder; else it would be ended for what the one before it wrote."""
    workplace.remove(place.work)
    os.makedirs(place.work, exist_ok=True)


def _blame(progress: Progress, ended: process.Ended, printed: str, limits: process.Limits) -> None:
    """The test in hand when the process ended is the one that ended it."""
    name, seconds = progress.in_hand, posix.clock() - progress.in_hand_since
    assert name is not None
    if ended.killed in ("time", "quiet"):
        limit = limits.seconds if ended.killed == "time" else limits.quiet_seconds or 0.0
        what = "the unit's" if ended.killed == "time" else "a test's"
        message = f"still running when {what} time limit of {limit:g} s was over"
        finding = Finding("timed_out", seconds, f"{message}\n{printed}")
    elif ended.killed == "memory":
        message = f"went over the memory limit of {limits.memory_bytes} bytes"
        finding = Finding("crashed", seconds, f"{message}\n{printed}")
    elif ended.killed == "disk":
        finding = Finding("crashed", seconds, f"{ended.beyond}\n{printed}")
    else:
        finding = Finding("crashed", seconds, f"the process {ended.how()}, inside this test\n{printed}")
    progress.finished(name, finding)


def _not_reached(company: Company, seconds: float) -> None:
    left = company.progress.remaining()
    company.progress.settle(left, "error", f"not reached before the unit's time limit of {seconds:g} s")
    company.progress.open = False
    if left:
        company.notes.append(f"{len(left)} tests were not reached before the unit's time limit of {seconds:g} s")


def _say_if_it_ended_badly(company: Company, ended: process.Ended, good_exits: Sequence[int]) -> None:
    """A process that went wrong between or after its tests: no test is to blame, and yet it is not nothing."""
    progress = company.progress
    if progress.in_hand is not None:
        if ended.killed == "disk":
            company.notes.append(f"a process {ended.how()}, inside {progress.in_hand[:NAME_CHARACTERS]}")
        return
    outcomes = [progress.findings[name].outcome for name in progress.batch if name in progress.findings]
    if ended.killed in ("time", "quiet"):
        company.befell("timed_out", "a process hung outside of any test and was ended by the runner")
    elif ended.killed or ended.signal is not None:
        company.befell("crashed", f"a process {ended.how()}, outside of any test")
    elif ended.exit not in good_exits and not any(outcome in BAD for outcome in outcomes):
        company.befell("error", f"a process {ended.how()}, though no test of it failed")
