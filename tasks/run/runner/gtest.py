"""The kind `gtest`: a GoogleTest binary.

While it runs, its printed markers tell which test is in hand. When it ends by itself, its own JSON is the authority:
a test may print a marker, it will hardly write that file.
"""

from __future__ import annotations

import json
import os
import re
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

from . import company, workplace
from .company import Finding, Launch, Progress
from .output import Output
from .process import Ended
from .records import MESSAGE_CAP, Json, result
from .workplace import Place

FILTER_BYTES = 100_000  # Linux takes no single argument over 128 KiB.
CARRY_BYTES = 1 << 16
MARKER_BYTES = 4096
MARKER = re.compile(rb"\[ (RUN     |      OK| FAILED | SKIPPED) \] ([^\s,\[]+)")
MILLISECONDS = re.compile(rb"\((\d+) ms\)$")
ENDINGS = {b"OK": "passed", b"FAILED": "failed", b"SKIPPED": "skipped"}


def run(
    place: Place, spec: Mapping[str, Any], planned: Sequence[str], *rest: Any
) -> Tuple[company.Company, List[Json]]:
    """The planned tests of the binary `spec["binary"]`, as a company and as results in planned order."""
    argv = workplace.program(place, str(spec["binary"])) + [str(word) for word in spec.get("args") or ()]
    count = iter(range(1_000_000))

    def start(place: Place, progress: Progress, survivors: Callable[[bytes], None]) -> Launch:
        return _launch(place, argv, progress, survivors, f"gtest-{next(count)}.json")

    done = company.run(place, planned, start, *rest)
    binary, findings = str(spec["binary"]), done.progress.findings
    named = [(split(binary, name), findings[name]) for name in done.progress.planned]
    return done, [result(*name, found.outcome, found.seconds, found.message) for name, found in named]


def split(binary: str, name: str) -> Tuple[str, str, str]:
    """(file, class, name) of `Suite.Name`. The file is the binary's own name: where it stands is the build's matter."""
    file = os.path.basename(binary)
    suite, dot, test = name.partition(".")
    return (file, suite, test) if dot else (file, "", name)


def _launch(
    place: Place, argv: List[str], progress: Progress, survivors: Callable[[bytes], None], report: str
) -> Launch:
    os.makedirs(place.work, exist_ok=True)  # The unit may have removed its own folder.
    batch = next(batches(progress.remaining()), [])
    chosen = ":".join(batch)
    if progress.open:
        chosen = "*" + ("-" + ":".join(progress.findings) if progress.findings else "")
    words = [
        *argv,
        "--gtest_filter=" + chosen,
        "--gtest_output=json:" + place.path(report),
        "--gtest_color=no",
    ]
    reader = Reader(progress)

    def conclude(ended: Ended) -> bool:
        reader.close()
        return ended.exit is not None and not ended.killed and _take_report(place.path(report), progress)

    return Launch(place.command(words, survivors=survivors), batch, conclude, reader.feed, own_part=since_start)


def since_start(text: str, test: str) -> str:
    """What was printed from the start of the test on."""
    marker = f"[ RUN      ] {test}\n"
    at = text.rfind(marker)
    return text[at + len(marker) :] if at >= 0 else text


def batches(names: Sequence[str]) -> Iterator[List[str]]:
    """The names in pieces that fit into one filter each."""
    piece: List[str] = []
    size = 0
    for name in names:
        if piece and size + len(name) + 1 > FILTER_BYTES:
            yield piece
            piece, size = [], 0
        piece.append(name)
        size += len(name) + 1
    if piece:
        yield piece


class Reader:
    """Follows the markers in what a gtest binary prints. They may stand behind other text on their line."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.carry = b""
        self.printed = Output(MESSAGE_CAP)

    def feed(self, data: bytes) -> None:
        data = self.carry + data
        cut = data.rfind(b"\n") + 1
        lines, self.carry = data[:cut], data[cut:]
        if len(self.carry) > CARRY_BYTES:
            # A line without end: only its last bytes can still be the beginning of a marker.
            lines += self.carry[:-MARKER_BYTES]
            self.carry = self.carry[-MARKER_BYTES:]
        self.read(lines)

    def close(self) -> None:
        """The end of the output: what came without a newline counts too, unless it may be cut inside a name."""
        self.printed.add(self.carry)
        self.carry = b""

    def read(self, lines: bytes) -> None:
        at = 0
        for found in MARKER.finditer(lines):
            self.printed.add(lines[at : found.start()])
            end = lines.find(b"\n", found.end())
            took = MILLISECONDS.search(lines, found.end(), len(lines) if end < 0 else end)
            self.take(found.group(1).strip(), found.group(2).decode("utf-8", "replace"), took)
            at = found.end()
        self.printed.add(lines[at:])

    def take(self, word: bytes, name: str, took: Optional[re.Match[bytes]]) -> None:
        """One marker. Only the test in hand can end: a marker of any other is something that a test printed."""
        if word == b"RUN":
            if self.progress.started(name):
                self.printed = Output(MESSAGE_CAP)
        elif name == self.progress.in_hand:
            message = self.printed.text().strip() if word != b"OK" else ""
            self.progress.finished(name, Finding(ENDINGS[word], int(took.group(1)) / 1000 if took else None, message))


def _take_report(path: str, progress: Progress) -> bool:
    """Let gtest's own JSON decide. False when there is none that can be read."""
    try:
        with open(path, "rb") as file:
            body = json.loads(file.read().decode("utf-8", "replace"), strict=False)
        told = dict(_reported(body))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
    progress.add(list(told))
    for name in progress.batch:
        if name in told:
            progress.findings[name] = told[name]
            progress.ran.add(name)
    progress.in_hand = None
    return True


def _reported(body: Dict[str, Any]) -> Iterator[Tuple[str, Finding]]:
    for suite in body["testsuites"]:
        for test in suite["testsuite"]:
            if test.get("status") != "RUN" or not test.get("name"):
                continue
            failures = [str(failure.get("failure", "")) for failure in test.get("failures", ())]
            reasons = [str(skip.get("message", "")) for skip in test.get("skipped", ())]
            outcome = "failed" if failures else "skipped" if test.get("result") == "SKIPPED" else "passed"
            seconds = float(str(test.get("time", "0s")).rstrip("s") or 0)
            yield "{}.{}".format(suite["name"], test["name"]), Finding(outcome, seconds, "\n".join(failures or reasons))
