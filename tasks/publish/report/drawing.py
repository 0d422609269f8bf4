"""Where things stand in the pictures: lanes, time axis, stacked bars and intervals, as numbers for SVG and CSS.

Lanes are drawn 1,000 wide and stretched by the browser, so nothing here knows about pixels, and no text is inside.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from blocks.lease import OUTCOMES
from tasks.publish.report.story import BenchmarkTable, Figure, Lane, Timeline
from tasks.publish.report.words import is_ratio

WIDTH = 1000.0
_LEAST = 1.2
"""Width below which a bar could not be seen, in thousandths of the lane."""

# Height says what colour says: what went wrong is taller than what went well, a try alone is a low bar.
_TALL, _PLAIN, _LOW = (1.0, 22.0), (5.0, 14.0), (14.0, 9.0)
_STEPS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400)
LOUD = frozenset({"failed", "error", "crashed", "timed_out", "xpassed"})


@dataclass(frozen=True)
class Box:
    """A rectangle in a lane."""

    x: float
    y: float
    width: float
    height: float
    outcome: str
    alone: bool
    title: str


@dataclass(frozen=True)
class Tick:
    """A mark of the time axis, `percent` from its start."""

    percent: float
    label: str


@dataclass(frozen=True)
class Part:
    """A piece of a stacked bar."""

    outcome: str
    count: int
    percent: float


@dataclass(frozen=True)
class Whisker:
    """An interval on an axis: low, value and high in percent of it, and where 1 (no difference) stands."""

    low: float
    value: float
    high: float
    one: float
    better: bool
    certain: bool


def boxes(timeline: Timeline, lane: Lane) -> list[Box]:
    """The bars of a lane, quiet ones first, so that loud ones are never hidden beneath them."""
    scale = WIDTH / max(timeline.end - timeline.start, 1e-9)
    drawn = []
    for span in lane.spans:
        x = min(max((span.start - timeline.start) * scale, 0.0), WIDTH - _LEAST)
        width = min(max((span.end - span.start) * scale, _LEAST), WIDTH - x)
        y, height = _LOW if span.alone else _TALL if span.outcome in LOUD else _PLAIN
        drawn.append(Box(x, y, width, height, span.outcome, span.alone, span.title))
    return sorted(drawn, key=lambda box: (box.outcome in LOUD, box.alone))


def lease_boxes(timeline: Timeline, lane: Lane) -> list[tuple[float, float]]:
    """(x, width) of each lease of a lane."""
    scale = WIDTH / max(timeline.end - timeline.start, 1e-9)
    found = []
    for start, end in lane.leases:
        x = min(max((start - timeline.start) * scale, 0.0), WIDTH)
        found.append((x, max(min((end - timeline.start) * scale, WIDTH) - x, 0.3)))
    return found


def ticks(seconds: float, at_most: int = 8) -> list[Tick]:
    """Marks at round distances from the start."""
    if seconds <= 0:
        return []
    step = next((step for step in _STEPS if seconds / step <= at_most), 86400.0 * max(1, round(seconds / 86400 / 8)))
    marks = int(seconds / step + 1e-9)
    return (
        [Tick(100 * mark * step / seconds, _clock(mark * step, step)) for mark in range(marks + 1)] if seconds else []
    )


def _clock(seconds: float, step: float) -> str:
    if step < 1:
        return f"{seconds:.1f} s"
    if seconds < 60 or (step < 60 and seconds < 600):
        minutes, rest = divmod(round(seconds), 60)
        return f"{minutes}:{rest:02d}" if minutes else f"{rest} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}:{rest:02d}" if step < 60 else f"{minutes} min"
    return f"{minutes // 60}:{minutes % 60:02d} h"


def stacked(outcomes: Mapping[str, int]) -> list[Part]:
    """The pieces of a bar over outcomes, in the order in which we always list them; empty ones are left out."""
    total = sum(outcomes.values())
    known = [(outcome, outcomes.get(outcome, 0)) for outcome in OUTCOMES]
    other = sum(outcomes.values()) - sum(number for _, number in known)
    pieces = [*known, ("unknown", other)]
    return [Part(outcome, number, 100 * number / total) for outcome, number in pieces if number]


def whiskers(table: BenchmarkTable, column: tuple[str, str]) -> dict[str, Whisker]:
    """Model -> interval, for a column of ratios; all models share one axis, which always shows 1."""
    figures = {model: figures[column] for model, figures in table.rows if column in figures}
    if not figures or not all(is_ratio(figure.unit) for figure in figures.values()):
        return {}
    low, high = _range(figures.values())

    def place(value: float) -> float:
        return round(100 * (value - low) / (high - low), 2)

    drawn = {}
    for model, figure in figures.items():
        least, most = _ends(figure)
        drawn[model] = Whisker(
            place(least),
            place(figure.value),
            place(most),
            place(1.0),
            figure.value >= 1,
            _measured(figure) and (least > 1 or most < 1),
        )
    return drawn


def axis_labels(table: BenchmarkTable, column: tuple[str, str]) -> tuple[float, float]:
    """The ends of the axis that `whiskers` uses."""
    return _range([figures[column] for _, figures in table.rows if column in figures])


def _range(figures: Iterable[Figure]) -> tuple[float, float]:
    ends: Sequence[float] = [end for figure in figures for end in _ends(figure)] + [1.0]
    low, high = min(ends), max(ends)
    margin = max((high - low) * 0.06, 0.02)
    return max(low - margin, 0.0), high + margin


def _measured(figure: Figure) -> bool:
    """Whether the figure has an interval: without one nothing is certain."""
    return figure.low is not None and figure.high is not None


def _ends(figure: Figure) -> tuple[float, float]:
    low = figure.value if figure.low is None else min(figure.low, figure.value)
    return low, figure.value if figure.high is None else max(figure.high, figure.value)
