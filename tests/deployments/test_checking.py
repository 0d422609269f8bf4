"""`verify` and `export-log` as people use them: a run of this installation, then somebody who changes something."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from blocks.ledger.notes import COSIGNATURE, ED25519, VerifierKey
from tests.ledger_rows import new_key
from tests.read_only import read_only
from tests.small import commonfleet, small_catalog, surroundings


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """The folder and surroundings of an installation with one run."""
    root = tmp_path_factory.mktemp("checked")
    env = surroundings(root, small_catalog(root, {f"unit{n}": ["true"] for n in range(4)}, sandbox="none"))
    done = commonfleet("run", "--profile", "small", env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    return root, env


@pytest.fixture
def copied(ran: tuple[Path, dict[str, str]], tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """A copy of it that may be damaged."""
    env = ran[1]
    home = tmp_path / "home"
    bell = shutil.ignore_patterns("*-bell")  # a FIFO, which copytree takes for no file
    shutil.copytree(env["COMMONFLEET_HOME"], home, symlinks=True, ignore_dangling_symlinks=True, ignore=bell)
    return home, {**env, "COMMONFLEET_HOME": str(home)}


def checked(env: Mapping[str, str], *more: str) -> tuple[int, Any]:
    done = commonfleet("verify", "--json", *more, env=env)
    assert done.returncode in (0, 1), done.stderr
    return done.returncode, json.loads(done.stdout)


def test_what_a_run_wrote_is_what_the_log_says(ran: tuple[Path, dict[str, str]]) -> None:
    code, said = checked(ran[1])
    assert code == 0
    assert said["good"]
    assert said["findings"] == []
    assert said["events"] > 10
    assert said["files"] >= 2
    assert (said["bundles"] >= 1, said["rows"]) == (True, 4)
    assert said["waiting"] == 0


def test_one_bit_of_a_result_file_is_found_by_its_name(copied: tuple[Path, dict[str, str]]) -> None:
    home, env = copied
    segment = next((home / "results").rglob("*.parquet"))
    content = bytearray(segment.read_bytes())
    content[len(content) // 2] ^= 1
    segment.write_bytes(content)

    code, said = checked(env)

    assert code == 1
    assert said["findings"][0]["kind"] == "changed_file"
    assert said["findings"][0]["where"] == str(segment.relative_to(home))


def test_a_raw_bundle_that_is_gone_is_found(copied: tuple[Path, dict[str, str]]) -> None:
    home, env = copied
    with sqlite3.connect(home / "ledger.db") as records:
        lease, digest = records.execute("SELECT lease, digest FROM bundles LIMIT 1").fetchone()
    bare = digest.removeprefix("sha256:")
    (home / "store" / bare[:2] / bare).unlink()

    code, said = checked(env)

    assert code == 1
    assert lease in said["findings"][0]["where"]


def test_an_event_changed_behind_the_triggers_back_is_found(copied: tuple[Path, dict[str, str]]) -> None:
    home, env = copied
    with sqlite3.connect(home / "ledger.db") as records:
        records.execute("DROP TRIGGER events_no_update")
        records.execute("UPDATE events SET body = replace(body, 'run.closed', 'run.c1osed') WHERE kind = 'run.closed'")

    code, said = checked(env)

    assert code == 1
    assert any(finding["where"].startswith("event") for finding in said["findings"]), said["findings"]


def test_a_published_log_is_checked_with_nothing_but_its_key(
    copied: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    _, env = copied
    published = tmp_path / "published"
    told = commonfleet("export-log", str(published), "--json", env=env)
    assert told.returncode == 0, told.stderr
    exported = json.loads(told.stdout)
    stranger = {**env, "COMMONFLEET_HOME": str(tmp_path / "elsewhere")}
    against = ("--log", str(published), "--key", exported["key"])

    code, said = checked(stranger, *against)
    assert (code, said["events"]) == (0, exported["events"])
    assert "truncation not excluded" in said["assurance"]

    code, said = checked(stranger, *against)  # now it remembers
    assert code == 0
    assert "truncation not excluded" not in said["assurance"]
    assert not (tmp_path / "elsewhere").exists()

    (published / "checkpoint").unlink()
    code, said = checked(stranger, *against)
    assert code == 1


def test_a_published_log_without_its_key_is_told_in_words(tmp_path: Path) -> None:
    done = commonfleet("verify", "--log", str(tmp_path), env=surroundings(tmp_path, tmp_path))
    assert done.returncode == 2
    assert "--key" in done.stderr
    assert "Traceback" not in done.stderr


def test_where_there_is_no_ledger_nothing_is_made(tmp_path: Path) -> None:
    env = surroundings(tmp_path, tmp_path)
    done = commonfleet("verify", env=env)
    assert done.returncode == 2
    assert "There is no ledger in" in done.stderr
    assert not Path(env["COMMONFLEET_HOME"]).exists()


def test_a_ledger_without_a_log_is_told_in_words_and_no_key_is_made_up(tmp_path: Path) -> None:
    env = surroundings(tmp_path, tmp_path)
    assert commonfleet("runs", env=env).returncode == 0
    done = commonfleet("verify", env=env)
    assert done.returncode == 2
    assert "Run something first" in done.stderr
    assert not (Path(env["COMMONFLEET_HOME"]) / "keys" / "log.key").exists()


def exported(env: Mapping[str, str], folder: Path) -> str:
    """Publish the log; returns its key."""
    told = commonfleet("export-log", str(folder), "--json", env=env)
    assert told.returncode == 0, told.stderr
    return str(json.loads(told.stdout)["key"])


def test_a_key_pins_the_log_of_the_ledger(copied: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    home, env = copied
    key = exported(env, tmp_path / "published")
    assert checked(env, "--key", key)[0] == 0
    for garbage in ("garbage", key[:-4] + "AAA="):
        done = commonfleet("verify", "--key", garbage, env=env)
        assert (done.returncode, "Traceback" in done.stderr) == (2, False)
        assert "key" in done.stderr
    for lost in ("log.key", "log.pub"):
        (home / "keys" / lost).unlink(missing_ok=True)
    done = commonfleet("verify", env=env)
    assert done.returncode == 2
    assert "its public key will do" in done.stderr
    assert checked(env, "--key", key)[0] == 0

    with sqlite3.connect(home / "ledger.db") as records:
        for (trigger,) in records.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            records.execute(f"DROP TRIGGER {trigger}")
        for table in ("log_leaves", "log_checkpoints", "log_tiles", "log_head"):
            records.execute(f"DELETE FROM {table}")
    (home / "last-checkpoint").unlink()
    code, said = checked(env, "--key", key)
    assert (code, [finding["says"].split(",")[0] for finding in said["findings"][:1]]) == (1, ["there is no log here"])
    exported(env, tmp_path / "again")  # a new log under a new key, signed by the program itself
    assert checked(env)[0] == 0
    code, said = checked(env, "--key", key)
    assert code == 1
    assert {finding["kind"] for finding in said["findings"]} == {"other_log", "bad_signature"}


def test_witnesses_and_kept_checkpoints_count_without_a_published_log(
    copied: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    _, env = copied
    exported(env, tmp_path / "published")
    witness = str(VerifierKey("vendor.example", COSIGNATURE, new_key().public))
    code, said = checked(env, "--witness", witness)
    assert (code, [finding["kind"] for finding in said["findings"]]) == (1, ["no_witness"])

    code, said = checked(env, "--seen", str(tmp_path / "published" / "checkpoint"))
    assert code == 0
    assert str(tmp_path / "published" / "checkpoint") in said["assurance"]
    done = commonfleet("verify", "--seen", str(tmp_path / "nothing"), env=env)
    assert (done.returncode, "There is no file" in done.stderr) == (2, True)


def test_what_was_not_looked_at_is_not_called_altered(tmp_path: Path) -> None:
    env = surroundings(tmp_path, tmp_path)
    key = str(VerifierKey("log.example", ED25519, new_key().public))
    done = commonfleet("verify", "--log", str(tmp_path / "nothing"), "--key", key, env=env)
    assert (done.returncode, "There is no folder" in done.stderr) == (2, True)
    done = commonfleet("verify", "--log", "https://log.example/ci", "--key", key, env=env)
    assert (done.returncode, "that is an address" in done.stderr) == (2, True)


def test_a_published_log_is_checked_where_nothing_can_be_written(
    copied: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    _, env = copied
    key = exported(env, tmp_path / "shared" / "published")
    against = ("--log", str(tmp_path / "shared" / "published"), "--key", key)
    with read_only(tmp_path / "shared"):
        code, said = checked(env, *against)
        assert (code, said["good"]) == (0, True)
        assert "cannot be written" in said["not_kept"]
        told = commonfleet("verify", *against, env=env)
        assert (told.returncode, "--memory" in told.stdout) == (0, True)
        for assurance in ("truncation not excluded", "seen before"):
            code, said = checked(env, *against, "--memory", str(tmp_path / "mine"))
            assert (code, said["not_kept"]) == (0, "")
            assert assurance in said["assurance"]


def test_a_ledger_is_checked_where_nothing_can_be_written(copied: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    home, env = copied
    before = sorted(home.rglob("*"))
    with read_only(home):
        code, said = checked(env)
        assert (code, said["good"]) == (0, True)
        assert "cannot be written" in said["not_kept"] or (home / "last-checkpoint").exists()
        code, said = checked(env, "--memory", str(tmp_path / "mine"))
        assert (code, said["not_kept"]) == (0, "")
    assert sorted(home.rglob("*")) == before


def test_a_log_that_cannot_be_written_is_told_in_words(copied: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    done = commonfleet("export-log", str(tmp_path / "file" / "log"), env=copied[1])
    assert done.returncode == 2
    assert "cannot be read or written: Not a directory" in done.stderr
    assert "system failed" not in done.stderr
