"""Values as people read them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.publish.report import words


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (None, "–"), (0, "0 s"), (0.00034, "340 µs"), (0.0123, "12.3 ms"), (0.9999, "1.00 s"), (3.4, "3.40 s"),
        (24.04, "24.0 s"), (59.97, "1 min 00 s"), (72, "1 min 12 s"), (3599.6, "1 h 00 min"), (7500, "2 h 05 min"),
        (90000, "1 d 01 h"),
    ],
)  # fmt: skip
def test_a_duration_is_said_in_the_unit_that_people_would_use(seconds: float | None, said: str) -> None:
    assert words.duration(seconds) == said


@pytest.mark.parametrize(
    ("value", "unit", "said"),
    [
        (0.00082, "s", "820 µs"), (14.2, "ms", "14.2 ms"), (1.3371, "x", "1.34×"), (536870912, "bytes", "512 MiB"),
        (12, "count", "12"), (3.25, "GFLOP/s", "3.25 GFLOP/s"),
    ],
)  # fmt: skip
def test_a_figure_is_said_with_its_unit_of_measure(value: float, unit: str, said: str) -> None:
    assert words.measure(value, unit) == said


def test_an_interval_says_a_common_unit_of_measure_once() -> None:
    assert words.interval(0.000804, 0.000836, "s") == "804 – 836 µs"
    assert words.interval(0.0009, 0.0011, "s") == "900 µs – 1.1 ms"
    assert words.interval(0.93, 1.03, "x") == "0.93 – 1.03×"


def test_a_share_is_never_rounded_to_all_or_to_nothing() -> None:
    assert words.percent(99_999, 100_000) == "> 99.9 %"
    assert words.percent(1, 100_000) == "< 0.1 %"
    assert words.percent(5, 5) == "100 %"
    assert words.percent(0, 5) == "0 %"
    assert words.percent(1, 0) == "–"


def test_terminal_colours_are_left_out_and_control_characters_can_be_seen() -> None:
    assert words.shown("\x1b[31mred\x1b[0m \x1b]8;;http://x\x1b\\link") == "red link"
    assert words.shown("a\x00b\x07c\td\r\ne") == "a\u2400b\u2407c\td\ne"
    assert words.shown("safe\u202eexe.txt") == "safe\u27e8U+202E\u27e9exe.txt"


@given(st.text(st.characters(), max_size=300))
def test_whatever_a_test_prints_becomes_text_that_utf8_can_hold(text: str) -> None:
    shown = words.shown(text)
    shown.encode("utf-8")
    assert not {c for c in shown if ord(c) < 0x20 and c not in "\t\n"}


def test_a_message_of_a_hundred_megabytes_is_clipped_at_once_and_says_how_much_is_missing() -> None:
    clipped = words.clip("a" * 100_000_000 + "the end", 1000)
    assert len(clipped.head) + len(clipped.tail) == 1000
    assert clipped.dropped == 100_000_007 - 1000
    assert clipped.tail.endswith("the end")


def test_a_short_message_is_shown_whole() -> None:
    assert words.clip("boo", 1000) == words.Clip("boo")


def test_a_name_keeps_its_beginning_and_its_end_on_one_line() -> None:
    said = words.name("begin\n" + "x" * 5000 + "end")
    assert "\n" not in said
    assert said.startswith("begin")
    assert said.endswith("end")
    assert len(said) < 260
