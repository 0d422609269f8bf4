"""Backups and moves as the Merkle log sees them: what was logged stays what was logged, under one key."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from blocks.canonical import digest_file
from blocks.errors import LedgerError, TrustError
from blocks.home import Home, open_home
from blocks.ledger import Ledger, log, record
from flows.drive import ledger_of
from tasks.keep import move as moving
from tasks.keep.backup import FILES, MANIFEST, back_up
from tasks.keep.move import move
from tasks.keep.restore import restore
from tasks.publish.log.findings import Audit
from tasks.publish.log.own import append_to_log, log_verifier
from tasks.publish.log.sequence import sequence_all, signer_of
from tasks.publish.log.verify_events import verify_events
from tests.ledger_rows import new_key, open_made
from tests.postgres import Postgres
from tests.tasks.keep.conftest import live
from tests.tasks.publish.log.conftest import attack


@pytest.fixture
def logged(home: Home, ledger: Ledger) -> Ledger:
    """The ledger of `home`, whose events have their leaves, and whose last checkpoint was seen by a check."""
    append_to_log(home, ledger)
    assert checked(home, ledger).good
    return ledger


def checked(home: Home, ledger: Ledger) -> Audit:
    key = log_verifier(home, ledger)
    assert key is not None
    return verify_events(ledger, key, remembered=home.last_checkpoint)


def checkpoint(ledger: Ledger) -> log.Signed:
    with ledger.read() as connection:
        newest = log.latest_checkpoint(connection)
    assert newest is not None
    return newest


def one_more(ledger: Ledger) -> None:
    with ledger.write() as connection:
        record(connection, "run.opened", run="r-more")


@pytest.mark.parametrize("keys", [True, False], ids=["with keys", "without"])
def test_a_restored_ledger_passes_verify_and_its_log_goes_on(
    home: Home, logged: Ledger, tmp_path: Path, keys: bool
) -> None:
    back_up(home, logged, tmp_path / "backup", keys=keys)
    restore(Home(tmp_path / "new"), tmp_path / "backup")

    new = open_home(tmp_path / "new")
    restored = ledger_of(new)
    audit = checked(new, restored)
    assert audit.good
    assert "truncation not excluded" in audit.assurance, "who has not checked it before remembers nothing"
    assert checkpoint(restored) == checkpoint(logged)
    one_more(restored)
    if keys:
        assert append_to_log(new, restored) == 1
        assert checked(new, restored).size == audit.size + 1
    restored.close()


def test_a_memory_that_an_older_backup_holds_is_not_restored(home: Home, logged: Ledger, tmp_path: Path) -> None:
    backup = tmp_path / "backup"
    back_up(home, logged, backup)
    assert not (backup / "last-checkpoint").exists()
    (backup / "last-checkpoint").write_bytes(home.last_checkpoint.read_bytes())
    digest = digest_file(backup / "last-checkpoint").removeprefix("sha256:")
    lines = (backup / FILES).read_text() + f"{digest}  last-checkpoint\n"
    (backup / FILES).write_text(lines)
    manifest = json.loads((backup / MANIFEST).read_text())
    manifest |= {"files": manifest["files"] + 1, "files_digest": hashlib.sha256(lines.encode()).hexdigest()}
    (backup / MANIFEST).write_text(json.dumps(manifest))

    new = Home(tmp_path / "new")
    restore(new, backup)
    assert not new.last_checkpoint.exists()
    restored = ledger_of(new)
    assert "truncation not excluded" in checked(new, restored).assurance
    restored.close()


def test_a_log_without_its_key_waits_for_it(home: Home, logged: Ledger) -> None:
    before, verifier = checkpoint(logged), log_verifier(home, logged)
    key = home.log_key.read_bytes()
    home.log_key.unlink()
    one_more(logged)

    with pytest.raises(LedgerError, match=r"log\.key"):
        append_to_log(home, logged)
    assert not home.log_key.exists()
    assert checkpoint(logged) == before

    home.log_key.write_bytes(key)
    assert append_to_log(home, logged) == 1
    assert log_verifier(home, logged) == verifier


def test_a_second_key_does_not_sign_a_log(home: Home, logged: Ledger) -> None:
    before = checkpoint(logged)
    one_more(logged)
    with pytest.raises(TrustError, match="another key"):
        sequence_all(logged, signer_of(logged, new_key()))
    assert checkpoint(logged) == before


@pytest.fixture
def old(tmp_path: Path) -> Home:
    """A SQLite ledger that has lived and whose log was checked."""
    ledger = open_made(tmp_path / "old")
    live(ledger)
    home = open_home(tmp_path / "old")
    append_to_log(home, ledger)
    assert checked(home, ledger).good
    ledger.close()
    return home


def test_a_moved_ledger_has_the_same_root_and_checkpoint(old: Home, postgres: Postgres) -> None:
    before = ledger_of(old)
    newest = checkpoint(before)
    before.close()

    moved = move(old, postgres.new_database())

    assert (moved.log.size, moved.log.root) == (newest.size, newest.root)
    after = ledger_of(old)
    assert after.engine.dialect.name == "postgresql"
    assert checkpoint(after) == newest
    one_more(after)
    assert append_to_log(old, after) == 1
    audit = checked(old, after)
    assert (audit.good, audit.size, audit.waiting) == (True, newest.size + 1, 0)
    after.close()


def test_a_ledger_that_is_not_what_was_logged_is_not_moved(old: Home, postgres: Postgres) -> None:
    ledger = ledger_of(old)
    attack(ledger, "UPDATE events SET body = replace(body, 'r-0', 'r-9') WHERE seq = 3")
    ledger.close()

    with pytest.raises(LedgerError, match="event 3"):
        move(old, postgres.new_database())

    assert not old.ledger_url.exists()
    still = ledger_of(old)
    one_more(still)
    still.close()


def test_what_goes_wrong_in_the_new_database_is_found_by_the_log(
    old: Home, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind the comparison of rows, as somebody who reaches that database could."""
    real = moving.note

    def behind(connection: object, key: str, value: str) -> None:
        if key == "arriving":
            connection.exec_driver_sql("ALTER TABLE events DISABLE TRIGGER ALL")  # type: ignore[attr-defined]
            connection.exec_driver_sql("UPDATE events SET kind = 'x' WHERE seq = 3")  # type: ignore[attr-defined]
        real(connection, key, value)  # type: ignore[arg-type]

    monkeypatch.setattr(moving, "note", behind)
    url = postgres.new_database()
    with pytest.raises(LedgerError, match="event 3"):
        move(old, url)
    monkeypatch.undo()

    move(old, url)
