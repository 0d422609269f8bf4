"""The runtime that a build needs: read off its wheels' names, and compared with what a host has. Pure."""

from __future__ import annotations

import platform
import re
import sys
import sysconfig
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from blocks.build import Runtime

# PEP 600: the legacy names and the glibc that each stands for.
LEGACY = {"manylinux1": (2, 5), "manylinux2010": (2, 12), "manylinux2014": (2, 17)}
_LINUX = re.compile(r"(?:(manylinux|musllinux)_(\d+)_(\d+)|(manylinux1|manylinux2010|manylinux2014)|linux)_(\w+)")
_GLIBC = re.compile(rb"GLIBC_(\d+)\.(\d+)")


def python_tag() -> str:
    """This interpreter's tag, such as `cp311` (`cp313t` where it is free-threaded)."""
    threaded = "t" if sysconfig.get_config_var("Py_GIL_DISABLED") else ""
    return f"cp{sys.version_info.major}{sys.version_info.minor}{threaded}"


def runtime_of(
    wheels: Iterable[str], *, python: str, toolchain: Sequence[str] = (), glibc: tuple[int, int] | None = None
) -> Runtime:
    """What a host needs for these wheel file names.

    A wheel with several platform tags runs where any of them holds, so its lowest counts; among the wheels the
    highest counts. `glibc` is what anything that was compiled here asks for beside that.
    """
    arch, libc = "", ""
    needed = [glibc] if glibc else []
    musl: list[tuple[int, int]] = []
    for filename in wheels:
        matches = [_LINUX.fullmatch(tag) for tag in filename.removesuffix(".whl").rsplit("-", 1)[-1].split(".")]
        tags = [match for match in matches if match]
        versions = [_version(match) for match in tags]
        arch = next((str(match[5]) for match in tags), arch)
        glibcs = [version for kind, version in versions if kind == "glibc"]
        musls = [version for kind, version in versions if kind == "musl"]
        if glibcs:
            needed.append(min(glibcs))
        elif musls:
            musl.append(min(musls))
    if needed:
        libc = "glibc {}.{}".format(*max(needed))
    elif musl:
        libc = "musl {}.{}".format(*max(musl))
    return Runtime(arch=arch, python=python, libc=libc, toolchain=tuple(toolchain))


def _version(match: re.Match[str]) -> tuple[str, tuple[int, int]]:
    if match[4]:
        return "glibc", LEGACY[match[4]]
    if match[1]:
        return ("glibc" if match[1] == "manylinux" else "musl"), (int(match[2]), int(match[3]))
    return "", (0, 0)


def glibc_needed(binaries: Iterable[bytes]) -> tuple[int, int] | None:
    """The newest glibc that compiled files (their contents) name in their symbol versions; None when they name none."""
    found = {(int(a), int(b)) for binary in binaries for a, b in _GLIBC.findall(binary)}
    return max(found, default=None)


def missing_on(runtime: Runtime, host: Mapping[str, Any]) -> list[str]:
    """Why a host cannot use a build, in words; empty when it can.

    `host` is the `runtime` of a machine's hello: `arch`, `libc` ("glibc 2.36"), `python` (tag -> path), `toolchain`.
    """
    missing = []
    if runtime.arch and host.get("arch") != runtime.arch:
        missing.append(f"it is {host.get('arch') or 'of unknown architecture'}; the build is for {runtime.arch}")
    if runtime.python and runtime.python not in host.get("python", {}):
        has = ", ".join(sorted(host.get("python", {}))) or "none"
        missing.append(f"it has no Python {runtime.python} (it has: {has})")
    if runtime.libc and not _libc_suffices(runtime.libc, str(host.get("libc", ""))):
        missing.append(f"it has {host.get('libc') or 'an unknown libc'}; the build needs {runtime.libc} or newer")
    absent = [program for program in runtime.toolchain if program not in host.get("toolchain", ())]
    if absent:
        missing.append(f"it lacks {', '.join(absent)}")
    return missing


def _libc_suffices(needed: str, has: str) -> bool:
    kind, _, lowest = needed.partition(" ")
    own, _, version = has.partition(" ")
    return kind == own and _numbers(version) >= _numbers(lowest)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:2])


def this_arch() -> str:
    """This machine's architecture, as `uname -m` says it."""
    return platform.machine()
