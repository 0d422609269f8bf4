"""What tests there are: asked of the binary or of pytest itself, inside the sandbox.

A file that is no test is an answer (`error`), not a failure of ours.
"""

from __future__ import annotations

import os
import re
from typing import Any, Callable, Dict, List, Mapping, Tuple

from . import disk, folders, posix, process, pytest_kind, sandbox, workplace
from .company import Progress
from .output import Output
from .records import MESSAGE_CAP, Json, clean

LISTING_BYTES = 64 << 20
GTEST_SECONDS = 120.0
PYTEST_SECONDS = 600.0
SUITE_LINE = re.compile(r"([^\s.]+)\.(?:\s+# TypeParam = .*)?$")
TEST_LINE = re.compile(r"  (\S+)(?:\s+# GetParam\(\) = .*)?$")


def discover(root: str, request: Mapping[str, Any], found: sandbox.Sandbox) -> Json:
    """{"tests", "disabled", "error", "seconds"} of one binary, file or script. Raises KeyError, ValueError, TypeError
    for a malformed request."""
    kind, began = request["kind"], posix.clock()
    if kind == "benchmark":
        return {"tests": [], "disabled": [], "error": None, "seconds": 0.0}
    asks: Dict[str, Callable[[workplace.Place, Mapping[str, Any]], Tuple[List[str], List[str], str]]]
    asks = {"gtest": _gtest, "pytest": _pytest}
    if kind not in asks:
        raise ValueError(f"there is nothing to list for the kind {kind!r}")
    with folders.temporary(os.path.join(root, "discover")) as parent:
        tests, disabled, error = asks[kind](_place(root, parent, request, found), request)
    seconds = round(posix.clock() - began, 6)
    return {"tests": tests, "disabled": disabled, "error": clean(error, MESSAGE_CAP) or None, "seconds": seconds}


def _place(root: str, parent: str, request: Mapping[str, Any], found: sandbox.Sandbox) -> workplace.Place:
    etc = os.path.join(parent, "etc")
    sandbox.write_etc(etc)
    python = str(request.get("python") or "")
    return workplace.make(
        work=os.path.join(parent, "work"),
        etc=etc,
        found=found,
        wanted=str(request.get("sandbox") or "auto"),
        build=request.get("build"),
        sources=request.get("sources"),
        python=python or "/usr/bin/python3",
        python_prefixes=workplace.prefixes(python) if python else (),
        accelerator=request.get("accelerator") or {},
        threads=int(request.get("threads") or 1),
        extra_env=request.get("env") or {},
        memory_bytes=None,
    )


def _run(place: workplace.Place, command: process.Command, seconds: float) -> Tuple[process.Ended, bytes, str]:
    """(how it ended, its stdout, all that it printed in short)."""
    listing, shown = bytearray(), Output(MESSAGE_CAP // 2)

    def stdout(data: bytes) -> None:
        shown.add(data)
        if len(listing) < LISTING_BYTES:
            listing.extend(data)

    limits = process.Limits(seconds, room=disk.Room(place.work))
    ended = process.run(command, limits, stdout, shown.add, posix.clock, process.Surroundings())
    return ended, bytes(listing), shown.text()


def _gtest(place: workplace.Place, request: Mapping[str, Any]) -> Tuple[List[str], List[str], str]:
    argv = workplace.program(place, str(request["binary"]))
    why = _no_program(argv[0])
    if why:
        return [], [], why
    argv += [str(word) for word in request.get("args") or ()]
    try:
        ended, listing, shown = _run(place, place.command([*argv, "--gtest_list_tests"]), GTEST_SECONDS)
    except OSError as error:
        return [], [], f"cannot be started: {error}"
    tests, disabled = parse_list(listing.decode("utf-8", "replace"))
    if ended.exit != 0 or ended.killed:
        return [], [], f"--gtest_list_tests: {ended.how()}\n{shown}"
    if not tests and not disabled:
        return [], [], f"lists no tests; it printed:\n{shown}"
    return tests, disabled, ""


def _no_program(path: str) -> str:
    try:
        with open(path, "rb") as file:
            head = file.read(4)
    except OSError as error:
        return f"cannot be read: {error}"
    if head != b"\x7fELF" and head[:2] != b"#!":
        return "is no program"
    return "" if os.access(path, os.X_OK) else "is not executable"


def parse_list(text: str) -> Tuple[List[str], List[str]]:
    """(enabled, disabled) tests of a `--gtest_list_tests` output. Lines that are neither suite nor test (programs
    print warnings of their own) end the suite before them and are left out."""
    tests: List[str] = []
    disabled: List[str] = []
    suite = ""
    for line in text.splitlines():
        head, test = SUITE_LINE.match(line), TEST_LINE.match(line)
        if head:
            suite = head.group(1)
        elif test and suite:
            name = suite + "." + test.group(1)
            off = re.search(r"(^|[/.])DISABLED_", name)
            (disabled if off else tests).append(name)
        elif not line.startswith("  "):
            suite = ""
    return tests, disabled


def _pytest(place: workplace.Place, request: Mapping[str, Any]) -> Tuple[List[str], List[str], str]:
    pytest_kind.write_files(place, ())
    progress = Progress(())
    uncollected: List[pytest_kind.Event] = []
    ends: List[pytest_kind.Event] = []
    stream = pytest_kind.Stream(lambda event: pytest_kind.take(event, progress, uncollected, ends))
    pipe = process.open_pipe(stream.feed)
    words = pytest_kind.argv(place, str(request["file"]), [*(request.get("args") or ()), "--collect-only", "-q"])
    command = place.command(words, pytest_kind.environment(place, pipe.write, ""), [pipe])
    try:
        ended, _, shown = _run(place, command, PYTEST_SECONDS)
    except OSError as error:
        return [], [], f"cannot be started: {error}"
    broken = [str(event["message"]) for event in uncollected if event["outcome"] == "error"]
    if broken:
        return progress.planned, [], "\n".join(broken)
    if not ends or ended.killed or ended.exit not in (0, 5):
        return progress.planned, [], f"pytest {ended.how()}\n{shown}"
    return progress.planned, [], ""
