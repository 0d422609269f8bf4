"""What is refused of a part, and that whatever is admitted can be cut."""

from __future__ import annotations

import copy
import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blocks.errors import ProtocolError, TrustError
from blocks.ledger.query import open_query
from blocks.signing import BUNDLE_TYPE, load_or_make_key, sign
from tasks.collect.admit import admit
from tasks.collect.checks import part_from
from tasks.collect.segments import cut_segments
from tests.ledger_rows import open_made
from tests.tasks.collect.conftest import Night, finished, open_night, unit

METRIC = {
    "model": "m", "mode": "eager", "name": "seconds", "value": 1.5, "unit": "s", "low": 1, "high": 2, "samples": [1, 2],
}  # fmt: skip
PROCESS = {"argv": ["./unit", "-k"], "exit": -1, "signal": 9, "seconds": 0.5, "env": {"OMP_NUM_THREADS": "1"}}


def valid(lease: str = "l-1", unit_id: str = "u-1", part: int = 1) -> dict[str, Any]:
    """A part with one of everything."""
    record = finished(unit_id, "failed", "passed", attempts=2)
    first, second = record["attempts"]
    first.update(metrics=[METRIC], processes=[PROCESS], output="\x1b[1mred", peak_memory_bytes=1 << 33, note="slow")
    first["results"][0]["message"] = "boom ü"
    second.update(mode="alone", test="t0", results=second["results"][:1])
    return copy.deepcopy({"protocol": 1, "lease": lease, "part": part, "records": [record]})


def text_of(part: Any) -> bytes:
    """As a hostile machine would write it: NaN, infinities and lone surrogates included."""
    return json.dumps(part).encode()


def put(value: Any, *way: Any) -> Callable[[dict[str, Any]], None]:
    """A change that puts `value` at the place that `way` leads to."""

    def change(part: dict[str, Any]) -> None:
        place: Any = part
        for step in way[:-1]:
            place = place[step]
        place[way[-1]] = value

    return change


def drop(*way: Any) -> Callable[[dict[str, Any]], None]:
    def change(part: dict[str, Any]) -> None:
        place: Any = part
        for step in way[:-1]:
            place = place[step]
        del place[way[-1]]

    return change


UNIT = ("records", 0)
FIRST = (*UNIT, "attempts", 0)
SECOND = (*UNIT, "attempts", 1)
RESULT = (*FIRST, "results", 0)
A_METRIC = (*FIRST, "metrics", 0)
A_PROCESS = (*FIRST, "processes", 0)
HUGE, NAN, INFINITE = 10**400, float("nan"), float("inf")

REFUSED: dict[str, Callable[[dict[str, Any]], None]] = {
    "protocol": put(99, "protocol"), "no lease": drop("lease"), "lease {}": put({}, "lease"),
    "part 0": put(0, "part"), "part True": put(True, "part"), "part 2**70": put(2**70, "part"),
    "records []": put([], "records"),
    "records text": put("all fine", "records"), "record None": put(None, *UNIT), "unit []": put([], *UNIT, "unit"),
    "no seq": drop(*UNIT, "seq"), "attempts []": put([], *UNIT, "attempts"), "attempts {}": put({}, *UNIT, "attempts"),
    "attempt {}": put({}, *FIRST), "ordinal True": put(True, *FIRST, "ordinal"), "ordinal 2": put(2, *FIRST, "ordinal"),
    "mode splendid": put("splendid", *FIRST, "mode"), "mode {}": put({}, *FIRST, "mode"),
    "alone first": put("alone", *FIRST, "mode"), "alone without a test": put(None, *SECOND, "test"),
    "seconds NaN": put(NAN, *FIRST, "seconds"), "seconds inf": put(INFINITE, *FIRST, "seconds"),
    "seconds -1": put(-1, *FIRST, "seconds"), "seconds 10**400": put(HUGE, *FIRST, "seconds"),
    "started NaN": put(NAN, *FIRST, "started"), "started text": put("now", *FIRST, "started"),
    "started -1": put(-1.0, *FIRST, "started"), "started in the year 30000": put(1e12, *FIRST, "started"),
    "outcome": put("splendid", *FIRST, "outcome"), "outcome []": put([], *FIRST, "outcome"),
    "isolation surrogate": put("a\ud800", *FIRST, "isolation"), "isolation NUL": put("a\0", *FIRST, "isolation"),
    "no peak": drop(*FIRST, "peak_memory_bytes"), "peak 2**63": put(2**63, *FIRST, "peak_memory_bytes"),
    "no metrics": drop(*FIRST, "metrics"), "metric text": put("fast", *A_METRIC),
    "results {}": put({}, *FIRST, "results"),
    "note 20 MB": put("x" * 20_000_000, *FIRST, "note"), "output number": put(1, *FIRST, "output"),
    "survivors text": put("none", *FIRST, "survivors"), "output_bytes -1": put(-1, *FIRST, "output_bytes"),
    "test NUL": put("t\0", *SECOND, "test"), "test surrogate": put("\udfff", *SECOND, "test"),
    "no file": drop(*RESULT, "file"), "result None": put(None, *RESULT), "name empty": put("", *RESULT, "name"),
    "name long": put("x" * 4_001, *RESULT, "name"), "name 50 MB": put("x" * 50_000_000, *RESULT, "name"),
    "name NUL": put("a\0b", *RESULT, "name"), "message []": put([], *RESULT, "message"),
    "result outcome": put("fine", *RESULT, "outcome"), "result seconds": put("soon", *RESULT, "seconds"),
    "value text": put("abc", *A_METRIC, "value"), "value 10**400": put(HUGE, *A_METRIC, "value"),
    "value True": put(True, *A_METRIC, "value"), "value NaN": put(NAN, *A_METRIC, "value"),
    "samples text": put(["a"], *A_METRIC, "samples"), "samples NaN": put([NAN], *A_METRIC, "samples"),
    "low text": put("a", *A_METRIC, "low"), "metric without unit": drop(*A_METRIC, "unit"),
    "processes NaN": put(NAN, *A_PROCESS, "seconds"), "processes text": put("x", *FIRST, "processes"),
    "env list": put([], *A_PROCESS, "env"), "env number": put({"A": 1}, *A_PROCESS, "env"),
    "env NUL": put({"A\0": "1"}, *A_PROCESS, "env"), "env value long": put({"A": "x" * 4_001}, *A_PROCESS, "env"),
    "env large": put({str(n): "" for n in range(1_001)}, *A_PROCESS, "env"),
    "argv numbers": put([1], *A_PROCESS, "argv"), "exit text": put("1", *A_PROCESS, "exit"),
    "NaN where nobody looks": put(NAN, "aside"),
}  # fmt: skip


@pytest.mark.parametrize("change", REFUSED.values(), ids=list(REFUSED))
def test_what_is_malformed_is_refused(change: Callable[[dict[str, Any]], None]) -> None:
    part = valid()
    change(part)
    with pytest.raises(ProtocolError) as caught:
        part_from(text_of(part))
    assert len(str(caught.value)) < 1000


DEEP = b"[" * 100_000 + b"]" * 100_000
NO_PART = [b"", b"[]", b"null", b"\xff", b'{"a": "\xed\xa0\x80"}', DEEP, b'{"part": 1e999}', b"1" * 5000]


@pytest.mark.parametrize("payload", NO_PART, ids=range(len(NO_PART)))
def test_what_is_no_part_at_all_is_refused(payload: bytes) -> None:
    with pytest.raises(ProtocolError):
        part_from(payload)


def test_a_refusal_names_the_place_and_what_belongs_there() -> None:
    part = valid()
    put("abc", *A_METRIC, "value")(part)
    with pytest.raises(ProtocolError, match=r"attempts\[0\]\.metrics\[0\]\.value must be a finite number"):
        part_from(text_of(part))


def test_a_sound_part_is_taken_as_it_is_and_an_unknown_key_is_left_alone() -> None:
    part = {**valid(), "from_a_later_version": [1]}
    assert part_from(text_of(part)) == part


# -- admission and cutting never disagree --------------------------------------------------------------------------

VALUES: st.SearchStrategy[Any] = st.sampled_from(
    [None, True, 0, -1, 1, 2, 2**31, 2**63, HUGE, 0.5, NAN, INFINITE, 1e308, 1e300, 253402300799, "", "abc", "passed",
     "alone", "a\0", "\ud800", "x" * 3_999, [], {}, [[]], [1], [None], ["a"], {"a": NAN}, METRIC, PROCESS]
)  # fmt: skip


def places(value: Any, way: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if way:
        yield way
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, entry in entries:
        yield from places(entry, (*way, key))


PLACES = [way for way in places(valid()) if way not in [("lease",), (*UNIT, "unit")]]
CHANGES = st.lists(st.tuples(st.sampled_from(PLACES), st.none() | st.tuples(VALUES)), min_size=1, max_size=2)


@pytest.fixture(scope="module")
def night() -> Iterator[Night]:
    with tempfile.TemporaryDirectory() as folder:
        ledger = open_made(Path(folder))
        planned = [unit(n, estimate_seconds=100.0) for n in range(400)]
        yield open_night(ledger, load_or_make_key(Path(folder) / "key"), planned)
        ledger.close()


@given(CHANGES)
@settings(max_examples=100, deadline=None)
def test_a_part_is_refused_whole_or_it_can_be_cut(night: Night, changes: list[tuple[tuple[Any, ...], Any]]) -> None:
    grant = night.granted()
    part = valid(grant["lease"], grant["units"][0]["id"])
    for way, value in changes:
        try:
            (drop(*way) if value is None else put(value[0], *way))(part)
        except (LookupError, TypeError):
            continue  # the change before took that place away
    before = len(night.attempts())
    try:
        admit(night.ledger, sign(night.key, BUNDLE_TYPE, text_of(part)), night.key.public, seat=night.seat)
    except (ProtocolError, TrustError):
        assert len(night.attempts()) == before
    finally:
        night.give_back(grant["lease"])
    cut_segments(night.ledger, everything=True)
    asked = "SELECT lease FROM attempts"  # a figure that no view can show would spoil this for everybody
    with open_query(night.ledger, asked) as reader:
        reader.rows("SELECT * FROM attempts")
