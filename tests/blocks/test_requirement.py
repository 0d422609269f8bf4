"""Why a machine does not do: every reason, in words."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from blocks.errors import HostError
from blocks.plan import Environment, Unit
from blocks.requirement import MachineFacts, Requirement, facts_from_hello, libc_does, requirement_of, why_not
from blocks.vendor import Level

GIB = 1 << 30
MACHINE = MachineFacts(
    arch="x86_64",
    isa=frozenset({"avx2"}),
    os="linux",
    pythons=frozenset({"cp311"}),
    libc="glibc 2.36",
    toolchain=frozenset({"c++"}),
    devices={"cuda": 2},
    cpus=4,
    memory_bytes=8 * GIB,
    level=Level.L2,
    region="eu",
)


def test_a_requirement_that_asks_for_nothing_is_met_by_everything() -> None:
    assert why_not(Requirement(), MachineFacts()) == []


def test_a_machine_that_has_just_enough_does() -> None:
    needed = Requirement(
        arch="x86_64", isa=frozenset({"avx2"}), os="linux", python="cp311", libc="glibc 2.36", toolchain=("c++",),
        accelerator="cuda", devices=2, cpus=4, memory_bytes=8 * GIB, level=Level.L2, regions=frozenset({"eu", "us"}),
    )  # fmt: skip
    assert why_not(needed, MACHINE) == []


@pytest.mark.parametrize(
    ("needed", "reason"),
    [
        ({"arch": "aarch64"}, "needs aarch64 and is x86_64"),
        ({"isa": frozenset({"amx", "avx512f", "avx2"})}, "lacks the instructions amx, avx512f"),
        ({"os": "windows"}, "needs windows and runs linux"),
        ({"python": "cp313"}, "has no Python for cp313 (it has cp311)"),
        ({"libc": "glibc 2.39"}, "needs glibc 2.39 or newer and has glibc 2.36"),
        ({"toolchain": ("c++", "ninja")}, "lacks ninja"),
        ({"container_engine": True}, "has no container engine"),
        ({"accelerator": "rocm"}, "needs 1 x rocm and has none"),
        ({"accelerator": "cuda", "devices": 4}, "needs 4 x cuda and has 2"),
        ({"cpus": 5}, "needs 5 cores and has 4"),
        ({"memory_bytes": 9 * GIB}, "needs 9.0 GiB of memory and has 8.0"),
        ({"level": Level.L4}, "needs a vendor of level L4 and is of L2"),
        ({"regions": frozenset({"us"})}, "may only run in us and is in eu"),
    ],
)
def test_what_is_missing_is_said(needed: dict[str, Any], reason: str) -> None:
    assert why_not(Requirement(**needed), MACHINE) == [reason]


def test_all_reasons_are_given_at_once() -> None:
    assert len(why_not(Requirement(arch="arm64", os="macos", cpus=99), MACHINE)) == 3


def test_memory_that_is_not_known_is_not_held_against_a_machine() -> None:
    assert why_not(Requirement(memory_bytes=1 << 60), replace(MACHINE, memory_bytes=None)) == []


@pytest.mark.parametrize(
    ("needed", "has", "does"),
    [
        ("glibc 2.28", "glibc 2.36", True),
        ("glibc 2.28", "glibc 2.28", True),
        ("glibc 2.28", "glibc 2.4", False),
        ("glibc 2.28", "musl 9.9", False),
        ("glibc 2.28", "", False),
    ],
)
def test_a_libc_does_when_it_is_the_same_and_not_older(needed: str, has: str, does: bool) -> None:
    assert libc_does(needed, has) is does


def test_a_unit_needs_its_amounts_and_its_environments_kind() -> None:
    unit = Unit("s", "gpu", "u", "pytest", {}, devices=2, cpus=3, memory_bytes=7, exclusive=True)
    needed = requirement_of(unit, Environment("gpu", "b", "sha256:0", "rocm", "linux"))
    assert (needed.accelerator, needed.devices, needed.cpus, needed.memory_bytes) == ("rocm", 2, 3, 7)
    assert needed.exclusive


def test_facts_are_read_from_what_a_runner_says() -> None:
    hello = {
        "runtime": {"arch": "x86_64", "libc": "glibc 2.36", "python": {"cp311": "/p"}, "toolchain": ["c++"]},
        "fingerprint": {"cpu": {"isa": ["avx2"]}},
        "slots_hint": 4,
        "accelerators": [{"class": "cpu", "count": 4}, {"class": "cuda", "count": 2}],
    }
    facts = facts_from_hello(hello)
    assert facts.pythons == {"cp311"}
    assert facts.devices["cuda"] == 2
    assert facts.isa == {"avx2"}
    assert facts.os == "linux"
    assert facts.memory_bytes is None
    assert why_not(Requirement(accelerator="cuda", devices=2, cpus=4, toolchain=("c++",)), facts) == []


@pytest.mark.parametrize(
    "hello",
    [
        [],
        {"runtime": []},
        {"fingerprint": "fast"},
        {"fingerprint": {"memory_bytes": float("inf")}},
        {"slots_hint": "many"},
        {"accelerators": [{"class": "cuda"}]},
        {"accelerators": [{"class": "cuda", "count": "2"}]},
        {"accelerators": [{"class": [], "count": 2}]},
    ],
)
def test_what_no_runner_says_is_an_error_for_people(hello: Any) -> None:
    with pytest.raises(HostError, match="says about its machine is malformed") as error:
        facts_from_hello(hello)
    assert error.value.do


def test_a_libc_of_no_version_is_none_that_is_needed() -> None:
    assert not libc_does("glibc 2.28", "glibc \N{SUPERSCRIPT TWO}")
