"""Rows have the ledger's ids and columns, whichever way they came."""

from __future__ import annotations

import io
from pathlib import Path

import pyarrow.parquet as pq
from hypothesis import given, settings
from hypothesis import strategies as st

from blocks.canonical import digest_bytes
from blocks.ledger import results as ledger_results
from blocks.ledger.tables import METRIC_SCHEMA, RESULT_SCHEMA
from tasks.collect.readers import Limits, read, text
from tasks.collect.readers.rows import Rows
from tasks.collect.readers.stamp import ROW_GROUP, Stamp
from tasks.collect.segments import ROW_GROUP as SEGMENTS_ROW_GROUP

NAMES = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)


@given(st.lists(st.tuples(NAMES, NAMES, NAMES, NAMES), max_size=8))
@settings(max_examples=200, deadline=None)
def test_a_row_has_the_ledgers_own_test_id(tests: list[tuple[str, str, str, str]]) -> None:
    rows = Rows()
    for suite, file, cls, name in tests:
        rows.case(suite, file, cls, name, "passed")
    for row in rows.case_table().to_pylist():
        assert row["test_id"] == ledger_results.test_id(row["suite"], row["file"], row["cls"], row["name"])


@given(st.lists(st.sampled_from("abc"), max_size=12))
@settings(max_examples=100, deadline=None)
def test_the_nth_row_of_a_test_says_so(names: list[str]) -> None:
    rows = Rows()
    for name in names:
        rows.case("s", "f", "c", name, "passed")
    assert rows.case_table()["repeat"].to_pylist() == [names[:at].count(name) for at, name in enumerate(names)]


@given(st.text())
@settings(max_examples=300, deadline=None)
def test_any_name_becomes_one_that_can_be_kept(name: str) -> None:
    kept = text.name(name)
    assert 0 < len(kept) <= text.NAME_CAP
    assert kept.encode().decode() == kept
    assert "\0" not in kept


def test_two_long_names_stay_two() -> None:
    first, second = (text.name("x" * 5_000 + end) for end in "ab")
    assert first != second
    assert len(first) == len(second) == text.NAME_CAP


@given(st.one_of(st.text(max_size=30), st.floats().map(repr), st.integers().map(str)))
@settings(max_examples=500, deadline=None)
def test_a_time_is_unknown_or_within_seven_days(said: str) -> None:
    value = text.seconds(said)
    assert value is None or 0 <= value <= 7 * 86_400


def test_times_are_read_as_their_writers_mean_them() -> None:
    said = ["0.", ".5", "1e-3", "0.219s", "0s", "1,234.5", "1,234", "nan", "-1", "0x10", "٣", "1_0", "604801", ""]
    expected = [0.0, 0.5, 0.001, 0.219, 0.0, 1234.5, *[None] * 8]
    assert list(map(text.seconds, said)) == expected


def test_a_text_is_cut_as_a_segment_would_cut_it() -> None:
    assert text.TEXT_CAP == ledger_results.MESSAGE_CAP
    long = "head" + "x" * 50_000 + "tail"
    cut = text.cut(long)
    assert len(cut) == text.TEXT_CAP
    assert cut.startswith("head")
    assert cut.endswith("tail")
    assert ledger_results.cap_message(cut) == cut


def test_a_segment_has_the_columns_of_all_others_and_what_the_stamp_says(tmp_path: Path) -> None:
    (tmp_path / "a.xml").write_text(
        '<testsuite name="own"><testcase name="t" classname="C" time="1"/><testcase name="t" classname="C"><failure/>'
        '</testcase><testcase name="t" classname="C"/><testcase name="u" classname="C"/></testsuite>'
    )
    (tmp_path / "b.csv").write_text("dev,name,batch_size,speedup,abs_latency\ncpu,m,4,1.5,20.0\n")
    stamp = Stamp("r-1", "cpu", vendor="v", started=1_000_000)
    (batch,) = read([tmp_path], suite="unit", stamp=stamp, limits=Limits(seconds=60.0))
    results, metrics = (pq.read_table(io.BytesIO(batch.segments[kind])) for kind in ("results", "metrics"))
    assert results.schema.names == RESULT_SCHEMA.names
    assert metrics.schema.names == METRIC_SCHEMA.names
    rows = [row for row in results.to_pylist() if row["file"] == "" and row["cls"] == "C"]
    assert [(row["name"], row["outcome"]) for row in rows if row["final"]].count(("t", "failed")) == 1
    assert sorted(row["final"] for row in rows) == [False, False, True, True]
    assert {row["test"] for row in rows} == {"::C.t", "::C.u"}
    assert {(row["run"], row["environment"], row["suite"], row["vendor"]) for row in rows} == {
        ("r-1", "cpu", "unit", "v")
    }
    kept = {batch.readings[at].name: digest_bytes(bytes(one)) for at, one in batch.kept.items()}
    assert {(row["unit_name"], row["bundle"]) for row in results.to_pylist()} == set(kept.items())
    assert results["test_id"].to_pylist() == sorted(results["test_id"].to_pylist())
    (latency, speedup) = metrics.to_pylist()
    assert (latency["metric"], latency["value"], latency["measured_in"]) == ("abs_latency", 20.0, "ms")
    assert (speedup["model"], speedup["variant"], speedup["value"]) == ("m", "performance/cpu", 1.5)


def test_segments_are_cut_in_the_same_groups() -> None:
    assert ROW_GROUP == SEGMENTS_ROW_GROUP
