"""A catalog whose profile and suites have the names of the shipped ones, and whose units wait for us.

Every suite has four units. While a suite is held, two of them (whichever are started first) end at once and the
others wait. Each leaves a line when it ends, so that a unit that was run twice shows.
"""

from __future__ import annotations

import contextlib
import subprocess
from dataclasses import dataclass
from pathlib import Path

import yaml

from tests.small import small_catalog

SUITES = ("libtorch", "consumer", "inductor", "benchmark")
UNITS = 4
PASSES = 2


@dataclass(frozen=True)
class Work:
    """The folder that the units look at and write into."""

    folder: Path

    @property
    def catalog(self) -> Path:
        return self.folder / "catalog"

    def hold(self, suite: str) -> None:
        """From now on, all but two of the suite's units wait. What they have written is forgotten."""
        (self.folder / f"{suite}-ended").unlink(missing_ok=True)
        for number in range(PASSES):
            with contextlib.suppress(FileNotFoundError):
                (self.folder / f"{suite}-pass-{number}").rmdir()
        (self.folder / f"{suite}-held").touch()

    def release(self) -> None:
        for held in self.folder.glob("*-held"):
            held.unlink()

    def break_benchmark(self) -> None:
        """The last unit of the suite `benchmark` fails from now on."""
        (self.folder / "broken").touch()

    def ended(self, suite: str) -> list[str]:
        """The units that have come to their end, sorted; one that was run twice is here twice."""
        file = self.folder / f"{suite}-ended"
        return sorted(file.read_text().split()) if file.exists() else []

    def running(self) -> list[str]:
        """Command lines of the units that run at this moment."""
        shown = subprocess.run(["ps", "-ww", "-eo", "args"], capture_output=True, text=True, check=True).stdout
        return [line for line in shown.splitlines() if line.startswith("sh -c") and str(self.folder) in line]


def names(suite: str) -> list[str]:
    return [f"{suite}-{number}" for number in range(UNITS)]


def gated_work(folder: Path) -> Work:
    """Write the catalog; its profile `embedded` runs all of the suites on this machine's two slots."""
    small_catalog(folder, {})
    file = folder / "catalog" / "catalog.yaml"
    document = yaml.safe_load(file.read_text())
    document["suites"] = {suite: _suite(folder, suite) for suite in SUITES}
    document["pools"]["local"]["sandbox"] = "none"  # the units meet us outside
    document["profiles"] = {
        "embedded": {
            "matrix": [{"environment": "here", "suite": suite} for suite in SUITES],
            "pools": ["local"],
            "lease_target_seconds": 1,
        }
    }
    file.write_text(yaml.safe_dump(document))
    return Work(folder)


def _suite(folder: Path, suite: str) -> dict[str, object]:
    commands = {}
    held = f"[ -e {folder}/{suite}-held ]"
    passes = " || ".join(f"mkdir {folder}/{suite}-pass-{number} 2>/dev/null" for number in range(PASSES))
    for name in names(suite):
        waiting = f"! {held} || {passes} || while {held}; do sleep 0.1; done"
        failing = f"[ ! -e {folder}/broken ] && " if name == "benchmark-3" else ""
        commands[name] = ["sh", "-c", f"{waiting}; {failing}echo {name} >> {folder}/{suite}-ended"]
    return {"kind": "command", "commands": commands, "memory_gib": 0.5}
