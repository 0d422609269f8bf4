"""Recorded JSON (fingerprints, evidence, plan documents) as the flat facts that people read. Pure."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from tasks.publish.report.story import BuildFacts, Reason
from tasks.publish.report.words import plural, size

DEPTH = 3
FACTS = 80
NAMES = 40
"""How many names are listed for one reason."""
REASONS = 50
"""How many reasons are listed; what is beyond them is summed up."""


def parsed(text: str | None) -> dict[str, Any]:
    """A recorded JSON object; empty where there is none."""
    value = json.loads(text) if text else {}
    return value if isinstance(value, dict) else {"value": value}


def flat(body: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """(key, value) pairs of a nested object, in its own order; sizes in bytes made readable."""
    return tuple(pair for pair, _ in zip(_pairs(body, "", 0), range(FACTS), strict=False))


def _pairs(body: Mapping[str, Any], prefix: str, depth: int) -> Iterator[tuple[str, str]]:
    for key, value in body.items():
        label = f"{prefix}{key}"
        if isinstance(value, Mapping) and depth < DEPTH:
            yield from _pairs(value, f"{label} ", depth + 1)
        elif label.endswith("_bytes") and isinstance(value, int | float) and not isinstance(value, bool):
            yield label.removesuffix("_bytes"), size(value)
        elif value not in (None, "", [], {}):
            yield label, plain(value)


def plain(value: Any) -> str:
    """A JSON value in words."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(plain(one) for one in value[:60]) + (f" and {len(value) - 60} more" if len(value) > 60 else "")
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {plain(one)}" for key, one in value.items())
    return str(value)


def headline(fingerprint: Mapping[str, Any]) -> str:
    """A machine in one line: what it computes with, its cores, its memory."""
    inner = fingerprint.get("fingerprint")
    known = dict(_leaves(inner if isinstance(inner, Mapping) else fingerprint))
    parts = [str(known[key]) for key in ("cpu_model", "model", "cpu") if isinstance(known.get(key), str)][:1]
    cores = next((known[key] for key in ("cores", "cpus") if isinstance(known.get(key), int)), None)
    memory = next((known[key] for key in ("memory_bytes", "memory") if isinstance(known.get(key), int)), None)
    parts += [plural(cores, "core")] if cores else []
    parts += [size(memory)] if memory else []
    return ", ".join(parts) or "machine without a fingerprint"


def _leaves(body: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in body.items():
        if isinstance(value, Mapping):
            # A nested fact is known by its own name and by its path: cpu.model as cpu_model.
            for inner, one in _leaves(value):
                yield f"{key}_{inner}", one
        else:
            yield key, value


def left_out(document: Mapping[str, Any]) -> tuple[Reason, ...]:
    """What the plan leaves out, by reason, most first."""
    groups: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    for skip in document.get("left_out", ()):
        groups[skip["reason"], skip["suite"], skip["environment"]].append(skip["name"])
    return shortened(
        Reason("left_out", suite, environment, reason, len(names), tuple(sorted(names)[:NAMES]))
        for (reason, suite, environment), names in sorted(groups.items(), key=lambda item: (-len(item[1]), item[0]))
    )


def shortened(reasons: Iterable[Reason]) -> tuple[Reason, ...]:
    """The first `REASONS` of them; the rest as one line, so that the numbers still add up."""
    known = tuple(reasons)
    shown, rest = known[:REASONS], known[REASONS:]
    if not rest:
        return shown
    count = sum(reason.count for reason in rest)
    what = rest[0].what if len({reason.what for reason in rest}) == 1 else "others"
    return (*shown, Reason(what, "several", "several", f"{len(rest):,} other reasons", count, ()))


def build_facts(document: Mapping[str, Any], versions: Mapping[str, str]) -> tuple[BuildFacts, ...]:
    """The builds of a plan's environments. `versions` maps a build's digest to what it says it is."""
    groups: dict[tuple[str, str], list[str]] = defaultdict(list)
    for environment in document.get("environments", ()):
        groups[environment["build"], environment["build_digest"]].append(environment["name"])
    return tuple(
        BuildFacts(name, digest, versions.get(digest, ""), tuple(names)) for (name, digest), names in groups.items()
    )
