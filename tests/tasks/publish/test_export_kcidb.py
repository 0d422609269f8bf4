"""A run as KCIDB v5.3: valid, complete, and the same each time."""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any

import pytest

from blocks.errors import CommonfleetError
from blocks.ledger import Ledger
from blocks.plan import Skip
from tasks.publish.export import exported
from tasks.publish.export.kcidb import PRIORITY, STATUS
from tests.ledger_rows import Case, MadeUnit, made_unit, make_run, supersede

METRIC: Any = {"model": "mlp", "mode": "inductor", "name": "peak", "value": 64.0, "unit": "bytes", "low": 60.0}
ORIGIN_ID = re.compile(r"[a-z0-9_]+:[^\0]*")
PATH = re.compile(r"([a-zA-Z0-9_-]+(\.[a-zA-Z0-9_-]+)*)?")


def units() -> list[MadeUnit]:
    return [
        made_unit("a", [Case(f"A.{outcome}", outcome) for outcome in STATUS], silent=["A.silent"]),  # type: ignore[arg-type]
        made_unit("b", [Case("B.again", "failed", alone="passed", message="x\0y" + "m" * 40_000)]),
        made_unit("p", [Case("TestX.test_a[1.5-é]")], kind="pytest", suite="python", environment="gpu"),
        made_unit("c", [Case("C.x")], terminal="lost", reason="poison", delivered=False),
        made_unit("d", [Case("D.x"), Case("D.y")], terminal="not_run", reason="cancelled", delivered=False),
        made_unit("s", [Case("S.x")], terminal="skipped", reason="disabled", delivered=False),
        made_unit("o", [Case("O.x")], terminal=None, delivered=False),
        made_unit("m", kind="benchmark", suite="bench", metrics=(METRIC,)),
        made_unit("w", [Case("W.bad", "failed", message="boom")]),
    ]


def document(ledger: Ledger, origin: str = "commonfleet") -> dict[str, Any]:
    return json.loads("".join(exported("kcidb", ledger, "r-1", origin=origin)))  # type: ignore[no-any-return]


@pytest.fixture
def export(ledger: Ledger) -> dict[str, Any]:
    make_run(ledger, units(), run="r-1", left_out=[Skip("libtorch", "cpu", "protoc", "no gtest")])
    return document(ledger)


def values(body: Any) -> list[Any]:
    if isinstance(body, dict):
        return [inner for value in body.values() for inner in values(value)]
    return [inner for value in body for inner in values(value)] if isinstance(body, list) else [body]


def test_every_planned_test_is_there_with_its_status(export: dict[str, Any]) -> None:
    status = {test["comment"]: test["status"] for test in export["tests"]}
    assert {name.split(".")[-1]: status.pop(name) for name in list(status) if name.startswith("a::A.")} == STATUS
    assert status == {
        "A.silent": "MISS", "b::B.again": "PASS", "p.py::TestX.test_a[1.5-é]": "PASS", "C.x": "MISS", "D.x": "MISS",
        "D.y": "MISS", "S.x": "SKIP", "o": "MISS", "mlp::inductor::peak": "DONE", "w::W.bad": "FAIL",
        "protoc": "SKIP",
    }  # fmt: skip
    assert set(status.values()) <= set(PRIORITY)


def test_ids_are_the_origins_unique_and_refer_to_what_is_there(export: dict[str, Any]) -> None:
    checkouts = {one["id"] for one in export["checkouts"]}
    builds = {one["id"] for one in export["builds"]}
    assert {one["checkout_id"] for one in export["builds"]} <= checkouts
    assert {one["build_id"] for one in export["tests"]} <= builds
    objects = [*export["checkouts"], *export["builds"], *export["tests"]]
    assert all(one["origin"] == "commonfleet" and ORIGIN_ID.fullmatch(one["id"]) for one in objects)
    assert max(Counter(one["id"] for one in export["tests"]).values()) == 1


def test_texts_fit_and_nothing_is_null(export: dict[str, Any]) -> None:
    assert None not in values(export)
    assert not any("\0" in value for value in values(export) if isinstance(value, str))
    excerpts = [test["log_excerpt"] for test in export["tests"] if "log_excerpt" in test]
    assert "boom" in excerpts
    assert max(map(len, excerpts)) <= 16_384
    assert all(PATH.fullmatch(test["path"]) for test in export["tests"])


def test_a_figure_has_its_number(export: dict[str, Any]) -> None:
    (figure,) = [test for test in export["tests"] if test["status"] == "DONE"]
    assert figure["number"] == {"value": 64.0, "unit": "bytes", "prefix": "binary"}


def test_the_most_serious_status_of_several_units_stands(ledger: Ledger) -> None:
    same = [made_unit("x", [Case("X.t")]), made_unit("x", [Case("X.t", "crashed")], silent=["X.other"])]
    make_run(ledger, same, run="r-1")
    assert Counter(test["status"] for test in document(ledger)["tests"]) == {"ERROR": 1, "MISS": 1}


def test_a_unit_that_was_lost_and_came_after_all_is_told_once(ledger: Ledger) -> None:
    unit = made_unit("a", [Case("A.x")], terminal="lost", reason="poison")
    make_run(ledger, [unit], run="r-1")
    supersede(ledger, "r-1", unit.id, "ran", "arrived after lost")
    assert [test["status"] for test in document(ledger)["tests"]] == ["PASS"]


def test_an_origin_that_kcidb_would_refuse_is_refused(ledger: Ledger) -> None:
    make_run(ledger, [made_unit("a", [Case("A.x")])], run="r-1")
    assert document(ledger, "pytorch_ci")["tests"][0]["id"].startswith("pytorch_ci:")
    with pytest.raises(CommonfleetError, match="origin"):
        document(ledger, "PyTorch CI")


def test_kcidbs_own_schema_accepts_it(export: dict[str, Any]) -> None:
    kcidb_io = pytest.importorskip("kcidb_io", reason="kcidb-io (GPL) is not installed; it is only a check")
    kcidb_io.schema.V5_3.validate(export)
    export["tests"][0]["status"] = "MAYBE"
    with pytest.raises(Exception, match="MAYBE"):
        kcidb_io.schema.V5_3.validate(export)
