"""A real run whose store stands in a bucket: what is on this machine is a copy, and may go."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.s3 import bucket_url as bucket_url
from tests.s3 import faults as faults
from tests.s3 import s3_server as s3_server
from tests.small import asked, commonfleet, small_catalog, surroundings


@pytest.fixture
def env(tmp_path: Path, bucket_url: str) -> dict[str, str]:
    catalog = small_catalog(tmp_path, {f"unit{n}": ["true"] for n in range(4)}, sandbox="none")
    secrets = {name: os.environ[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}
    return {**surroundings(tmp_path, catalog), **secrets, "COMMONFLEET_STORE": bucket_url}


def test_a_run_is_whole_after_everything_on_this_machine_but_the_records_has_gone(
    env: dict[str, str], tmp_path: Path
) -> None:
    done = commonfleet("run", "--profile", "small", env=env)
    assert done.returncode == 0, done.stderr
    home = Path(env["COMMONFLEET_HOME"])
    shutil.rmtree(home / "results")
    shutil.rmtree(home / "store")

    assert asked("query", "select outcome, count(*) as n from results group by outcome", env=env) == [
        {"outcome": "passed", "n": 4}
    ]
    assert asked("verify", env=env)["good"]
    assert commonfleet("backup", str(tmp_path / "backup"), env=env).returncode == 0
    plain = {name: value for name, value in env.items() if name != "COMMONFLEET_STORE"}
    restored = {**plain, "COMMONFLEET_HOME": str(tmp_path / "restored")}
    assert commonfleet("restore", str(tmp_path / "backup"), env=restored).returncode == 0
    assert asked("query", "select count(*) as n from results", env=restored) == [{"n": 4}]


def test_a_url_that_names_no_bucket_is_refused_in_words(env: dict[str, str]) -> None:
    refused = commonfleet("runs", env={**env, "COMMONFLEET_STORE": "ftp://somewhere/else"})
    assert refused.returncode == 2
    assert "ftp" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_ledger_keeps_to_its_store_and_a_bucket_to_its_ledger(env: dict[str, str], tmp_path: Path) -> None:
    assert commonfleet("run", "--profile", "small", env=env).returncode == 0
    plain = {name: value for name, value in env.items() if name != "COMMONFLEET_STORE"}

    without = commonfleet("runs", env=plain)
    assert without.returncode == 2
    assert f"Set COMMONFLEET_STORE to {env['COMMONFLEET_STORE']}" in without.stderr

    # Another ledger would sweep the first one's files away as garbage.
    other = commonfleet("runs", env={**env, "COMMONFLEET_HOME": str(tmp_path / "other")})
    assert other.returncode == 2
    assert "another ledger" in other.stderr

    # What stands in a folder was never put into a bucket.
    folder = {**plain, "COMMONFLEET_HOME": str(tmp_path / "folder")}
    assert commonfleet("run", "--profile", "small", env=folder).returncode == 0
    late = commonfleet("runs", env={**folder, "COMMONFLEET_STORE": env["COMMONFLEET_STORE"]})
    assert late.returncode == 2
    assert "Unset COMMONFLEET_STORE" in late.stderr
    assert commonfleet("runs", env=folder).returncode == 0

    refused = commonfleet("restore", str(tmp_path), env={**env, "COMMONFLEET_HOME": str(tmp_path / "new")})
    assert (refused.returncode, "COMMONFLEET_STORE" in refused.stderr) == (2, True)
