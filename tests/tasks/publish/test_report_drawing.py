"""The pictures: every bar inside its lane, what went wrong on top and taller, intervals on one axis."""

from __future__ import annotations

import pytest

from tasks.publish.report import drawing
from tasks.publish.report.story import BenchmarkTable, Figure, Lane, Span, Timeline


def lane(*spans: Span) -> tuple[Timeline, Lane]:
    one = Lane("m", 0, ((100.0, 150.0),), spans, 10.0, len(spans))
    return Timeline(100.0, 200.0, (one,), 10.0), one


def span(start: float, end: float, outcome: str = "passed", alone: bool = False) -> Span:
    return Span(start, end, outcome, alone, 1, "title")


def test_a_bar_stands_where_its_attempt_was() -> None:
    (box,) = drawing.boxes(*lane(span(150.0, 175.0)))
    assert (box.x, box.width) == (500.0, 250.0)


def test_no_bar_leaves_its_lane_or_is_too_thin_to_be_seen() -> None:
    for box in drawing.boxes(*lane(span(50.0, 500.0), span(200.0, 200.0), span(120.0, 120.0001))):
        assert box.x >= 0
        assert box.width >= 1
        assert box.x + box.width <= drawing.WIDTH


def test_what_went_wrong_is_drawn_last_and_taller_and_a_try_alone_is_low() -> None:
    crashed, alone, passed = span(110, 120, "crashed"), span(120, 121, alone=True), span(121, 140)
    drawn = drawing.boxes(*lane(crashed, alone, passed))
    assert [box.outcome for box in drawn][-1] == "crashed"
    heights = {(box.outcome, box.alone): box.height for box in drawn}
    assert heights["crashed", False] > heights["passed", False] > heights["passed", True]


@pytest.mark.parametrize("seconds", [0.5, 7, 59, 352, 4000, 40_000, 1_000_000])
def test_the_axis_has_a_few_marks_from_its_beginning_on(seconds: float) -> None:
    marks = drawing.ticks(seconds)
    assert 2 <= len(marks) <= 13
    assert marks[0].percent == 0
    assert all(mark.percent <= 100 for mark in marks)
    assert len({mark.label for mark in marks}) == len(marks)


def test_a_stacked_bar_counts_everything_even_outcomes_that_it_does_not_know() -> None:
    parts = drawing.stacked({"passed": 6, "failed": 2, "exploded": 2})
    assert [(part.outcome, part.count) for part in parts] == [("passed", 6), ("failed", 2), ("unknown", 2)]
    assert sum(part.percent for part in parts) == pytest.approx(100)


COLUMN = ("speedup", "")


def table(**figures: Figure) -> BenchmarkTable:
    return BenchmarkTable("b", "cpu", (COLUMN,), tuple((model, {COLUMN: one}) for model, one in figures.items()))


def test_intervals_of_ratios_share_an_axis_that_shows_no_difference() -> None:
    drawn = drawing.whiskers(
        table(fast=Figure(1.5, "x", 1.4, 1.6), slow=Figure(0.8, "x", 0.7, 0.9), same=Figure(1.0, "x", 0.9, 1.1)), COLUMN
    )
    assert {whisker.one for whisker in drawn.values()} == {drawn["fast"].one}
    assert drawn["slow"].high < drawn["slow"].one < drawn["fast"].low
    assert (drawn["fast"].certain, drawn["slow"].certain, drawn["same"].certain) == (True, True, False)
    assert (drawn["fast"].better, drawn["slow"].better) == (True, False)
    assert all(0 <= end <= 100 for whisker in drawn.values() for end in (whisker.low, whisker.value, whisker.high))


def test_a_ratio_without_an_interval_is_not_called_certain() -> None:
    assert not drawing.whiskers(table(m=Figure(1.5, "x")), COLUMN)["m"].certain


def test_seconds_get_no_axis_of_ratios() -> None:
    assert drawing.whiskers(table(m=Figure(0.1, "s", 0.09, 0.11)), COLUMN) == {}
