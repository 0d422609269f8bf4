"""The kind `pytest`: a file, or some tests of a file.

A plugin of ours inside pytest tells of each test as it happens (`stream_plugin.py`); nothing is read from what pytest
prints. (Not named pytest.py: beside it, `import pytest` would be a trap.)
"""

from __future__ import annotations

import json
import os
import pkgutil
from typing import Any, Callable, Dict, List, Mapping, Sequence, Tuple

from . import company
from .company import Finding, Launch, Progress
from .process import Ended, open_pipe
from .records import SEVERITY, Json, result
from .workplace import Place

PLUGIN = "commonfleet_stream"
FOLDER = ".commonfleet"
LINE_BYTES = 64 << 20
ORDINARY_EXITS = (0, 1, 5)  # passed, some failed, nothing to run
Event = Dict[str, Any]


def run(
    place: Place, spec: Mapping[str, Any], planned: Sequence[str], *rest: Any
) -> Tuple[company.Company, List[Json]]:
    """The planned tests of `spec["file"]`, as a company and as results in planned order."""
    uncollected: List[Event] = []

    def start(place: Place, progress: Progress, survivors: Callable[[bytes], None]) -> Launch:
        return _launch(place, spec, progress, uncollected, survivors)

    done = company.run(place, planned, start, *rest)
    findings = done.progress.findings
    results = [result(*split(name), f.outcome, f.seconds, f.message) for name, f in _in_order(done.progress, findings)]
    return done, results or _nothing_ran(str(spec["file"]), uncollected, done)


def _in_order(progress: Progress, findings: Mapping[str, Finding]) -> List[Tuple[str, Finding]]:
    return [(name, findings[name]) for name in progress.planned]


def _nothing_ran(file: str, uncollected: Sequence[Event], done: company.Company) -> List[Json]:
    """A file of which nothing was planned and nothing turned up still gets a result: why."""
    name = os.path.basename(file)
    for event in uncollected:
        return [result(file, "", name, str(event["outcome"]), None, str(event["message"]))]
    why = "; ".join(done.notes) or "no test was found in this file"
    return [result(file, "", name, "error" if done.outcome else "skipped", None, why)]


def split(node: str) -> Tuple[str, str, str]:
    """(file, class, name) of a node id; what stands in the brackets of a parametrised test is left alone."""
    path, _, rest = node.partition("::")
    head, bracket, parameters = rest.partition("[")
    names = head.split("::")
    return path, "::".join(names[:-1]), names[-1] + bracket + parameters


def argv(place: Place, file: str, args: Sequence[Any]) -> List[str]:
    """pytest's command line, such that node ids are relative to the sources, nothing outside them is read or written,
    and a `-x` in the sources' settings leaves no planned test without a result."""
    sources = place.sources or ""
    return [
        place.python, "-m", "pytest", "-p", PLUGIN, "--color=no",
        "-o", "cache_dir=" + place.path(os.path.join(FOLDER, "cache")),
        "--rootdir=" + sources, "--confcutdir=" + sources, "-c", _settings(place),
        *[str(word) for word in args], "--maxfail=0", os.path.join(sources, file),
    ]  # fmt: skip


def environment(place: Place, fd: int, select: str) -> Dict[str, str]:
    """What the plugin needs, beside the place's own."""
    path = [place.path(FOLDER), place.env.get("PYTHONPATH", "")]
    env = {"PYTHONPATH": ":".join(part for part in path if part), "COMMONFLEET_STREAM_FD": str(fd)}
    return {**env, "COMMONFLEET_SELECT": select} if select else env


def write_files(place: Place, selected: Sequence[str]) -> str:
    """Put the plugin, and the list of tests to run, into the work folder. Returns the list's path, if there is one.

    By file and not by argument: node ids may hold any character, and thousands of them fit no command line.
    """
    folder = place.path(FOLDER)
    os.makedirs(folder, exist_ok=True)  # Written anew each time: the unit may have removed it.
    _show_sources(place)
    with open(os.path.join(folder, PLUGIN + ".py"), "wb") as plugin:
        plugin.write(pkgutil.get_data(__package__, "stream_plugin.py") or b"")
    with open(os.path.join(folder, "pytest.ini"), "w", encoding="ascii") as settings:
        settings.write("[pytest]\n")
    if not selected:
        return ""
    path = os.path.join(folder, "select.json")
    with open(path, "w", encoding="utf-8") as file:
        json.dump(list(selected), file)
    return path


def _show_sources(place: Place) -> None:
    """Links to what lies in the sources, so that a test may read by relative path what it would find beside itself when
    started from there, and still write where it is."""
    sources = place.sources or ""
    for name in os.listdir(sources) if os.path.isdir(sources) else ():
        try:
            os.symlink(os.path.join(sources, name), place.path(name))
        except FileExistsError:
            continue  # The process before this one had it, or has put something else there.


def _settings(place: Place) -> str:
    """The sources' own settings, else an empty file: pytest would look for one in every folder up to `/`."""
    marks = {"pytest.ini": "", ".pytest.ini": "", "pyproject.toml": "[tool.pytest", "tox.ini": "[pytest]"}
    for name, mark in {**marks, "setup.cfg": "[tool:pytest]"}.items():
        path = os.path.join(place.sources or "", name)
        try:
            with open(path, encoding="utf-8", errors="replace") as file:
                if mark in file.read():
                    return path
        except OSError:
            continue
    return place.path(os.path.join(FOLDER, "pytest.ini"))


class Stream:
    """Cuts what the plugin writes into events."""

    def __init__(self, take: Callable[[Event], None]) -> None:
        self.take = take
        self.carry = b""

    def feed(self, data: bytes) -> None:
        *lines, self.carry = (self.carry + data).split(b"\n")
        if len(self.carry) > LINE_BYTES:
            self.carry = b""
        for line in lines:
            try:
                event = json.loads(line.decode("utf-8", "replace"))
            except ValueError:
                continue  # Something else found the descriptor and wrote into it.
            if isinstance(event, dict):
                self.take(event)


def _launch(
    place: Place,
    spec: Mapping[str, Any],
    progress: Progress,
    uncollected: List[Event],
    survivors: Callable[[bytes], None],
) -> Launch:
    batch = [] if progress.open else progress.remaining()
    ended_itself: List[Event] = []

    select = write_files(place, batch)
    pipe = open_pipe(Stream(lambda event: take(event, progress, uncollected, ended_itself)).feed)
    words = argv(place, str(spec["file"]), spec.get("args") or ())
    command = place.command(words, environment(place, pipe.write, select), [pipe], survivors)

    def conclude(ended: Ended) -> bool:
        complete = bool(ended_itself) and ended.exit in ORDINARY_EXITS
        if not progress.advanced:
            _settle_uncollected(progress, uncollected)
        return complete

    return Launch(command, batch, conclude, good_exits=(0, 5))


def take(event: Event, progress: Progress, uncollected: List[Event], ends: List[Event]) -> None:
    """Let one event of the plugin count. What does not look like one is not from our plugin."""
    try:
        _take(event, progress, uncollected, ends)
    except (KeyError, TypeError, ValueError):
        return


def _take(event: Event, progress: Progress, uncollected: List[Event], ends: List[Event]) -> None:
    what = event["event"]
    if what == "collected":
        progress.sign()
        progress.add([str(name) for name in event["ids"]])
        progress.open = False  # From here on the plan is known, also to the process after a crash.
    elif what == "not_collected":
        said = {key: str(event[key]) for key in ("id", "message")}
        uncollected.append({**said, "outcome": _known(event["outcome"])})
    elif what == "start":
        progress.started(str(event["id"]))
    elif what == "finish":
        seconds = float(event["seconds"])
        progress.finished(str(event["id"]), Finding(_known(event["outcome"]), seconds, str(event["message"])))
    elif what == "end":
        ends.append(event)


def _known(outcome: Any) -> str:
    """A test can write to the plugin's stream, too: a word that is no outcome is an error, not a result."""
    return str(outcome) if outcome in SEVERITY else "error"


def _settle_uncollected(progress: Progress, uncollected: Sequence[Event]) -> None:
    """Planned tests of a file that cannot be collected (or skips itself whole) get what collection said."""
    for event in uncollected:
        progress.settle(progress.batch, event["outcome"], event["message"])
        return
