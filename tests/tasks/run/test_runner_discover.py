"""What tests there are, and what is no test."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from tasks.run.runner.discover import parse_list
from tests.tasks.run.conftest import BASE_PYTHON, Wire

LISTING = """Running main() from gtest_main.cc
CUDA not available. Disabling CUDA and MultiCUDA tests
Plain.
  One
  DISABLED_Two
DISABLED_Whole.
  Three
Inst/Values.
  Get/0  # GetParam() = 4-byte object <01-00 00-00>
  Get/1  # GetParam() = "a b"
  DISABLED_Get/0  # GetParam() = 1
Typed/0.  # TypeParam = int
  Works
Typed/1.  # TypeParam = std::vector<int, std::allocator<int> >
  Works
A warning that has two words.
  indented remark of it
"""


def test_a_gtest_listing_is_read_with_its_parameters_and_without_its_noise() -> None:
    enabled, disabled = parse_list(LISTING)
    assert enabled == [
        "Plain.One",
        "Inst/Values.Get/0",
        "Inst/Values.Get/1",
        "Typed/0.Works",
        "Typed/1.Works",
    ]
    assert disabled == ["Plain.DISABLED_Two", "DISABLED_Whole.Three", "Inst/Values.DISABLED_Get/0"]


def test_a_binary_is_asked_for_its_tests(wire: Wire, fake_gtest: Any, fake_build: Path) -> None:
    fake_gtest({"A.One": "", "A.DISABLED_Two": "", "B.Three": ""})
    found = wire.ok("discover", kind="gtest", build=str(fake_build), binary="fake/binary", python=BASE_PYTHON)
    assert found["tests"] == ["A.One", "B.Three"]
    assert found["disabled"] == ["A.DISABLED_Two"]
    assert found["error"] is None
    assert found["seconds"] > 0


@pytest.mark.parametrize(
    ("content", "executable", "why"),
    [
        ("data, no program", True, "no program"),
        ("#!/bin/sh\nexit 0\n", False, "not executable"),
        ("#!/bin/sh\necho 'unknown flag' >&2; exit 1\n", True, "unknown flag"),
        ("#!/bin/sh\necho /tmp/manager.sock\n", True, "lists no tests"),
        ("#!/bin/sh\nkill -SEGV $$\n", True, "SIGSEGV"),
        ("#!/no/such/interpreter\n", True, ""),
    ],
)
def test_what_is_no_gtest_says_why(wire: Wire, fake_build: Path, content: str, executable: bool, why: str) -> None:
    fake_build.mkdir()
    path = fake_build / "binary"
    path.write_text(content)
    path.chmod(0o755 if executable else 0o644)
    found = wire.ok("discover", kind="gtest", build=str(fake_build), binary="binary")
    assert found["tests"] == []
    assert found["error"]
    assert why in found["error"]


def test_a_binary_outside_the_build_is_refused(wire: Wire, fake_build: Path) -> None:
    fake_build.mkdir()
    for binary in ("../../bin/true", "/bin/true", ""):
        assert not wire.ask("discover", kind="gtest", build=str(fake_build), binary=binary)["ok"]


def test_a_benchmark_has_nothing_to_list(wire: Wire) -> None:
    found = wire.ok("discover", kind="benchmark", script="bench.py", model="mlp")
    assert (found["tests"], found["error"]) == ([], None)


def test_an_interpreter_without_pytest_says_so(wire: Wire, tmp_path: Path) -> None:
    (tmp_path / "test_x.py").write_text("def test_a(): pass\n")
    bare = tmp_path / "bare"
    subprocess.run([BASE_PYTHON, "-m", "venv", "--without-pip", str(bare)], check=True)
    request = {"kind": "pytest", "sources": str(tmp_path), "file": "test_x.py", "python": str(bare / "bin" / "python")}
    found = wire.ok("discover", **request)
    assert found["tests"] == []
    assert "No module named pytest" in found["error"]
