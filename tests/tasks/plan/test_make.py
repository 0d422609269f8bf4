"""The plan: every test of every suite stands in it once, or is left out with a reason."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from blocks.errors import HostError, PlanError, ProtocolError
from blocks.lease import NAME_CHARACTERS
from blocks.plan import Plan, Unit
from tasks.collect.checks import part_from
from tasks.plan.discovery import stable_reason
from tasks.plan.make import make_plan
from tests.tasks.collect.conftest import finished
from tests.tasks.plan.conftest import BINARIES, OPERATORS, PYTEST_TESTS, PYTHON, Ground, Listings, answers, catalog


async def planned(ground: Ground, listings: Listings | None = None, *, more: Mapping[str, Any] | None = None) -> Plan:
    """The plan of the small catalog, changed by `more["catalog"]`."""
    more = dict(more or {})
    changed = catalog(**more.pop("catalog", {}))
    return await make_plan(changed, "all", discover=listings or Listings(answers()), **ground.arguments(), **more)


def of(plan: Plan, suite: str) -> list[Unit]:
    return sorted((unit for unit in plan.units if unit.suite == suite), key=lambda unit: unit.name)


async def test_every_test_that_was_listed_is_in_exactly_one_unit(ground: Ground) -> None:
    plan = await planned(ground)
    listed = [test for tests in BINARIES.values() for test in tests] + PYTEST_TESTS
    assert Counter(test for unit in plan.units for test in unit.tests) == Counter(listed)


async def test_long_files_are_cut_and_short_ones_stay_whole(ground: Ground) -> None:
    units = of(await planned(ground), "compiled")
    assert [unit.name for unit in units] == ["test_api [1/3]", "test_api [2/3]", "test_api [3/3]", "test_jit"]
    assert [test for unit in units[:3] for test in unit.tests] == BINARIES["bin/test_api"]
    assert all(unit.spec == {"binary": "bin/test_api"} for unit in units[:3])
    assert all(unit.estimate_seconds <= 10 for unit in units[:3])


async def test_fixed_shards_are_made_where_they_are_demanded(ground: Ground) -> None:
    cells = {"compiled": {"shards": 2}, "program": {"shards": 3}}
    change = {"commands": {"one": ["run", "--shard", "{shard}", "{shards}"]}, "env": {"SHARD": "{shard}"}}
    plan = await planned(ground, more={"catalog": {"cells": cells, "program": change}})
    assert [unit.name for unit in of(plan, "compiled")] == [
        "test_api [1/2]", "test_api [2/2]", "test_jit [1/2]", "test_jit [2/2]",
    ]  # fmt: skip
    assert [unit.spec["argv"][2:] for unit in of(plan, "program")] == [["1", "3"], ["2", "3"], ["3", "3"]]
    assert [unit.spec["env"]["SHARD"] for unit in of(plan, "program")] == ["1", "2", "3"]


async def test_benchmarks_are_a_unit_a_model_alone_on_the_machine_and_last(ground: Ground) -> None:
    plan = await planned(ground)
    assert [unit.spec for unit in of(plan, "speed")] == [
        {"script": "bench.py", "model": "lstm"},
        {"script": "bench.py", "model": "mlp"},
    ]
    assert [unit.suite for unit in plan.units[-2:]] == ["speed", "speed"]
    assert [unit.exclusive for unit in plan.units] == sorted(unit.exclusive for unit in plan.units)


async def test_models_that_the_catalog_does_not_name_are_asked_for(ground: Ground) -> None:
    listings = Listings({**answers(), "bench.py": {"tests": ["big", "small"]}})
    plan = await planned(ground, listings, more={"catalog": {"speed": {"models": []}}})
    assert [unit.name for unit in of(plan, "speed")] == ["big", "small"]


async def test_a_script_that_names_no_model_is_an_error_not_an_empty_suite(ground: Ground) -> None:
    listings = Listings({**answers(), "bench.py": {"tests": []}})
    with pytest.raises(PlanError, match="which models"):
        await planned(ground, listings, more={"catalog": {"speed": {"models": []}}})


async def test_commands_are_a_unit_each(ground: Ground) -> None:
    units = of(await planned(ground), "program")
    assert [(unit.name, unit.spec["argv"], unit.tests) for unit in units] == [
        ("one", ["{build}/x", "1"], ()),
        ("two", ["{build}/x", "2"], ()),
    ]


async def test_what_is_left_out_has_its_reason(ground: Ground) -> None:
    listings = Listings({**answers(), "bin/test_jit": {"tests": ["Jit.A"], "disabled": ["Jit.DISABLED_B"]}})
    plan = await planned(ground, listings)
    assert {(skip.name, skip.reason) for skip in plan.left_out} == {
        ("bin/model.ptl", "data"),
        ("empty_test", "lists no tests"),
        ("test_jit::Jit.DISABLED_B", "disabled in its source"),
    }


async def test_a_disabled_test_that_is_also_listed_does_not_run(ground: Ground) -> None:
    listings = Listings({**answers(), "bin/test_jit": {"tests": ["Jit.A", "Jit.B"], "disabled": ["Jit.B"]}})
    (unit,) = (unit for unit in (await planned(ground, listings)).units if unit.name == "test_jit")
    assert unit.tests == ("Jit.A",)


async def test_a_test_whose_name_no_record_could_hold_is_left_out_with_the_reason(ground: Ground) -> None:
    fits, long = "Jit." + "a" * 3996, "Jit." + "b" * 3997
    listings = Listings({**answers(), "bin/test_jit": {"tests": [fits, long, "Jit.B"]}})
    plan = await planned(ground, listings)
    (unit,) = (unit for unit in plan.units if unit.name == "test_jit")
    assert unit.tests == (fits, "Jit.B")
    (skip,) = (skip for skip in plan.left_out if "characters" in skip.reason)
    assert skip.reason == "its name has 4,001 characters, and a record holds at most 4,000"
    assert skip.name.startswith("test_jit::Jit.bbb")
    assert len(skip.name) < 500
    nothing_else = await planned(ground, Listings({**answers(), "bin/test_jit": {"tests": [long]}}))
    assert [unit.name for unit in nothing_else.units if unit.name == "test_jit"] == []
    assert [skip.reason for skip in nothing_else.left_out if skip.name.startswith("test_jit")] == [skip.reason]


def test_what_fits_into_a_plan_is_what_admission_takes() -> None:
    file, _, name = f"test_x.py::{'x' * (NAME_CHARACTERS - 11)}".partition("::")
    result = {"file": file, "cls": "", "name": name, "outcome": "passed", "seconds": 0.0}
    record = {**finished("u", "passed"), "attempts": [{**finished("u", "passed")["attempts"][0], "results": [result]}]}
    part = {"protocol": 1, "lease": "l", "part": 1, "records": [record]}
    assert part_from(json.dumps(part).encode())
    result["name"] = "x" * (NAME_CHARACTERS + 1)
    with pytest.raises(ProtocolError):
        part_from(json.dumps(part).encode())


async def test_a_binary_without_tests_is_left_out_however_it_is_said(ground: Ground) -> None:
    said = {"tests": [], "error": "lists no tests; it printed:\nRunning main()"}
    plan = await planned(ground, Listings({**answers(), "test/empty_test": said}))
    assert ("empty_test", "lists no tests") in {(skip.name, skip.reason) for skip in plan.left_out}


@pytest.mark.parametrize(
    "answer",
    [
        {"tests": [], "error": "line one\nSegmentation fault"},
        HostError("Segmentation fault"),
        {"tests": "Segmentation"},
    ],
)
async def test_a_file_that_cannot_be_listed_is_a_unit_with_the_reason_not_silence(
    ground: Ground, answer: Mapping[str, Any] | Exception
) -> None:
    plan = await planned(ground, Listings({**answers(), "bin/test_jit": answer}))
    (unit,) = (unit for unit in plan.units if unit.name == "test_jit")
    assert unit.kind == "gtest"
    assert unit.tests == ()
    assert "Segmentation fault" in unit.spec["unlisted"] or "no list of tests" in unit.spec["unlisted"]


async def test_a_machine_that_answers_nothing_is_an_error_not_a_plan(ground: Ground) -> None:
    dead = Listings(dict.fromkeys(answers(), HostError("the pipe is closed")))
    with pytest.raises(HostError, match="pipe"):
        await planned(ground, dead)


def test_a_reason_is_the_same_the_next_time() -> None:
    first, second = "at 0x7f11 in thread 4711: bad\n", "noise\nat 0x7fab in thread 13: bad"
    assert stable_reason(first) == stable_reason(second) == "at 0x... in thread ...: bad"


async def test_a_suite_that_matches_nothing_is_an_error(ground: Ground) -> None:
    with pytest.raises(PlanError, match=r"nothing in .* matches bni"):
        await planned(ground, more={"catalog": {"compiled": {"files": ["bni/*"]}}})


async def test_an_unknown_profile_and_a_plan_without_units_are_errors(ground: Ground) -> None:
    with pytest.raises(PlanError, match="Did you mean `all`"):
        await make_plan(catalog(), "al", discover=Listings({}), **ground.arguments())
    nothing = {name: {"include": ["no::such"]} for name in ("compiled", "python", "speed", "program")}
    with pytest.raises(PlanError, match="Nothing would run"):
        await planned(ground, more={"catalog": {"cells": nothing}})


async def test_filters_mean_names_labels_and_globs(ground: Ground) -> None:
    cells = {"compiled": {"include": ["test_api::Api.T00?", "Jit.*"], "exclude": ["Api.T001"]}}
    plan = await planned(ground, more={"catalog": {"cells": cells}})
    tests = [test for unit in of(plan, "compiled") for test in unit.tests]
    assert tests == [test for test in BINARIES["bin/test_api"][:10] if test != "Api.T001"] + ["Jit.A", "Jit.B"]
    assert ("test_api", "91 of 100 tests are excluded by the matrix") in {(s.name, s.reason) for s in plan.left_out}


async def test_a_tier_samples_whole_operators_and_always_the_same_ones(ground: Ground) -> None:
    more = {"catalog": {"cells": {"python": {"tier": {"sample": 0.1}}}}}
    first, second = await planned(ground, more=more), await planned(ground, more=more)
    tests = {test for unit in of(first, "python") for test in unit.tests}
    assert tests == {test for unit in of(second, "python") for test in unit.tests}
    chosen = {op for op in OPERATORS if f"{PYTHON}::TestOpsCPU::test_forward_{op}_cpu_float32" in tests}
    assert len(tests) == 2 * len(chosen)
    assert 15 <= len(chosen) <= 45
    (omitted,) = (skip for skip in first.left_out if skip.suite == "python")
    assert omitted.reason == f"{600 - len(tests)} of 600 tests are outside the tier's sample of 10 %"


async def test_a_larger_sample_holds_the_smaller_one(ground: Ground) -> None:
    async def sampled(share: float) -> set[str]:
        plan = await planned(ground, more={"catalog": {"cells": {"python": {"tier": {"sample": share}}}}})
        return {test for unit in of(plan, "python") for test in unit.tests}

    assert await sampled(0.05) < await sampled(0.2)


@dataclass(frozen=True)
class Random:
    """Estimates that know nothing and say it loudly."""

    seed: int

    def seconds(self, suite: str, environment: str, name: str, tests: int) -> float | None:
        return random.Random(f"{self.seed} {suite} {name}").uniform(0, 1000)


async def test_the_id_depends_on_neither_estimates_nor_order(ground: Ground) -> None:
    plans = [await planned(ground, more={"estimates": Random(seed)}) for seed in range(3)]
    assert len({plan.id for plan in plans}) == 1
    assert len({tuple(unit.name for unit in plan.units) for plan in plans}) == 3
    for plan in plans:
        shared = [unit.estimate_seconds for unit in plan.units if not unit.exclusive]
        assert shared == sorted(shared, reverse=True)
    shuffled = list(plans[0].units)
    random.Random(1).shuffle(shuffled)
    assert replace(plans[0], units=tuple(shuffled)).id == plans[0].id


async def test_the_id_depends_on_build_tests_sources_and_settings(ground: Ground) -> None:
    ids = {(await planned(ground)).id}
    ids.add((await planned(ground, Listings({**answers(), "bin/test_jit": {"tests": ["Jit.A"]}}))).id)
    ids.add((await planned(ground, more={"catalog": {"program": {"env": {"A": "1"}}}})).id)
    ids.add((await planned(ground, more={"catalog": {"compiled": {"memory_gib": 5}}})).id)
    other = replace(ground.environments["cpu"].environment, build_digest="sha256:" + "1" * 64)
    changed = {"cpu": replace(ground.environments["cpu"], environment=other)}
    ids.add((await planned(replace(ground, environments=changed))).id)
    touched = {**ground.sources, "python": replace(ground.sources["python"], digest="sha256:other")}
    ids.add((await planned(replace(ground, sources=touched))).id)
    assert len(ids) == 6


async def test_answers_are_remembered_and_failures_are_not(ground: Ground, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    first = Listings({**answers(), "bin/test_jit": {"error": "no libcuda", "tests": []}})
    await planned(ground, first, more={"cache": cache})
    assert len(first.asked) == 4
    second = Listings(answers())
    plan = await planned(ground, second, more={"cache": cache})
    assert [request["binary"] for request in second.asked] == ["bin/test_jit"]
    third = Listings({})
    assert (await planned(ground, third, more={"cache": cache})).id == plan.id
    assert third.asked == []


async def test_what_was_remembered_holds_only_for_the_same_build_files_and_arguments(
    ground: Ground, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    await planned(ground, more={"cache": cache})
    other = replace(ground.environments["cpu"].environment, build_digest="sha256:" + "1" * 64)
    rebuilt = Listings(answers())
    changed = replace(ground, environments={"cpu": replace(ground.environments["cpu"], environment=other)})
    await planned(changed, rebuilt, more={"cache": cache})
    assert len(rebuilt.asked) == 4
    edited = Listings(answers())
    touched = {**ground.sources, "python": replace(ground.sources["python"], digest="sha256:other")}
    await planned(replace(ground, sources=touched), edited, more={"cache": cache})
    assert [request["file"] for request in edited.asked] == [PYTHON]
    other_args = Listings(answers())
    await planned(ground, other_args, more={"cache": cache, "catalog": {"python": {"args": ["-k", "op1"]}}})
    assert [request["args"] for request in other_args.asked] == [["-k", "op1"]]


async def test_a_damaged_memory_is_asked_again(ground: Ground, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    await planned(ground, more={"cache": cache})
    for file in cache.rglob("*.json"):
        file.write_text("[1")
    again = Listings(answers())
    await planned(ground, again, more={"cache": cache})
    assert len(again.asked) == 4


async def test_only_so_many_are_asked_at_once_and_progress_is_told(ground: Ground) -> None:
    listings, told = Listings(answers()), []
    await planned(
        ground, listings, more={"at_once": 1, "progress": lambda suite, done, total: told.append((suite, done, total))}
    )
    assert listings.most_at_once == 1
    assert told == [
        *[("compiled", done, 3) for done in range(4)],
        *[("python", done, 1) for done in range(2)],
    ]


async def test_binaries_of_the_same_name_keep_their_paths_apart(ground: Ground) -> None:
    (ground.environments["cpu"].root / "test/test_jit").touch()
    plan = await planned(ground, Listings({**answers(), "test/test_jit": {"tests": ["Jit.C"]}}))
    names = [unit.name for unit in of(plan, "compiled")]
    assert "bin/test_jit" in names
    assert "test/test_jit" in names


async def test_on_an_accelerator_a_unit_gets_a_device_and_tests_are_made_for_it(ground: Ground) -> None:
    small = catalog()
    on_rocm = small.environments["cpu"].model_copy(update={"accelerator": "rocm"})
    environment = replace(ground.environments["cpu"].environment, accelerator="rocm")
    unpacked = {"cpu": replace(ground.environments["cpu"], environment=environment)}
    plan = await make_plan(
        small.model_copy(update={"environments": {"cpu": on_rocm}}),
        "all",
        discover=(listings := Listings(answers())),
        **replace(ground, environments=unpacked).arguments(),
    )
    assert all(unit.devices == 1 for unit in plan.units)
    assert all(unit.spec["env"]["PYTORCH_TESTING_DEVICE_ONLY_FOR"] == "cuda" for unit in plan.units)
    assert all(request["env"]["PYTORCH_TESTING_DEVICE_ONLY_FOR"] == "cuda" for request in listings.asked)
    assert all(request["accelerator"]["class"] == "rocm" for request in listings.asked)
    assert all(request["accelerator"]["devices"] == [0] for request in listings.asked)
