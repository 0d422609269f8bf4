"""Which of a file's tests a cell of the matrix means: filters first, then the tier's sample."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

from blocks.catalog.match import names
from blocks.catalog.models import Cell


@dataclass(frozen=True)
class Selection:
    """The tests to run, in their order, and how many fell away for which reason."""

    tests: tuple[str, ...]
    omitted: tuple[str, ...]


def select(tests: Sequence[str], cell: Cell, file: str, sample_by: str | None = None) -> Selection:
    """The tests of `file` that `cell` means. The same names always give the same choice, on every machine."""
    listed = list(dict.fromkeys(tests))
    wanted = [test for test in listed if _wanted(cell, file, test)]
    key = re.compile(sample_by) if sample_by else None
    chosen = [test for test in wanted if cell.tier.sample >= 1 or position(_key(key, test)) < cell.tier.sample]
    omitted = []
    if len(wanted) < len(listed):
        omitted.append(f"{len(listed) - len(wanted)} of {len(listed)} tests are excluded by the matrix")
    if len(chosen) < len(wanted):
        share = f"{cell.tier.sample:.2%}".replace(".00%", "%").replace("%", " %")
        omitted.append(f"{len(wanted) - len(chosen)} of {len(wanted)} tests are outside the tier's sample of {share}")
    return Selection(tuple(chosen), tuple(omitted))


def position(key: str) -> float:
    """Where `key` lies in [0, 1), by its hash: uniform, and the same for ever."""
    return int.from_bytes(hashlib.sha256(key.encode("utf-8", "replace")).digest()[:8], "big") / 2**64


def _wanted(cell: Cell, file: str, test: str) -> bool:
    included = not cell.include or any(names(pattern, file, test) for pattern in cell.include)
    return included and not any(names(pattern, file, test) for pattern in cell.exclude)


def _key(pattern: re.Pattern[str] | None, test: str) -> str:
    found = pattern.search(test) if pattern else None
    return str(found[1]) if found and found[1] is not None else test
