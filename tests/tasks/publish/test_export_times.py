"""Test times and benchmarks in PyTorch's formats."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from blocks.catalog.models import SuiteSpec
from blocks.errors import CommonfleetError
from blocks.ledger import Ledger
from tasks.plan.times import suite_times
from tasks.publish.export import exported
from tests.ledger_rows import BASE_TIME, Case, MadeUnit, made_unit, make_run

METRIC: Any = {
    "model": "mlp", "mode": "inductor", "name": "latency", "value": 1.5, "unit": "s", "low": 1.0, "high": 2.0,
    "samples": [1.0, 2.0],
}  # fmt: skip


def night(seconds: float, environment: str = "cpu") -> list[MadeUnit]:
    where = {"environment": environment}
    return [
        made_unit(
            "test_api", [Case("A.x", seconds=seconds), Case("A.y", "failed", alone="passed", seconds=1)], **where
        ),
        made_unit("inductor/test_x", [Case("test_a", seconds=2 * seconds)], kind="pytest", suite="python", **where),
        made_unit("mlp", [Case("mlp.correctness")], kind="benchmark", suite="bench", metrics=(METRIC,), **where),
    ]


def times(ledger: Ledger, run: str) -> Any:
    return json.loads("".join(exported("test-times", ledger, run)))


def test_a_file_has_the_mean_of_the_last_three_complete_runs_up_to_the_one_asked_for(ledger: Ledger) -> None:
    for number, seconds in enumerate((100.0, 1.0, 2.0, 3.0, 50.0)):
        make_run(ledger, night(seconds), run=f"r-{number}", created=BASE_TIME + number)
    make_run(ledger, night(1000.0), run="cancelled", created=BASE_TIME + 2.5, state="cancelled")
    assert times(ledger, "r-3")["cpu"] == {"default": {"cpp/test_api": 3.0, "inductor/test_x": 4.0}}


def test_default_is_the_mean_over_environments(ledger: Ledger) -> None:
    make_run(ledger, [*night(1.0), *night(3.0, "gpu")], run="r-1")
    assert times(ledger, "r-1")["default"] == {"default": {"cpp/test_api": 3.0, "inductor/test_x": 4.0}}


def test_the_planner_reads_them_back(ledger: Ledger, tmp_path: Path) -> None:
    make_run(ledger, [*night(1.0), *night(3.0, "gpu")], run="r-1")
    (tmp_path / "times.json").write_text("".join(exported("test-times", ledger, "latest")))
    suite = SuiteSpec(kind="gtest", times="times.json")
    read = suite_times(suite, tmp_path, job="gpu", config="default")
    assert (read.of_file("test_api"), read.of_file("inductor/test_x.py")) == (4.0, 6.0)
    assert suite_times(suite, tmp_path, job="new", config="other").of_file("test_api") == 3.0


def test_a_figure_is_a_record_of_the_benchmark_database(ledger: Ledger) -> None:
    make_run(ledger, night(1.0), run="r-1")
    make_run(ledger, night(1.0), run="r-2")
    (record,) = json.loads("".join(exported("benchmark-v3", ledger, "r-1")))
    assert record["benchmark"]["name"] == "bench"
    assert record["benchmark"]["extra_info"]["run"] == "r-1"
    assert record["model"] == {"name": "mlp", "backend": "inductor"}
    assert record["metric"] == {
        "name": "latency", "benchmark_values": [1.0, 2.0],
        "extra_info": {"value": "1.5", "low": "1.0", "high": "2.0", "unit": "s"},
    }  # fmt: skip
    assert record["runners"] == [{"name": "m-0", "type": "pool-0"}]
    assert "null" not in json.dumps(record)


def test_an_unknown_export_is_answered_with_those_there_are(ledger: Ledger) -> None:
    with pytest.raises(CommonfleetError, match="kcidb, test-times, benchmark-v3"):
        exported("hud", ledger, "latest")
    with pytest.raises(CommonfleetError, match="no run yet"):
        exported("kcidb", ledger, "latest")
