"""The kinds benchmark and command."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from blocks.catalog.models import Catalog
from blocks.plan import Environment
from tasks.collect.checks import part_from
from tasks.plan.make import make_plan
from tasks.plan.place import Unpacked
from tasks.publish.report.command import reproduce
from tasks.run.runner import spool
from tests.tasks.run.conftest import Wire, message, order_of, unit


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    folder = tmp_path / "sources"
    folder.mkdir()
    return folder


def command(number: str, script: str, **fields: Any) -> dict[str, Any]:
    return unit(number, "command", {"argv": ["/bin/sh", "-c", script]}, **fields)


def test_the_exit_code_of_a_command_is_its_outcome(wire: Wire) -> None:
    units = [
        command("u-pass", "echo fine"),
        command("u-skip", "exit 77"),
        command("u-fail", "echo why; exit 4"),
        command("u-crash", "kill -SEGV $$"),
        command("u-hang", "sleep 60", timeout_seconds=0.5),
        unit("u-none", "command", {"argv": ["/no/such/program"]}),
    ]
    attempts = {record["unit"]: record["attempts"] for record in wire.run(order_of(*units))}
    told = {number: tried[0]["outcome"] for number, tried in attempts.items()}
    none = told.pop("u-none")
    assert told == {
        "u-pass": "passed",
        "u-skip": "skipped",
        "u-fail": "failed",
        "u-crash": "crashed",
        "u-hang": "timed_out",
    }
    assert none in ("error", "failed")
    assert {number: len(tried) for number, tried in attempts.items() if number != "u-none"} == {
        "u-pass": 1,
        "u-skip": 1,
        "u-fail": 2,
        "u-crash": 2,
        "u-hang": 1,
    }
    assert "why" in message(attempts["u-fail"][0], "u-fail")
    assert attempts["u-fail"][1]["mode"] == "alone"


def test_a_commands_words_are_filled_in(wire: Wire, sources: Path, fake_build: Path) -> None:
    fake_build.mkdir()
    argv = ["/bin/sh", "-c", 'echo "$@"', "x", "{sources}/a", "{build}", "{python}", "{other}"]
    order = order_of(unit("u", "command", {"argv": argv}), sources=sources, build=fake_build)
    (record,) = wire.run(order)
    expected = f"{sources}/a {fake_build} {order['python']} {{other}}"
    assert record["attempts"][0]["output"].strip() == expected


SHARDED = Catalog.model_validate(
    {
        "builds": {"b": {"kind": "wheel", "requirements": []}},
        "environments": {"cpu": {"build": "b", "env": {"EVERYWHERE": "yes"}}},
        "suites": {
            "suite": {
                "kind": "command",
                "commands": {"run": ["/bin/sh", "-c", "echo {shard}: $SHARD_NUMBER of $NUM_TEST_SHARDS $EVERYWHERE"]},
                "env": {"SHARD_NUMBER": "{shard}", "NUM_TEST_SHARDS": "{shards}"},
            }
        },
        "pools": {"local": {"kind": "local"}},
        "profiles": {"all": {"matrix": [{"environment": "cpu", "suite": "suite", "shards": 3}], "pools": ["local"]}},
    }
)


async def test_a_command_cut_into_fixed_shards_is_told_which_one_it_is(wire: Wire, tmp_path: Path) -> None:
    async def nothing_to_list(request: dict[str, Any]) -> dict[str, Any]:
        raise AssertionError(request)

    on = Unpacked(Environment("cpu", "b", "sha256:" + "0" * 64), tmp_path, "/usr/bin/python3")
    plan = await make_plan(
        SHARDED, "all", environments={"cpu": on}, sources={}, discover=nothing_to_list, root=tmp_path
    )
    units = [unit(one.id, one.kind, dict(one.spec), name=one.name) for one in plan.units]
    suite = {**SHARDED.environments["cpu"].env, **SHARDED.suites["suite"].env}  # As an agent sends them: not filled in.
    records = wire.run(order_of(*units, env=suite))
    said = sorted(record["attempts"][0]["output"].strip() for record in records)
    assert said == ["1: 1 of 3 yes", "2: 2 of 3 yes", "3: 3 of 3 yes"]


SHOWS = ["/bin/sh", "-c", "env | sort | grep -v ^PWD= | grep -v ^_= | grep -v ^SHLVL="]


def test_the_variables_that_were_asked_for_are_on_record_and_reproduce_what_the_unit_saw(
    wire: Wire, fake_build: Path
) -> None:
    fake_build.mkdir()
    accelerator = {"class": "cuda", "devices": [1, 2], "env": {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}, "nodes": []}
    asked = {"ASKED": "it's $HOME; false", "HF_TOKEN": "t0p", "LONG": "x" * 5000, "BAD\udc80": "\udc80"}
    one = unit("u", "command", {"argv": SHOWS, "env": {"OWN": "1"}})
    order = order_of(one, build=fake_build, threads=3, env=asked, accelerator=accelerator)
    (record,) = wire.run(order)
    (process,) = record["attempts"][0]["processes"]
    threads = ("MKL", "NUMEXPR", "OMP", "OPENBLAS")
    assert process["env"] == {
        "ASKED": asked["ASKED"],
        "OWN": "1",
        "CUDA_VISIBLE_DEVICES": "1,2",
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        **{f"{name}_NUM_THREADS": "3" for name in threads},
        "TORCHINDUCTOR_COMPILE_THREADS": "3",
        "BAD?": "?",
    }
    assert part_from(spool.encode({"protocol": 1, "lease": "l", "part": 1, "records": [record]}))
    line = reproduce("command", one["spec"], "", process)
    printed = subprocess.run(["bash", "-c", line], env={}, capture_output=True, text=True, check=True).stdout
    seen = record["attempts"][0]["output"].splitlines()
    again = printed.splitlines()
    assert set(again) <= set(seen)
    # What the suite asked for may be anything, and a record of it from elsewhere is not repeated.
    assert {name.split("=")[0] for name in again} == set(process["env"]) - {"ASKED", "BAD?"}


BENCH = """
import argparse, json, sys
parser = argparse.ArgumentParser()
parser.add_argument("--model"); parser.add_argument("--out"); parser.add_argument("--how", default="good")
args = parser.parse_args()
with open(args.out, "a") as out:
    def tell(**body): print(json.dumps(body), file=out, flush=True)
    if args.how != "nothing":
        tell(model=args.model, mode="eager", name="latency", value=1.5, unit="ms",
             low=1.4, high=1.6, samples=[1.4, 1.6])
    if args.how == "checks":
        tell(result={"name": "correct", "outcome": "failed", "message": "differs"}); sys.exit(1)
    if args.how == "odd":
        tell(name="nan", value=float("nan")); print("not json", file=out); tell(result={"outcome": "wonderful"})
    if args.how == "dies":
        out.flush(); import os; os.abort()
"""


def bench(wire: Wire, sources: Path, how: str) -> dict[str, Any]:
    (sources / "bench.py").write_text(BENCH)
    one = unit("u", "benchmark", {"script": "bench.py", "model": "mlp", "args": ["--how", how]}, exclusive=True)
    (record,) = wire.run(order_of(one, sources=sources, retry_alone=0))
    return dict(record["attempts"][0])


def test_a_benchmarks_figures_arrive_with_their_intervals(wire: Wire, sources: Path) -> None:
    attempt = bench(wire, sources, "good")
    figure = {"model": "mlp", "mode": "eager", "name": "latency", "value": 1.5, "unit": "ms"}
    assert attempt["metrics"] == [{**figure, "low": 1.4, "high": 1.6, "samples": [1.4, 1.6]}]
    assert [(one["file"], one["name"], one["outcome"]) for one in attempt["results"]] == [("bench.py", "mlp", "passed")]


@pytest.mark.parametrize(
    ("how", "outcome", "metrics", "results"),
    [
        ("checks", "failed", 1, [("correct", "failed")]),
        ("nothing", "error", 0, [("mlp", "error")]),
        ("dies", "crashed", 1, [("mlp", "crashed")]),
        ("odd", "passed", 1, [("mlp", "passed")]),
    ],
)
def test_a_benchmark_that_goes_wrong_keeps_the_figures_it_had(
    wire: Wire, sources: Path, how: str, outcome: str, metrics: int, results: list[tuple[str, str]]
) -> None:
    attempt = bench(wire, sources, how)
    assert attempt["outcome"] == outcome
    assert len(attempt["metrics"]) == metrics
    assert [(one["name"], one["outcome"]) for one in attempt["results"]] == results
    if how == "odd":
        assert all(f"line {number} " in attempt["note"] for number in (2, 3, 4))
