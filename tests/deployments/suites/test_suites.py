"""What holds for the suites as they travel, and what they do on a real torch (marked `torch`)."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.deployments.suites.sources import SOURCES

SUITES = ("inductor", "benchmark")
PRESENT = {"torch", "numpy", "pytest", "expecttest", "hypothesis"}
"""What a suite may import beside the standard library: it runs in the build's interpreter, without commonfleet."""


@pytest.mark.parametrize("file", [file for suite in SUITES for file in sorted((SOURCES / suite).glob("*.py"))], ids=str)
def test_a_suite_imports_nothing_that_the_build_does_not_have(file: Path) -> None:
    imported = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            imported.add(node.module.split(".")[0])
    beside = {sibling.stem for sibling in file.parent.glob("*.py")}
    assert imported <= PRESENT | beside | set(sys.stdlib_module_names)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the runs below live; one for all, because Inductor compiles its header once per folder (seconds)."""
    return tmp_path_factory.mktemp("work")


def run(python: Path, arguments: list[str], folder: Path, **more: str) -> subprocess.CompletedProcess[str]:
    """Runs a suite as the runner does: in a folder that is its home and its place for temporary files, on one thread.

    `python` finds torch by itself or by our own PYTHONPATH; `more` are further environment variables.
    """
    env = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "TMPDIR": str(folder),
        "OMP_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        **more,
    }
    if "PYTHONPATH" in os.environ:
        env["PYTHONPATH"] = os.environ["PYTHONPATH"]
    return subprocess.run(
        [str(python), *arguments], cwd=folder, env=env, capture_output=True, text=True, timeout=280, check=False
    )


@pytest.mark.torch
def test_the_benchmark_writes_every_figure_of_a_model_with_its_interval(torch_python: Path, folder: Path) -> None:
    out = folder / "figures.jsonl"
    script = SOURCES / "benchmark" / "bench.py"
    done = run(torch_python, [str(script), "--model", "mlp", "--quick", "--out", str(out)], folder)
    assert done.returncode == 0, done.stderr
    rows: list[dict[str, Any]] = [json.loads(line) for line in out.read_text().splitlines()]
    result = rows.pop(0)["result"]
    assert (result["file"], result["cls"], result["name"], result["outcome"]) == (
        "bench.py", "mlp", "correctness", "passed",
    )  # fmt: skip
    figures = {(row["mode"], row["name"]): row for row in rows}
    assert set(figures) == {
        ("inductor", "compile_time"),
        *((mode, name) for mode in ("eager", "inductor")
          for name in ("peak_memory", "latency", "throughput", "train_step")),
        ("paired", "speedup"),
        ("paired", "train_speedup"),
    }  # fmt: skip
    assert len(figures) == len(rows)
    for row in rows:
        assert row["model"] == "mlp"
        assert row["value"] > 0
        assert len(row.get("samples", [])) <= 200
        if "low" in row:
            assert row["low"] <= row["value"] <= row["high"]


@pytest.mark.torch
def test_a_model_that_does_not_compile_is_a_result_and_no_crash(torch_python: Path, folder: Path) -> None:
    """The compiler is really missing: CXX names a program that does not exist."""
    out = folder / "uncompiled.jsonl"
    script = SOURCES / "benchmark" / "bench.py"
    arguments = [str(script), "--model", "mlp", "--quick", "--out", str(out)]
    done = run(torch_python, arguments, folder, CXX="/nowhere/c++")
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["result"]["outcome"] for row in rows] == ["error"]
    assert "/nowhere/c++" in rows[0]["result"]["message"]


@pytest.mark.torch
def test_operators_are_compared_and_what_cannot_be_says_why(torch_python: Path, folder: Path) -> None:
    file = SOURCES / "inductor" / "test_inductor_opinfo.py"
    cls = f"{file}::TestInductorOpInfoCPU"
    tests = [f"{cls}::test_{name}_cpu_float32" for name in ("forward_add", "backward_sin", "forward_empty")]
    done = run(
        torch_python,
        ["-m", "pytest", "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", str(folder), "-rs", "-q", *tests],
        folder,
    )
    assert "2 passed, 1 skipped" in done.stdout, done.stdout + done.stderr
    assert "undefined: OpInfo declares" in done.stdout
