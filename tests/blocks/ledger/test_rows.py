"""From a part to rows: which row stands for a test, and what a hostile part cannot do to a segment."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blocks.errors import TrustError
from blocks.lease import BAD, OUTCOMES, Part
from blocks.ledger.results import attempt_id
from blocks.ledger.rows import AttemptFacts, Origin, Rows, read_part
from blocks.ledger.tables import METRIC_SCHEMA, RESULT_SCHEMA, metric_table, result_table
from blocks.store import Store


def attempt(ordinal: int, mode: str, *results: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {
        "ordinal": ordinal,
        "mode": mode,
        "started": 1_790_000_000.5,
        "results": list(results),
        "metrics": [],
        **fields,
    }


def result(name: str, outcome: str = "passed", **fields: Any) -> dict[str, Any]:
    return {"file": "f", "cls": "C", "name": name, "outcome": outcome, "seconds": 0.5, **fields}


def part_of(*attempts: dict[str, Any]) -> Part:
    return {
        "protocol": 1,
        "lease": "l-1",
        "part": 1,
        "records": [{"unit": "u-1", "seq": 1, "attempts": list(attempts)}],
    }  # type: ignore[typeddict-item]


def rows_of(*attempts: dict[str, Any]) -> list[dict[str, Any]]:
    facts = {("u-1", a["ordinal"]): AttemptFacts("suite", "unit one", 3, True, "") for a in attempts}
    rows = Rows()
    rows.add(part_of(*attempts), Origin("r-1", "cpu", "l-1", 1, "sha256:b", "m-1", 0, "pool", "vendor", facts))
    found: list[dict[str, Any]] = result_table(rows).to_pylist()
    return found


def standing(*attempts: dict[str, Any]) -> dict[str, tuple[str, str]]:
    return {row["name"]: (row["mode"], row["outcome"]) for row in rows_of(*attempts) if row["final"]}


def test_a_row_carries_what_its_attempt_and_its_origin_say():
    (row,) = rows_of(attempt(2, "alone", result("x", "failed", message="boom")))
    assert row["attempt"] == attempt_id("l-1", "u-1", 2)
    assert (row["run"], row["environment"], row["suite"], row["unit"], row["unit_name"]) == (
        "r-1", "cpu", "suite", "u-1", "unit one",
    )  # fmt: skip
    assert (row["machine"], row["pool"], row["vendor"], row["bundle"]) == ("m-1", "pool", "vendor", "sha256:b")
    assert (row["test"], row["message"], row["seconds"]) == ("f::C.x", "boom", 0.5)
    assert row["started"].isoformat() == "2026-09-21T14:13:20.500000+00:00"


def test_a_try_alone_stands_for_its_test_and_company_for_the_others():
    company = attempt(1, "company", result("x", "failed"), result("y", "passed"))
    assert standing(company, attempt(2, "alone", result("x", "passed"))) == {
        "x": ("alone", "passed"),
        "y": ("company", "passed"),
    }


def test_the_last_try_alone_stands():
    company = attempt(1, "company", result("x", "crashed"))
    alone = [attempt(2, "alone", result("x", "failed")), attempt(3, "alone", result("x", "passed"))]
    assert standing(company, *alone) == {"x": ("alone", "passed")}


def test_of_two_results_in_company_the_worse_stands():
    assert standing(attempt(1, "company", result("x", "failed"), result("x", "passed"))) == {"x": ("company", "failed")}
    assert standing(attempt(1, "company", result("x", "passed"), result("x", "failed"))) == {"x": ("company", "failed")}


OUTCOME = st.sampled_from(OUTCOMES)


@given(st.lists(st.tuples(st.booleans(), st.lists(st.tuples(st.sampled_from("xyz"), OUTCOME), max_size=4)), max_size=5))
@settings(max_examples=60, deadline=None)
def test_exactly_one_row_stands_for_each_test(tries: list[tuple[bool, list[tuple[str, str]]]]):
    attempts = [
        attempt(n, "alone" if alone else "company", *(result(*some) for some in results))
        for n, (alone, results) in enumerate(tries, 1)
    ]
    rows = rows_of(*attempts)
    assert sorted(row["name"] for row in rows if row["final"]) == sorted({row["name"] for row in rows})
    for row in rows:
        if row["final"]:
            alone = [other for other in rows if other["name"] == row["name"] and other["mode"] == "alone"]
            company = [other for other in rows if other["name"] == row["name"] and other["mode"] == "company"]
            assert row["mode"] == ("alone" if alone else "company")
            if not alone:
                assert (row["outcome"] in BAD) == any(other["outcome"] in BAD for other in company)


@pytest.mark.parametrize("seconds", [None, -1.0, float("nan"), float("inf"), "soon"])
def test_a_duration_that_cannot_be_is_unknown(seconds: object):
    (row,) = rows_of(attempt(1, "company", result("x", seconds=seconds)))
    assert row["seconds"] is None


def test_a_word_that_is_no_outcome_looks_bad():
    (row,) = rows_of(attempt(1, "company", result("x", "splendid")))
    assert row["outcome"] == "error"


def test_what_has_no_utf8_form_is_kept_as_far_as_it_has():
    (row,) = rows_of(attempt(1, "company", result("x\ud800", "failed", message="\udfff!")))
    assert (row["name"], row["message"]) == ("x?", "?!")


def test_a_broken_clock_leaves_the_time_unknown():
    for started in (-5.0, 1e15):
        (row,) = rows_of(attempt(1, "company", result("x"), started=started))
        assert row["started"] is None


def test_an_attempt_that_no_record_knows_is_kept_and_does_not_count():
    rows = Rows()
    rows.add(part_of(attempt(1, "company", result("x"))), Origin("r", "cpu", "l-1", 1, "b", "m", 0, "p", "v"))
    (row,) = result_table(rows).to_pylist()
    assert (row["counted"], row["reason"]) == (False, "no attempt on record")


def test_a_bundle_without_results_gives_empty_tables_of_the_same_shape():
    rows = Rows()
    rows.add(part_of(attempt(1, "company")), Origin("r", "cpu", "l-1", 1, "b", "m", 0, "p", "v"))
    assert result_table(rows).schema == RESULT_SCHEMA
    assert metric_table(rows).schema == METRIC_SCHEMA
    assert (rows.results, rows.metrics) == (0, 0)


METRIC = {"model": "m", "mode": "eager", "name": "seconds", "value": 1.5, "unit": "s", "samples": [1, 2]}
MISSHAPEN = [
    [{"ordinal": 1}],
    [attempt(1, "company", {"file": "f"})],
    [attempt(1, "company", result("x")), attempt(2, "company", result("y"), started="now")],
    [attempt(1, "company", result("x"), metrics=[{**METRIC, "value": "fast"}])],
    [attempt(1, "company", result("x"), metrics=[METRIC, {**METRIC, "samples": ["a"]}])],
    [attempt(1, "company", None)],
    [attempt(2**40, "company", result("x"))],
]


@pytest.mark.parametrize("attempts", MISSHAPEN)
def test_a_part_that_is_no_part_is_refused_whole_and_spoils_nothing(attempts: list[dict[str, Any]]):
    origin = Origin("r", "cpu", "l-1", 1, "sha256:bad", "m", 0, "p", "v")
    good = part_of(attempt(1, "company", result("good"), metrics=[METRIC]))
    rows = Rows()
    rows.add(good, origin)
    with pytest.raises(TrustError, match="sha256:bad"):
        rows.add(part_of(*attempts), origin)
    rows.add(good, origin)
    assert result_table(rows).column("name").to_pylist() == ["good", "good"]
    assert metric_table(rows).column("samples").to_pylist() == [[1.0, 2.0], [1.0, 2.0]]
    assert (rows.results, rows.metrics) == (2, 2)


BROKEN = [
    gzip.compress(b"[" * 100_000),
    gzip.compress(b"{}"),
    gzip.compress(b'{"payload": "W10"}'),
    gzip.compress(b"x" * 1000)[:-500],
    b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03" + b"\xff" * 40,  # no deflate stream
    b"",
]


@pytest.mark.parametrize("content", BROKEN, ids=range(len(BROKEN)))
def test_a_bundle_that_cannot_be_read_is_told_as_one_that_cannot_be_trusted(content: bytes, tmp_path: Path):
    store = Store(tmp_path)
    digest = store.put_bytes(content)
    with pytest.raises(TrustError, match=digest):
        read_part(store, digest)
