"""What would keep commonfleet from working here. Each check gives one finding and mends nothing."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from blocks.errors import CommonfleetError
from blocks.home import open_home
from blocks.store import free_bytes
from tasks.run.runner.sandbox import probe

PACKAGES = ("blocks", "tasks", "flows", "deployments")
NIGHTLY_BYTES = 6 << 30
"""An embedded nightly keeps about 1 GB and unpacks as much again; this leaves room for a few of them."""


@dataclass(frozen=True)
class Finding:
    """`good`, worth a `note`, or `bad`: something will not work. `do` says how to mend it."""

    name: str
    level: Literal["good", "note", "bad"]
    what: str
    do: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


Found = TypeVar("Found", Finding, list[Finding])


def findings() -> list[Finding]:
    """All checks."""
    checks: tuple[Callable[[], Finding], ...] = (
        shadowed, compiler, headers, cmake, sandbox, state, disk, catalog, processors, torch_here,
    )  # fmt: skip
    of_ledger = guarded(ledger)
    return [*map(guarded, checks), *(of_ledger if isinstance(of_ledger, list) else [of_ledger])]


def guarded(check: Callable[[], Found]) -> Found | Finding:
    """What the check finds. One that cannot be made is a finding itself, and the others are made all the same."""
    try:
        return check()
    except Exception as error:  # noqa: BLE001 - whatever is broken here, telling it is what this is for
        name = check.__name__.partition("_")[0]
        if isinstance(error, OSError) and error.filename:
            return Finding(
                name, "bad", f"{error.filename} cannot be looked at: {error.strerror}.",
                "Let this account read and write it, or set COMMONFLEET_HOME to a folder of its own.",
            )  # fmt: skip
        return Finding(
            name, "bad", f"The check of {name} failed: {type(error).__name__}: {error}",
            "Install commonfleet anew, into an environment of its own.",
        )  # fmt: skip


def shadowed() -> Finding:
    """Our four packages have common names: another distribution may have put its own in front."""
    ours = Path(__file__).resolve().parent.parent
    strangers = []
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        origin = Path(spec.origin).resolve() if spec and spec.origin else None
        if origin is None or origin.parent.parent != ours:
            strangers.append(f"{name} comes from {origin or 'nowhere'}")
    if strangers:
        return Finding(
            "packages", "bad", f"Another package shadows ours: {'; '.join(strangers)}.",
            "Install commonfleet into an environment of its own, and do not start it from a folder of that name.",
        )  # fmt: skip
    return Finding("packages", "good", f"The packages {', '.join(PACKAGES)} are ours.")


def compiler() -> Finding:
    found = shutil.which(os.environ.get("CXX", "c++")) or shutil.which("g++")
    if not found:
        return Finding("compiler", "bad", "There is no C++ compiler.", "Debian and Ubuntu: apt-get install g++.")
    said = subprocess.run([found, "--version"], capture_output=True, text=True, check=False).stdout
    return Finding("compiler", "good", f"C++ compiler: {said.splitlines()[0] if said else found}.")


def headers() -> Finding:
    header = Path(sysconfig.get_paths()["include"]) / "Python.h"
    if not header.exists():
        return Finding(
            "headers", "bad", f"Python's headers are missing ({header}): Inductor compiles against them.",
            f"Debian and Ubuntu: apt-get install python{sys.version_info.major}.{sys.version_info.minor}-dev.",
        )  # fmt: skip
    return Finding("headers", "good", "Python's headers are there.")


def cmake() -> Finding:
    found = shutil.which("cmake")
    if not found:
        return Finding("cmake", "bad", "There is no CMake.", "Debian and Ubuntu: apt-get install cmake.")
    return Finding("cmake", "good", f"CMake: {found}.")


def sandbox() -> Finding:
    """Whether units can be run in the allow-list sandbox, by the trial that the runner itself makes."""
    found = probe()
    if found.kind == "bubblewrap":
        return Finding("sandbox", "good", f"bubblewrap {found.version} works: units run in the allow-list sandbox.")
    missing = "not installed" in found.why
    return Finding(
        "sandbox", "note", f"Units run unsandboxed, and each attempt says so: {found.why}.",
        "Debian and Ubuntu: apt-get install bubblewrap." if missing
        else "Allow unprivileged user namespaces (sysctl kernel.unprivileged_userns_clone=1), or run as root.",
    )  # fmt: skip


def state() -> Finding:
    try:
        home = open_home()
    except CommonfleetError as error:
        return Finding("state", "bad", error.what, error.do)
    return Finding("state", "good", f"State is kept in {home.root}.")


def disk() -> Finding:
    root = Path(os.environ.get("COMMONFLEET_HOME") or Path.home())
    while not root.exists():
        root = root.parent
    free = free_bytes(root)
    if free < NIGHTLY_BYTES:
        return Finding(
            "disk", "note", f"Only {free / 1e9:.1f} GB are free where the state is kept; a nightly wants about 6 GB.",
            "Free some space, or set COMMONFLEET_HOME to a larger disk.",
        )  # fmt: skip
    return Finding("disk", "good", f"{free / 1e9:.0f} GB are free.")


def catalog() -> Finding:
    """The catalog reads, and no quarantine has quietly run out."""
    from blocks.catalog.load import default_root, read_catalog

    try:
        read = read_catalog(default_root())
    except CommonfleetError as error:
        return Finding("catalog", "bad", error.what, error.do)
    if read.warnings:
        return Finding("catalog", "note", " ".join(read.warnings), "Renew or remove these entries of the catalog.")
    return Finding("catalog", "good", f"The catalog in {read.root} is in order.")


def ledger() -> list[Finding]:
    """What the ledger's own checks find."""
    from deployments.ledger_checks import ledger_findings

    return ledger_findings()


def processors() -> Finding:
    count = len(os.sched_getaffinity(0))
    return Finding("processors", "good", f"{count} processors may be used ({platform.machine()}).")


def torch_here() -> Finding:
    """The orchestrator never imports torch; one that lies beside it may shadow the build's."""
    if importlib.util.find_spec("torch") is not None:
        return Finding(
            "torch", "note", "torch is installed beside commonfleet. It is not used: builds bring their own.",
            "Keep commonfleet in an environment of its own.",
        )  # fmt: skip
    return Finding("torch", "good", "torch is not in commonfleet's own environment: builds bring their own.")
