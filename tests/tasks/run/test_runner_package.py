"""The runner as a package: old Python, nothing but the standard library, one reproducible file."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.run.runner import parts
from tasks.run.zipapp import SOURCES, make_zipapp
from tests.tasks.run.conftest import Wire, order_of, unit

FILES = sorted(SOURCES.glob("*.py"))
OLDEST = (3, 9)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_file_is_python_3_9(path: Path) -> None:
    ast.parse(path.read_text(), feature_version=OLDEST)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_file_imports_only_the_standard_library_and_its_neighbours(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [node.module or ""]
        # pytest is what the plugin is loaded into; the runner itself never imports that file.
        allowed = {"pytest"} if path.name == "stream_plugin.py" else set()
        foreign = [name for name in names if name.split(".")[0] not in sys.stdlib_module_names | allowed]
        assert foreign == []


def test_the_zipapp_has_the_same_bytes_for_the_same_sources(tmp_path: Path) -> None:
    first = make_zipapp(tmp_path / "a" / "runner.pyz")
    second = make_zipapp(tmp_path / "b" / "other-name.pyz")
    assert first == second
    assert first.startswith("sha256:")
    assert (tmp_path / "a" / "runner.pyz").read_bytes() == (tmp_path / "b" / "other-name.pyz").read_bytes()
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["runner.pyz"]


def test_wrong_words_get_the_usage(runner_pyz: Path) -> None:
    told = subprocess.run([sys.executable, str(runner_pyz), "dance"], capture_output=True, text=True, check=False)
    assert told.returncode == 2
    assert "usage" in told.stderr


def test_it_runs_on_every_older_python_of_this_host(runner_pyz: Path, tmp_path: Path) -> None:
    from tasks.run.runner import fingerprint

    found = fingerprint.interpreters()
    oldest = found[min(found, key=lambda tag: int(tag[3:]))]
    wire = Wire(runner_pyz, tmp_path / "machine", oldest)
    (record,) = wire.run(
        order_of(
            unit(
                "u",
                "command",
                {"argv": ["{python}", "-c", "print(1)"]},
            ),
            python=oldest,
        )
    )
    assert record["attempts"][0]["outcome"] == "passed"
    assert wire.ok("hello")["protocol"] == parts.PROTOCOL
    wire.close()


def test_runners_still_start_when_the_zipapp_is_gone(runner_pyz: Path, tmp_path: Path) -> None:
    copy = tmp_path / "runner.pyz"
    shutil.copy(runner_pyz, copy)
    wire = Wire(copy, tmp_path / "machine")
    wire.ok("status")
    copy.unlink()
    (record,) = wire.run(order_of(unit("u", "command", {"argv": ["/bin/true"]})))
    assert record["attempts"][0]["outcome"] == "passed"
    wire.close()
