"""No file breaks the reading of others, or of itself: each ends soon, in bounds, with the outcome that is right."""

from __future__ import annotations

import json
import os
import resource
from typing import Any

import pytest

from tasks.collect.readers import Limits
from tests.small import asked, commonfleet
from tests.tasks.collect.readers import hostile
from tests.tasks.collect.readers.hostile import CORPUS, Hostile

SEED = int(os.environ.get("HOSTILE_SEED", "20260731"))
MOST_SECONDS = 5.0
MOST_BYTES = 1 << 30


@pytest.fixture(scope="module")
def answer(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What `commonfleet ingest` says of the whole corpus."""
    root = tmp_path_factory.mktemp("hostile")
    folder = root / "corpus"
    folder.mkdir()
    print(f"HOSTILE_SEED={SEED}")
    hostile.write(folder, SEED)
    assert Limits().memory_bytes == MOST_BYTES
    done = commonfleet(
        "ingest", str(folder), "--run", "hostile", "--json", env={**os.environ, "COMMONFLEET_HOME": str(root / "home")}
    )
    for path in folder.iterdir():
        path.unlink()  # 300 MB that pytest would keep
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    said: dict[str, Any] = json.loads(done.stdout)
    return {**said, "env": {"COMMONFLEET_HOME": str(root / "home")}}


@pytest.fixture(scope="module")
def outcomes(answer: dict[str, Any]) -> dict[str, dict[str, Any]]:
    by_name = {os.path.basename(file["name"]): file for file in answer["files"]}
    assert len(by_name) == len(answer["files"]) == len(CORPUS), "a file has no outcome, or two"
    return by_name


def test_the_corpus_holds_at_least_40_files() -> None:
    assert len({one.name for one in CORPUS}) == len(CORPUS) >= 40


@pytest.mark.parametrize("one", CORPUS, ids=lambda one: one.name)
def test_every_hostile_file_ends_in_time_with_its_outcome(one: Hostile, outcomes: dict[str, dict[str, Any]]) -> None:
    file = outcomes[one.name]
    assert file["outcome"] == one.outcome, file
    if one.cases >= 0:
        assert file["results"] == (one.cases if one.outcome != "refused" else 0), file
    told = file["why"] + " " + " ".join(f"{issue['kind']} {issue['message']}" for issue in file["issues"])
    assert one.tells in told, file
    assert file["seconds"] < MOST_SECONDS, "of a processor"
    assert file["digest"].startswith("sha256:")


def test_the_ledger_holds_what_was_kept_of_the_corpus_and_nothing_else(answer: dict[str, Any]) -> None:
    env = {**os.environ, **answer["env"]}
    kept = {file["unit"] for file in answer["files"] if file["outcome"] != "refused"}
    results = sum({file["unit"]: file["results"] for file in answer["files"]}.values())
    summary = asked("show", "hostile", env=env)
    assert summary["units"]["planned"] == summary["units"]["ran"] == len(kept)
    assert sum(sum(suite.values()) for suite in summary["results"].values()) == results
    assert asked("verify", env=env)["good"]


def test_no_process_that_read_the_corpus_held_a_gigabyte(answer: dict[str, Any]) -> None:
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    assert 0 < peak < MOST_BYTES
