"""Units and plans as values: what they are, not what we believe about them, makes their ids."""

from __future__ import annotations

import json
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from blocks.plan import Environment, Plan, Skip, Unit, longest_first, unit_from_json, with_estimate

UNIT = Unit("libtorch", "cpu", "test_api", "gtest", {"binary": "site/torch/bin/test_api"}, ("A.b", "A.c"))
ENVIRONMENT = Environment("cpu", "torch", "sha256:0")
names = st.text(min_size=1, max_size=8)
made_units = st.builds(
    Unit,
    suite=names,
    environment=names,
    name=names,
    kind=st.sampled_from(["gtest", "pytest", "benchmark", "command"]),
    spec=st.dictionaries(names, st.text(max_size=8) | st.lists(names, max_size=3), max_size=3),
    tests=st.lists(names, max_size=4).map(tuple),
    exclusive=st.booleans(),
    estimate_seconds=st.floats(0, 1e6),
)


@given(made_units)
def test_a_unit_survives_json_with_its_id(unit: Unit) -> None:
    again = unit_from_json(json.loads(json.dumps(unit.to_json())))
    assert again == unit
    assert again.id == unit.id


def test_a_units_id_forgets_the_estimate_and_nothing_else() -> None:
    assert with_estimate(UNIT, 77).id == UNIT.id
    changed = [
        replace(UNIT, suite="x"),
        replace(UNIT, environment="x"),
        replace(UNIT, name="x"),
        replace(UNIT, kind="command"),
        replace(UNIT, spec={"binary": "x"}),
        replace(UNIT, tests=("A.c", "A.b")),
        replace(UNIT, cpus=2),
        replace(UNIT, devices=2),
        replace(UNIT, memory_bytes=2),
        replace(UNIT, exclusive=True),
        replace(UNIT, timeout_seconds=2),
        replace(UNIT, test_timeout_seconds=2),
    ]
    assert len({unit.id for unit in [UNIT, *changed]}) == len(changed) + 1


@given(st.lists(made_units, max_size=6), st.randoms(use_true_random=False))
def test_a_plans_id_depends_on_neither_order_nor_estimates(units: list[Unit], random: object) -> None:
    plan = Plan((ENVIRONMENT,), tuple(units), (Skip("s", "cpu", "a", "b"), Skip("s", "cpu", "c", "d")))
    shuffled = [with_estimate(unit, 1.5) for unit in units]
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert replace(plan, units=tuple(shuffled), left_out=plan.left_out[::-1]).id == plan.id


def test_a_plans_id_depends_on_everything_that_is_planned() -> None:
    plan = Plan((ENVIRONMENT,), (UNIT,), (Skip("s", "cpu", "a", "b"),), {"s": "sha256:1"})
    changed = [
        replace(plan, environments=(replace(ENVIRONMENT, build_digest="sha256:9"),)),
        replace(plan, units=(UNIT, replace(UNIT, name="x"))),
        replace(plan, left_out=()),
        replace(plan, sources={"s": "sha256:2"}),
    ]
    assert len({each.id for each in [plan, *changed]}) == 5


@given(st.lists(made_units, max_size=12))
def test_dispatch_is_longest_first_with_lone_units_last(units: list[Unit]) -> None:
    ordered = longest_first(units)
    assert sorted(ordered, key=repr) == sorted(units, key=repr)
    keys = [(unit.exclusive, -unit.estimate_seconds) for unit in ordered]
    assert keys == sorted(keys)
