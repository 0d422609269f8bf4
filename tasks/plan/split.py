"""Cutting a long list of tests into contiguous pieces.

The cut depends on the tests and on what the catalog says about their duration, never on what was measured last night:
otherwise the same work would have another plan id every day.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence


def split_by_time(
    tests: Sequence[str], seconds_of: Callable[[str], float], *, target_seconds: float, start_seconds: float
) -> list[tuple[str, ...]]:
    """Pieces of about `target_seconds` each, a process's start included. Every test is in exactly one, in order.

    No piece takes longer than the target plus its longest test.
    """
    total = sum(seconds_of(test) for test in tests)
    if total + start_seconds <= target_seconds:
        return [tuple(tests)] if tests else []
    # Where starting takes longer than the target, pieces still get some time for tests.
    budget = max(target_seconds - start_seconds, target_seconds / 10)
    return split_evenly(tests, seconds_of, pieces=math.ceil(total / budget))


def split_evenly(tests: Sequence[str], seconds_of: Callable[[str], float], *, pieces: int) -> list[tuple[str, ...]]:
    """At most `pieces` pieces of about the same duration (fewer where single tests are longer than a share)."""
    weights = [max(seconds_of(test), 1e-9) for test in tests]
    total = sum(weights)
    cut: list[list[str]] = [[] for _ in range(max(1, pieces))]
    before = 0.0
    for test, weight in zip(tests, weights, strict=True):
        # A test belongs to the piece that its middle falls into.
        middle = (before + weight / 2) / total
        cut[min(int(middle * len(cut)), len(cut) - 1)].append(test)
        before += weight
    return [tuple(piece) for piece in cut if piece]
