"""The command line as people and programs meet it: shapes that are kept, exit codes, and errors in sentences."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import shutil
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from deployments.cli.looking import show_run
from tests.ledger_rows import BASE_TIME, Case, made_unit, make_run, open_made
from tests.small import asked, commonfleet, small_catalog, surroundings

SHOWN = {"planned", "ran", "skipped", "not_run", "lost"}
RESULT_COLUMNS = {
    "run", "suite", "environment", "unit", "test", "outcome", "seconds", "attempt", "machine", "pool", "vendor",
}  # fmt: skip


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, str], subprocess.CompletedProcess[str]]:
    """One small run with a pass, a failure, a skip and a crash, shared by the tests that look at it."""
    root = tmp_path_factory.mktemp("night")
    catalog = small_catalog(
        root,
        {
            "passes": ["sh", "-c", "cat {build}/project/answer.txt"],
            "fails": ["sh", "-c", "echo the reason is here; exit 3"],
            "skips": ["sh", "-c", "exit 77"],
            "crashes": ["sh", "-c", "kill -SEGV $$"],
        },
    )
    env = surroundings(root, catalog)
    return env, commonfleet("run", "--profile", "small", env=env)


def test_a_run_with_failures_exits_1_and_says_so_in_one_sentence(night: Any) -> None:
    _, done = night

    assert done.returncode == 1, done.stderr
    assert "newly broke" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


def test_progress_is_told_while_the_run_goes_on(night: Any) -> None:
    _, done = night

    assert "test, 0 of 4 units" in done.stderr
    assert "4 of 4 units" in done.stderr


def test_show_json_adds_up(night: Any) -> None:
    env, _ = night

    shown = asked("show", "latest", env=env)

    units = shown["units"]
    assert set(units) >= SHOWN
    assert units["planned"] == 4 == units["ran"] + units["skipped"] + units["not_run"] + units["lost"]
    assert shown["attempts"]["total"] == 6  # the failure and the crash were each tried once more alone
    assert shown["results"]["commands"] == {"passed": 1, "failed": 1, "skipped": 1, "crashed": 1}


def test_show_says_why_units_did_not_run_and_what_went_dark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger = open_made(tmp_path / "home")
    make_run(ledger, [made_unit("a", [Case("A.x"), Case("A.[gone]")]), made_unit("b", [Case("B.x")])], run="r-1")
    lost = made_unit("b", [Case("B.x")], terminal="lost", reason="poison", delivered=False)
    make_run(ledger, [made_unit("a", [Case("A.x")]), lost], run="r-2", created=BASE_TIME + 1)
    ledger.close()
    monkeypatch.setenv("COMMONFLEET_HOME", str(tmp_path / "home"))

    assert show_run("r-2", None, as_json=False) == 0
    said = capsys.readouterr().out
    assert show_run("r-2", None, as_json=True) == 0
    shown = json.loads(capsys.readouterr().out)

    assert "1 lost: poison" in said
    assert "1 dark, ran before and not here (not planned any more, and nobody said why):" in said
    assert "cpu  a::A.[gone]" in said
    assert "cpu  b::B.x (lost: poison)" in said
    assert shown["dark"]["by_why"] == {"vanished": 1, "unit_not_run": 1}
    assert shown["dark"]["compared_with"] == ["r-1"]
    assert [test["test"] for test in shown["dark"]["tests"]] == ["a::A.[gone]", "b::B.x"]
    assert set(shown["dark_anywhere"]) == {"days", "count", "tests"}


def test_runs_json_is_a_list_newest_first_each_with_an_id(night: Any) -> None:
    env, _ = night

    rows = asked("runs", env=env)

    assert [row["id"] for row in rows] == sorted((row["id"] for row in rows), reverse=True)


def test_query_json_is_a_list_of_row_objects_with_the_promised_columns(night: Any) -> None:
    env, _ = night

    rows = asked("query", "select * from results order by test", env=env)

    assert len(rows) == 6
    assert set(rows[0]) >= RESULT_COLUMNS
    assert {row["vendor"] for row in rows} == {"foundation"}


def test_the_report_holds_the_failure_and_what_it_printed(night: Any) -> None:
    env, done = night

    page = Path(done.stdout.split("Report: ")[1].strip())

    assert page.is_relative_to(env["COMMONFLEET_HOME"])
    assert "the reason is here" in page.read_text()


def test_a_page_that_was_asked_for_is_written_and_said_so(night: Any, tmp_path: Path) -> None:
    env, _ = night
    page = tmp_path / "page.html"

    done = commonfleet("show", "--html", str(page), env=env)

    assert f"Written to {page}." in done.stdout
    assert "the reason is here" in page.read_text()


def test_the_page_of_an_open_run_is_said_to_be_no_more_than_that(night: Any, tmp_path: Path) -> None:
    env, _ = night
    shutil.copytree(env["COMMONFLEET_HOME"], tmp_path / "home", ignore=shutil.ignore_patterns("*-bell"))
    with contextlib.closing(sqlite3.connect(tmp_path / "home" / "ledger.db")) as ledger, ledger:
        ledger.execute("update runs set finished = null, state = 'running'")
    page = tmp_path / "page.html"

    done = commonfleet("show", "--html", str(page), env=env | {"COMMONFLEET_HOME": str(tmp_path / "home")})

    assert f"Written to {page}: the run as it stands now." in done.stdout
    assert page.exists()


def test_a_failure_that_was_there_before_is_not_new(night: Any) -> None:
    env, _ = night

    again = commonfleet("run", "--profile", "small", env=env)

    assert again.returncode == 0, again.stdout + again.stderr


def test_an_unchanged_build_is_not_made_twice(night: Any) -> None:
    env, _ = night
    commonfleet("run", "--profile", "small", env=env)

    rows = asked("query", "select kind, count(*) as n from events where kind = 'build.made' group by kind", env=env)

    assert rows == [{"kind": "build.made", "n": 1}]


def test_the_version_is_that_of_the_distribution() -> None:
    done = commonfleet("--version", env=surroundings(Path("/nowhere"), Path("/nowhere")))

    assert done.stdout.strip() == importlib.metadata.version("commonfleet")


def test_help_answers_at_once() -> None:
    times = []
    for _ in range(3):
        began = time.monotonic()
        assert "nightly" in commonfleet("--help", env=surroundings(Path("/nowhere"), Path("/nowhere"))).stdout
        times.append(time.monotonic() - began)

    assert min(times) < 1.5
    imports = "import sys, deployments.cli.main; print([m for m in ('prefect', 'sqlalchemy') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", imports], capture_output=True, text=True).stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["show", "r-nothing"], "no run"),
        (["query", "select nonsense from results"], "nonsense"),
        (["query", "drop table runs"], "commonfleet:"),
        (["resume", "r-nothing"], "no run"),
        (["run", "--profile", "nonsense"], "no profile"),
        (["run", "--profile", "small", "--suite", "nonsense"], "no suite"),
        (["run", "--sample", "7"], "share"),
        (["run", "--slots", "-3"], "slots is 0"),
        (["run", "--retry-alone", "-1"], "again alone is 0"),
        (["runs", "--limit", "0"], "limit is 1 or more"),
        (["runs", "--limit", "-1"], "limit is 1 or more"),
        (["cancel", "r-nothing"], "no run"),
    ],
)
def test_bad_input_is_answered_in_a_sentence_and_exit_2(night: Any, arguments: list[str], said: str) -> None:
    env, _ = night

    done = commonfleet(*arguments, env=env)

    assert done.returncode == 2, done.stdout + done.stderr
    assert said in done.stderr.lower()
    assert "Traceback" not in done.stderr


def test_a_state_folder_of_a_newer_version_is_refused_and_left_alone(tmp_path: Path) -> None:
    env = surroundings(tmp_path, tmp_path)
    home = tmp_path / "home"
    home.mkdir()
    (home / "version").write_text("99\n")

    done = commonfleet("runs", env=env)

    assert done.returncode == 2
    assert "version 99" in done.stderr
    assert (home / "version").read_text() == "99\n"


def test_doctor_finds_nothing_in_the_way_and_prints_json(night: Any) -> None:
    env, _ = night

    found = json.loads(commonfleet("doctor", "--json", env=env).stdout)

    assert {finding["name"] for finding in found} >= {"packages", "compiler", "sandbox", "ledger"}
    assert {finding["name"]: finding["level"] for finding in found}["packages"] == "good"


def test_a_pytorch_test_matrix_becomes_catalog_entries(tmp_path: Path) -> None:
    matrix = tmp_path / "matrix.json"
    rows = [{"config": "default", "shard": n, "num_shards": 2, "runner": "linux.2xlarge"} for n in (1, 2)]
    matrix.write_text(json.dumps({"include": rows}))
    env = surroundings(tmp_path, tmp_path)

    done = commonfleet("import-matrix", str(matrix), "--job", "linux-jammy-py3.10-gcc11", env=env)
    refused = commonfleet("import-matrix", str(tmp_path / "nothing"), "--job", "x", env=env)

    assert done.returncode == 0, done.stderr
    (profile,) = yaml.safe_load(done.stdout)["profiles"].values()
    assert [cell["shards"] for cell in profile["matrix"]] == [2]
    assert refused.returncode == 2
    assert "cannot be read" in refused.stderr
