"""The command that reproduces a failure: from what was run, safe to paste."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.publish.report.command import quote, reproduce

HEX = "3f" * 32
BUILD = "sha256:" + "ab" * 32


def test_a_gtest_is_run_from_the_build_with_its_libraries_and_only_the_failing_test() -> None:
    binary = f"/m/builds/{HEX}/site/torch/bin/test_api"
    argv = [binary, "--shuffle", "--gtest_filter=A.x:A.y", "--gtest_output=json:/m/w/r.json", "--gtest_color=no"]
    line = reproduce("gtest", {"binary": "site/torch/bin/test_api"}, "A.x", {"argv": argv})
    assert line == f"env LD_LIBRARY_PATH=/m/builds/{HEX}/site/torch/lib {binary} --shuffle --gtest_filter=A.x"


def test_a_pytest_is_run_in_its_sources_with_the_build_by_node_id() -> None:
    root = f"/m/builds/{HEX}/inductor"
    argv = ["/usr/bin/python3", "-m", "pytest", "-p", "stream", f"--rootdir={root}", "-k", "cpu", f"{root}/test_x.py"]
    spec = {"file": "test_x.py", "args": ["-k", "cpu"]}
    line = reproduce("pytest", spec, "test_x.py::T::test_a[1 2]", {"argv": argv}, BUILD)
    site = f"/m/builds/{'ab' * 32}/site"
    assert line == (
        f"cd {root} && env LD_LIBRARY_PATH={site}/torch/lib PYTHONPATH={site} "
        "/usr/bin/python3 -m pytest -k cpu 'test_x.py::T::test_a[1 2]'"
    )


def test_a_benchmark_shows_its_figures_instead_of_writing_them_to_the_runner() -> None:
    argv = ["python", f"/m/builds/{HEX}/b/bench.py", "--model", "mlp", "--out", "/m/w/report", "--quick"]
    line = reproduce("benchmark", {"script": "bench.py"}, "", {"argv": argv}, BUILD)
    assert line.endswith(f"python /m/builds/{HEX}/b/bench.py --model mlp --out /dev/stdout --quick")
    assert f"PYTHONPATH=/m/builds/{'ab' * 32}/site" in line


def test_recorded_variables_that_cannot_harm_are_stated_and_the_others_only_as_the_plan_says() -> None:
    env = {"OMP_NUM_THREADS": "1", "HOME": "/root", "CUDA_VISIBLE_DEVICES": "", "SUITES_OWN": "recorded"}
    planned = {"env": {"SUITES_OWN": "a b; $(c)"}}
    line = reproduce("command", planned, "", {"argv": ["make", "check"], "env": env})
    assert line == "env CUDA_VISIBLE_DEVICES='' OMP_NUM_THREADS=1 SUITES_OWN='a b; $(c)' make check"


@pytest.mark.parametrize(
    "name",
    ["LD_PRELOAD", "BASH_ENV", "PYTHONSTARTUP", "PYTHONWARNINGS", "BROWSER", "PYTHONPATH", "LD_LIBRARY_PATH",
     "GCONV_PATH", "GIT_SSH_COMMAND", "PERL5OPT", "CUDA_INJECTION64_PATH", "A B", "A=B;C"],
)  # fmt: skip
def test_a_variable_by_which_a_record_would_run_its_own_code_is_not_stated(name: str) -> None:
    assert reproduce("command", {}, "", {"argv": ["make"], "env": {name: "/tmp/evil"}}) == "make"


def test_without_a_command_line_on_record_nothing_is_made_up() -> None:
    assert reproduce("gtest", {"binary": "x"}, "A.b", {"argv": []}) == ""


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=40))
def test_a_quoted_word_reaches_the_program_unchanged(word: str) -> None:
    done = subprocess.run(
        ["bash", "-c", f"printf %s {quote(word)}"], capture_output=True, check=True, env={"LC_ALL": "C.UTF-8"}
    )
    assert done.stdout.decode() == word


def test_a_hostile_test_name_runs_nothing_when_the_command_is_pasted(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    hostile = f"A.b'; touch {marker}; echo $(touch {marker})\ntouch {marker}\n"
    line = reproduce("gtest", {"binary": "true"}, hostile, {"argv": ["true"]})
    subprocess.run(["bash", "-c", line], check=True)
    assert "\n" not in line
    assert not marker.exists()
