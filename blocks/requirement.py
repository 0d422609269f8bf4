"""What a unit needs of a machine, and why a machine does not do.

Nothing here names a cloud. An empty field asks for nothing.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from blocks.build import Runtime
from blocks.errors import HostError
from blocks.plan import Environment, Unit
from blocks.vendor import Level

GIB = 1 << 30
NO_RUNTIME = Runtime()


@dataclass(frozen=True)
class Requirement:
    """What is needed: the host's kind, the runtime, and how much of it."""

    arch: str = ""
    isa: frozenset[str] = frozenset()
    os: str = ""
    python: str = ""
    libc: str = ""
    toolchain: tuple[str, ...] = ()
    container_engine: bool = False
    accelerator: str = "cpu"
    devices: int = 0
    cpus: int = 1
    memory_bytes: int = 0
    exclusive: bool = False
    level: Level = Level.L1
    regions: frozenset[str] = frozenset()


@dataclass(frozen=True)
class MachineFacts:
    """What a machine has. `memory_bytes` None: not known, so it is not held against it."""

    arch: str = ""
    isa: frozenset[str] = frozenset()
    os: str = ""
    pythons: frozenset[str] = frozenset()
    libc: str = ""
    toolchain: frozenset[str] = frozenset()
    container_engine: bool = False
    devices: Mapping[str, int] = field(default_factory=dict)
    cpus: int = 1
    memory_bytes: int | None = None
    level: Level = Level.L1
    region: str = ""


def why_not(requirement: Requirement, machine: MachineFacts) -> list[str]:
    """Every reason why the machine cannot do it, as phrases for people; empty when it can."""
    needed, has = requirement, machine
    reasons: list[str] = []
    if needed.arch and needed.arch != has.arch:
        reasons.append(f"needs {needed.arch} and is {has.arch or 'of unknown architecture'}")
    if missing := sorted(needed.isa - has.isa):
        reasons.append(f"lacks the instructions {', '.join(missing)}")
    if needed.os and needed.os != has.os:
        reasons.append(f"needs {needed.os} and runs {has.os or 'an unknown system'}")
    if needed.python and needed.python not in has.pythons:
        reasons.append(f"has no Python for {needed.python} (it has {', '.join(sorted(has.pythons)) or 'none'})")
    if needed.libc and not libc_does(needed.libc, has.libc):
        reasons.append(f"needs {needed.libc} or newer and has {has.libc or 'an unknown libc'}")
    if tools := [tool for tool in needed.toolchain if tool not in has.toolchain]:
        reasons.append(f"lacks {', '.join(tools)}")
    if needed.container_engine and not has.container_engine:
        reasons.append("has no container engine")
    return reasons + _quantities(needed, has)


def _quantities(needed: Requirement, has: MachineFacts) -> list[str]:
    reasons = []
    devices = has.devices.get(needed.accelerator, 0)
    if needed.accelerator != "cpu" and devices < max(1, needed.devices):
        reasons.append(f"needs {max(1, needed.devices)} x {needed.accelerator} and has {devices or 'none'}")
    if needed.cpus > has.cpus:
        reasons.append(f"needs {needed.cpus} cores and has {has.cpus}")
    if has.memory_bytes is not None and needed.memory_bytes > has.memory_bytes:
        reasons.append(f"needs {needed.memory_bytes / GIB:.1f} GiB of memory and has {has.memory_bytes / GIB:.1f}")
    if needed.level > has.level:
        reasons.append(f"needs a vendor of level L{needed.level:d} and is of L{has.level:d}")
    if needed.regions and has.region not in needed.regions:
        reasons.append(f"may only run in {', '.join(sorted(needed.regions))} and is in {has.region or 'no region'}")
    return reasons


def libc_does(needed: str, has: str) -> bool:
    """Whether `has` (`glibc 2.36`) is the libc that is `needed` (`glibc 2.28`), in that version or a newer one.

    >>> libc_does("glibc 2.28", "glibc 2.36"), libc_does("glibc 2.28", "musl 1.2.4")
    (True, False)
    """
    needed_name, needed_version = _libc(needed)
    name, version = _libc(has)
    return name == needed_name and version >= needed_version


def _libc(text: str) -> tuple[str, tuple[int, ...]]:
    name, _, version = text.partition(" ")
    return name, tuple(int(part) for part in version.split(".") if part.isdecimal())


def requirement_of(unit: Unit, environment: Environment, runtime: Runtime = NO_RUNTIME) -> Requirement:
    """What a unit needs: its own amounts, its environment's kind, its build's runtime."""
    return Requirement(
        arch=runtime.arch,
        os=environment.os,
        python=runtime.python,
        libc=runtime.libc,
        toolchain=runtime.toolchain,
        accelerator=environment.accelerator,
        devices=unit.devices,
        cpus=unit.cpus,
        memory_bytes=unit.memory_bytes,
        exclusive=unit.exclusive,
    )


def facts_from_hello(hello: Mapping[str, Any], *, level: Level = Level.L4) -> MachineFacts:
    """The facts in a runner's answer to `hello`. Raises HostError for what no runner says."""
    try:
        return _facts(hello, level)
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise HostError(
            f"What a machine's runner says about its machine is malformed: {error!r}.",
            do="See what answers there as the runner, or take its pool out of the profile.",
        ) from error


def _facts(hello: Mapping[str, Any], level: Level) -> MachineFacts:
    runtime, fingerprint = hello.get("runtime", {}), hello.get("fingerprint", {})
    memory = fingerprint.get("memory_bytes")
    libc = runtime.get("libc", "")
    return MachineFacts(
        arch=runtime.get("arch", ""),
        isa=frozenset((fingerprint.get("cpu") or {}).get("isa") or ()),
        # The runner is POSIX, and what has no Linux libc there is macOS.
        os="linux" if libc.startswith(("glibc", "musl")) else "macos",
        pythons=frozenset(runtime.get("python", {})),
        libc=libc,
        toolchain=frozenset(runtime.get("toolchain", ())),
        devices={each["class"]: operator.index(each["count"]) for each in hello.get("accelerators", ())},
        cpus=int(hello.get("slots_hint") or 1),
        memory_bytes=int(memory) if isinstance(memory, int | float) else None,
        level=level,
    )


def facts_to_json(facts: MachineFacts) -> dict[str, Any]:
    """The facts as they are written down."""
    body = {name: getattr(facts, name) for name in MachineFacts.__dataclass_fields__}
    return {
        name: sorted(value) if isinstance(value, frozenset) else dict(value) if isinstance(value, Mapping) else value
        for name, value in body.items()
    }


def facts_from_json(body: Mapping[str, Any]) -> MachineFacts:
    """The facts that were written down."""
    values: dict[str, Any] = {
        name: frozenset(value) if isinstance(value, list) else value for name, value in body.items()
    }
    return MachineFacts(**{**values, "level": Level(body["level"])})


def slots_of(machine: MachineFacts, threads: int) -> int:
    """How many lanes of work a machine has: one for each device, or where it has none, for so many cores."""
    devices = sum(count for kind, count in machine.devices.items() if kind != "cpu")
    return devices or max(1, machine.cpus // threads)
