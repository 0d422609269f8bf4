"""A plan that no host at hand can carry out is refused before anything runs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from blocks.build import Build, Runtime
from blocks.errors import PlanError
from blocks.plan import Environment, Plan, Unit
from tasks.plan.check import check_hosts

HELLO: dict[str, Any] = {
    "runtime": {"arch": "x86_64", "libc": "glibc 2.36", "python": {"cp311": "/usr/bin/python3"}, "toolchain": ["c++"]},
    "fingerprint": {"memory_bytes": 8 << 30},
    "slots_hint": 2,
    "accelerators": [{"class": "cpu", "count": 2}],
}
RUNTIME = Runtime("x86_64", "cp311", "glibc 2.28", ("c++",))
UNIT = Unit("s", "cpu", "u", "gtest", {"binary": "b"})


def plan(unit: Unit = UNIT, accelerator: str = "cpu") -> Plan:
    return Plan((Environment("cpu", "b", "sha256:0", accelerator),), (unit,))


def builds(runtime: Runtime = RUNTIME) -> dict[str, Build]:
    return {"cpu": Build("b", "k", (), runtime)}


def test_a_host_that_has_everything_is_taken() -> None:
    check_hosts(plan(), builds(), {"here": HELLO})


@pytest.mark.parametrize(
    ("runtime", "expected"),
    [
        (replace(RUNTIME, arch="aarch64"), "aarch64"),
        (replace(RUNTIME, python="cp313"), "cp313"),
        (replace(RUNTIME, libc="glibc 2.40"), "glibc 2.40"),
        (replace(RUNTIME, toolchain=("c++", "ninja")), "ninja"),
    ],
)
def test_a_runtime_that_is_not_there_is_named_with_the_host(runtime: Runtime, expected: str) -> None:
    with pytest.raises(PlanError) as caught:
        check_hosts(plan(), builds(runtime), {"here": HELLO})
    assert expected in str(caught.value)
    assert "here: " in str(caught.value)
    assert "add a pool" in caught.value.do


def test_memory_cores_and_devices_are_held_against_the_machine() -> None:
    for unit, expected in (
        (replace(UNIT, memory_bytes=16 << 30), "needs 16.0 GiB of memory and has 8.0"),
        (replace(UNIT, cpus=4), "needs 4 cores and has 2"),
    ):
        with pytest.raises(PlanError, match=expected):
            check_hosts(plan(unit), builds(), {"here": HELLO})
    with pytest.raises(PlanError, match="needs 1 x cuda and has none"):
        check_hosts(plan(replace(UNIT, devices=1), "cuda"), builds(), {"here": HELLO})


def test_one_host_that_fits_is_enough() -> None:
    large = {**HELLO, "fingerprint": {"memory_bytes": 64 << 30}}
    check_hosts(plan(replace(UNIT, memory_bytes=16 << 30)), builds(), {"small": HELLO, "large": large})


def test_without_any_host_nothing_can_run() -> None:
    with pytest.raises(PlanError, match="no host at all"):
        check_hosts(plan(), builds(), {})
