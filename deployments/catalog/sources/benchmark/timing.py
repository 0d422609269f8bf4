"""Two ways of doing one thing, timed in pairs: when to start counting, when to stop, and what the figures are worth.

The two sides alternate within each pair, in an order drawn anew for each, so that whatever slows the machine for longer
than a pair slows both, and falls out of the ratio. Only the standard library is used and nothing here knows torch:
`left` and `right` are functions that do one sample and return its seconds.

Intervals are order statistics of the median: they assume that samples are alike and independent, and nothing about
their distribution (timings have a long right tail, which a normal approximation would believe in).
"""

from __future__ import annotations

import gc
import math
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95
TARGET_WIDTH = 0.03
"""Measuring ends when the interval of the ratio is narrower than this share of the ratio."""
MINIMUM_PAIRS = 16
GROWTH = 1.25
"""The interval is looked at when the pairs have grown by this factor since the last look, not after each pair: a rule
that may stop at every sample stops where chance makes the interval narrow."""
WARM_WINDOW = 7
WARM_TOLERANCE = 0.05
WARM_SHARE = 0.25
WARM_PAIRS = 100
"""At most this share of the budget, and this many pairs, go into finding the end of the warm-up."""


@dataclass(frozen=True)
class Estimate:
    """A median with its interval; no interval (None) from fewer than 6 samples, which cannot give 95 %."""

    value: float
    low: float | None
    high: float | None

    @property
    def width(self) -> float:
        """Width of the interval as a share of the value; infinite without an interval."""
        if self.low is None or self.high is None or self.value <= 0:
            return math.inf
        return (self.high - self.low) / self.value


def estimate(samples: Sequence[float], confidence: float = CONFIDENCE) -> Estimate:
    """The median and its interval: the k-th smallest to the k-th largest sample.

    The median lies below the k-th smallest only if fewer than k of n samples fell under it: Binomial(n, 1/2) < k.
    k is the largest for which both tails together stay within 1 - `confidence`.
    """
    ordered, n = sorted(samples), len(samples)
    tail, k = 0.0, 0
    while k < n // 2:
        tail += math.comb(n, k) / 2**n
        if 2 * tail > 1 - confidence:
            break
        k += 1
    value = statistics.median(ordered)
    return Estimate(value, ordered[k - 1], ordered[n - k]) if k else Estimate(value, None, None)


def warm_after(samples: Sequence[float], window: int = WARM_WINDOW, tolerance: float = WARM_TOLERANCE) -> int | None:
    """How many leading samples are warm-up: those before the first two neighbouring windows whose medians agree.

    None while there are no such windows. `tolerance` is a share of the later median.
    """
    for start in range(len(samples) - 2 * window + 1):
        earlier = statistics.median(samples[start : start + window])
        later = statistics.median(samples[start + window : start + 2 * window])
        if abs(earlier - later) <= tolerance * later:
            return start
    return None


@dataclass(frozen=True)
class Pairs:
    """What was measured: seconds of each side, pair by pair, without the warm-up.

    `reason` says why it ended: `narrow` (the interval is narrow enough) or `budget`. `warm` is False where the
    warm-up was cut off by its cap before the medians agreed.
    """

    left: tuple[float, ...]
    right: tuple[float, ...]
    dropped: int
    warm: bool
    reason: str

    @property
    def ratio(self) -> Estimate:
        """How many times the right side is faster: the median of left / right over the pairs."""
        return estimate(self.ratios)

    @property
    def ratios(self) -> list[float]:
        return [left / right for left, right in zip(self.left, self.right, strict=True)]


def measure(
    left: Callable[[], float],
    right: Callable[[], float],
    *,
    budget_seconds: float,
    seed: int,
    clock: Callable[[], float] = time.perf_counter,
) -> Pairs:
    """Times both sides in pairs until the ratio is known well enough or the budget is spent; at least one pair.

    Python's garbage collector stands still meanwhile: it would hit one side of a pair at random.
    """
    order = random.Random(seed)
    begun = clock()
    gc.collect()
    collecting = gc.isenabled()
    gc.disable()
    try:
        seen: list[tuple[float, float]] = []
        while (first := _warm_pairs(seen)) is None and len(seen) < WARM_PAIRS:
            if clock() - begun >= WARM_SHARE * budget_seconds:
                break
            seen.append(_pair(left, right, order))
        counted = seen[first:] if first is not None else []
        reason, look = "budget", MINIMUM_PAIRS
        while not counted or clock() - begun < budget_seconds:
            if len(counted) >= look:
                if estimate([a / b for a, b in counted]).width < TARGET_WIDTH:
                    reason = "narrow"
                    break
                look = math.ceil(len(counted) * GROWTH)
            counted.append(_pair(left, right, order))
    finally:
        if collecting:
            gc.enable()
    dropped = first if first is not None else len(seen)
    return Pairs(tuple(a for a, _ in counted), tuple(b for _, b in counted), dropped, first is not None, reason)


def _pair(left: Callable[[], float], right: Callable[[], float], order: random.Random) -> tuple[float, float]:
    if order.random() < 0.5:
        a = left()
        return a, right()
    b = right()
    return left(), b


def _warm_pairs(pairs: Sequence[tuple[float, float]]) -> int | None:
    """Both sides must be warm; the later one decides."""
    sides = [warm_after([pair[side] for pair in pairs]) for side in (0, 1)]
    return None if None in sides else max(side for side in sides if side is not None)


def thinned(samples: Sequence[float], most: int = 200) -> list[float]:
    """At most `most` of the samples, evenly spaced in time, so that a drift stays visible."""
    if len(samples) <= most:
        return list(samples)
    return [samples[i * len(samples) // most] for i in range(most)]
