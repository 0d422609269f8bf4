"""The ledger against its log: whatever is changed behind the triggers' backs is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from blocks.canonical import canonical_json, digest_bytes
from blocks.errors import TrustError
from blocks.ledger import Ledger, log
from blocks.ledger.merkle import leaf_hash
from blocks.ledger.notes import Checkpoint, signed
from blocks.ledger.tiles import WIDTH
from tasks.publish.log.findings import LISTED, Audit
from tasks.publish.log.sequence import Signer, sequence, sequence_all, signer_of
from tasks.publish.log.verify_events import verify_events
from tests.ledger_rows import new_key
from tests.tasks.publish.log.conftest import LONG, Published, attack, event_ids, write_events

Check = Callable[..., Audit]
SQLITE = pytest.mark.parametrize("database_url", [None], ids=["sqlite"])
"""For what does not depend on the database."""


def kinds(audit: Audit) -> set[str]:
    return {finding.kind for finding in audit.findings}


def test_an_untouched_ledger_is_good_and_says_what_that_proves(logged: Ledger, check: Check, tmp_path: Path) -> None:
    first = check(remembered=tmp_path / "memory")
    assert first.good, first.findings
    assert first.size == 600
    assert "truncation not excluded" in first.assurance
    second = check(remembered=tmp_path / "memory")
    assert second.good
    assert second.assurance == "Consistent in itself up to 600 events; it continues the 600 seen before."


@SQLITE
def test_events_that_only_wait_are_counted_and_are_no_fault(logged: Ledger, check: Check) -> None:
    write_events(logged, 7)
    found = check()
    assert found.good
    assert found.waiting == 7


@pytest.mark.parametrize("change", ["id = 'sha256:00'", "kind = 'run.closed'", "body = replace(body, 'l-3', 'l-4')"])
def test_an_event_that_waits_is_checked_like_one_that_has_its_leaf(logged: Ledger, check: Check, change: str) -> None:
    write_events(logged, 7)
    attack(logged, f"UPDATE events SET {change} WHERE seq = (SELECT max(seq) - 3 FROM events)")
    found = check()
    assert [finding.kind for finding in found.findings] == ["changed_event"]
    assert found.findings[0].where.startswith("event 604 ")
    assert found.waiting == 7


@SQLITE
def test_an_empty_ledger_is_good(ledger: Ledger, check: Check) -> None:
    write_events(ledger, 2)
    found = check()
    assert (found.good, found.size, found.waiting) == (True, 0, 2)


@pytest.mark.parametrize("seq", [1, 256, 600])
def test_an_event_whose_content_was_changed_is_named(logged: Ledger, check: Check, seq: int) -> None:
    attack(logged, f"UPDATE events SET body = replace(body, 'lease.granted', 'lease.refused') WHERE seq = {seq}")
    found = check()
    assert kinds(found) == {"changed_entry"}
    assert [finding.where.split(" (")[0] for finding in found.findings] == [f"event {seq}"]


@SQLITE
def test_an_event_that_was_replaced_with_its_id_is_named(logged: Ledger, check: Check) -> None:
    content = canonical_json({"kind": "lease.granted", "run": "r-1", "at": 1.5, "body": {}, "nonce": "0"})
    attack(logged, f"UPDATE events SET id = '{digest_bytes(content)}', body = '{content.decode()}' WHERE seq = 5")
    found = check()
    assert kinds(found) == {"changed_entry"}
    assert "leaf 4" in found.findings[0].where


@SQLITE
@pytest.mark.parametrize("change", ["kind = 'run.closed'", "run = NULL", "at = at + 1", "id = 'sha256:00'"])
def test_a_column_that_says_something_else_than_the_content_is_named(logged: Ledger, check: Check, change: str) -> None:
    attack(logged, f"UPDATE events SET {change} WHERE seq = 42")
    found = check()
    assert kinds(found) == {"changed_event"}
    assert found.findings[0].where.startswith("event 42 ")


@SQLITE
def test_a_long_event_is_checked_like_any_other(ledger: Ledger, signer: Signer, check: Check) -> None:
    write_events(ledger, 2, note=LONG)
    sequence_all(ledger, signer)
    assert check().good
    attack(ledger, "UPDATE events SET body = replace(body, 'xxxxxxxxxx', 'xxxxxxxxxy') WHERE seq = 2")
    assert [finding.where.split(" (")[0] for finding in check().findings] == ["event 2"]


def test_an_event_that_is_gone_is_named(logged: Ledger, check: Check) -> None:
    attack(logged, "DELETE FROM events WHERE seq = 77")
    found = check()
    assert [(finding.kind, finding.where) for finding in found.findings] == [("missing_event", "leaf 76")]


def test_a_leaf_that_is_gone_is_named_and_so_is_its_event(logged: Ledger, check: Check) -> None:
    attack(logged, "DELETE FROM log_leaves WHERE leaf = 10")
    found = check()
    assert kinds(found) == {"missing_leaf", "never_sequenced"}
    assert any(finding.where.startswith("event 11 ") for finding in found.findings)


@SQLITE
def test_two_leaves_that_were_exchanged_are_named(logged: Ledger, check: Check) -> None:
    attack(
        logged,
        "UPDATE log_leaves SET seq = 100000 WHERE leaf = 3",
        "UPDATE log_leaves SET seq = 4 WHERE leaf = 4",
        "UPDATE log_leaves SET seq = 5 WHERE leaf = 3",
    )
    assert [finding.where.rsplit(", ")[-1] for finding in check().findings] == ["leaf 3", "leaf 4"]


@pytest.mark.parametrize("leaf", [256, 599])
def test_a_hash_that_was_changed_in_the_tree_is_named(logged: Ledger, check: Check, leaf: int) -> None:
    number, within = divmod(leaf, WIDTH)
    at = 32 * within + 1
    with logged.read() as connection:
        was = (log.stored_tile(connection, 0, number) or b"")[at - 1]
    other = f"{was ^ 1:02x}"
    byte = f"x'{other}'" if logged.engine.dialect.name == "sqlite" else f"decode('{other}', 'hex')"
    cut = f"substr(hashes, 1, {at - 1}) || {byte} || substr(hashes, {at + 1})"
    if logged.engine.dialect.name == "sqlite":
        cut = f"CAST({cut} AS BLOB)"
    attack(logged, f"UPDATE log_tiles SET hashes = {cut} WHERE level = 0 AND number = {number}")
    found = check()
    assert kinds(found) == {"changed_tile"}
    assert f"tile {number} of level 0" in str(found.findings[0])
    assert f"its hash {within} " in str(found.findings[0])


@SQLITE
def test_a_tail_that_was_removed_is_told_by_the_checkpoints(logged: Ledger, check: Check) -> None:
    attack(logged, "DELETE FROM log_leaves WHERE leaf >= 512", "UPDATE log_head SET size = 512")
    found = check()
    assert "removed_tail" in kinds(found)
    assert "the last 88 were removed" in str(found.findings[0])


def test_a_tail_that_was_removed_with_all_its_traces_is_told_by_what_is_remembered(
    logged: Ledger, check: Check, tmp_path: Path
) -> None:
    assert check(remembered=tmp_path / "memory").good
    attack(
        logged,
        "DELETE FROM events WHERE seq > 540",
        "DELETE FROM log_leaves WHERE leaf >= 540",
        "DELETE FROM log_checkpoints WHERE size > 540",
        "UPDATE log_tiles SET hashes = substr(hashes, 1, 896) WHERE level = 0 AND number = 2",
        "UPDATE log_head SET size = 540",
    )
    assert check().good, "in itself it is consistent: this is what truncation means"
    found = check(remembered=tmp_path / "memory")
    assert kinds(found) == {"removed_tail"}
    assert "the last 60 were removed" in str(found.findings[0])


@SQLITE
def test_a_log_that_was_rewritten_and_signed_again_is_told_by_what_is_remembered(
    logged: Ledger, signer: Signer, check: Check, tmp_path: Path
) -> None:
    assert check(remembered=tmp_path / "memory").good
    attack(
        logged,
        "UPDATE events SET body = replace(body, 'r-1', 'r-2'), run = 'r-2' WHERE seq = 9",
        *(f"DELETE FROM {table}" for table in ("log_leaves", "log_checkpoints", "log_tiles", "log_head")),
    )
    with logged.read() as connection:
        body = connection.exec_driver_sql("SELECT body FROM events WHERE seq = 9").scalar_one()
    attack(logged, f"UPDATE events SET id = '{digest_bytes(body.encode())}' WHERE seq = 9")
    sequence_all(logged, signer)
    assert check().good, "whoever holds the key can write any history: once"
    assert kinds(check(remembered=tmp_path / "memory")) == {"fork"}


@SQLITE
def test_an_event_that_was_slipped_in_behind_the_log_is_named(logged: Ledger, check: Check) -> None:
    attack(logged, "DELETE FROM events WHERE seq = 20", "UPDATE events SET seq = 20 WHERE seq = 21")
    found = check()
    assert "missing_event" in kinds(found)
    assert any("leaf 19" in finding.where for finding in found.findings)


@SQLITE
@pytest.mark.parametrize("change", ["size = 361", "note = replace(note, 'log.example', 'log.examplf')"])
def test_a_checkpoint_that_was_changed_is_named(logged: Ledger, check: Check, change: str) -> None:
    attack(logged, f"UPDATE log_checkpoints SET {change} WHERE size = 360")
    found = check()
    assert kinds(found) == {"bad_signature"}
    assert found.findings[0].where.startswith("checkpoint of 36")


@SQLITE
def test_a_log_signed_with_another_key_is_not_ours(logged: Ledger, signer: Signer) -> None:
    other = signer_of(logged, new_key())
    found = verify_events(logged, str(other.verifier))
    assert kinds(found) == {"bad_signature"}
    with pytest.raises(TrustError):
        verify_events(logged, "no key")


def keep_newest(ledger: Ledger, path: Path) -> None:
    """Keep the newest checkpoint somewhere else."""
    with ledger.read() as connection:
        newest = log.latest_checkpoint(connection)
    assert newest is not None
    path.write_text(newest.note)


@SQLITE
def test_a_key_that_was_brought_along_is_the_only_one_that_counts(
    logged: Ledger, signer: Signer, check: Check, tmp_path: Path
) -> None:
    keep_newest(logged, tmp_path / "kept")
    attack(logged, *(f"DELETE FROM {table}" for table in ("log_leaves", "log_checkpoints", "log_tiles", "log_head")))
    found = check(pinned=True)
    assert [(finding.kind, finding.where) for finding in found.findings] == [("missing", "log_checkpoints")]

    another = signer_of(logged, new_key())
    sequence_all(logged, another)
    assert verify_events(logged, str(another.verifier)).good, "a new log under a new key is consistent in itself"
    assert kinds(check(pinned=True)) == {"other_log", "bad_signature"}
    assert "fork" not in kinds(check(pinned=True, seen=[tmp_path / "kept"])), "what we did not sign proves nothing"


@SQLITE
def test_a_checkpoint_that_was_kept_elsewhere_is_continued_or_not(
    logged: Ledger, signer: Signer, check: Check, tmp_path: Path
) -> None:
    keep_newest(logged, tmp_path / "kept")
    write_events(logged, 5)
    sequence_all(logged, signer)
    found = check(seen=[tmp_path / "kept"])
    assert found.assurance == f"Consistent in itself up to 605 events; it continues the 600 of {tmp_path / 'kept'}."
    other = signed(str(Checkpoint("log.example/ci", 540, bytes(32))), "log.example/ci", signer.key)
    (tmp_path / "other").write_text(str(other))
    found = check(seen=[tmp_path / "kept", tmp_path / "other"])
    assert [(finding.kind, finding.where) for finding in found.findings] == [("fork", str(tmp_path / "other"))]


@SQLITE
def test_a_changed_event_with_its_hash_accuses_nobody_of_a_fork(logged: Ledger, check: Check, tmp_path: Path) -> None:
    assert check(remembered=tmp_path / "memory").good
    attack(logged, "UPDATE events SET body = replace(body, 'r-1', 'r-2'), run = 'r-2' WHERE seq = 590")
    with logged.read() as connection:
        body = connection.exec_driver_sql("SELECT body FROM events WHERE seq = 590").scalar_one()
        tile = log.stored_tile(connection, 0, 2) or b""
    at = (589 - 2 * WIDTH) * 32
    made = (tile[:at] + leaf_hash(body.encode()) + tile[at + 32 :]).hex()
    attack(
        logged,
        f"UPDATE events SET id = '{digest_bytes(body.encode())}' WHERE seq = 590",
        f"UPDATE log_tiles SET hashes = x'{made}' WHERE level = 0 AND number = 2",
    )
    found = check(remembered=tmp_path / "memory")
    assert [(finding.kind, finding.where) for finding in found.findings] == [("wrong_root", "checkpoint of 600 leaves")]


@SQLITE
def test_a_log_that_was_rewritten_whole_is_told_in_few_words(logged: Ledger, check: Check) -> None:
    attack(logged, "UPDATE events SET body = replace(body, 'r-1', 'r-2')")
    found = check()
    assert found.count >= 600
    assert len(found.findings) == LISTED


@SQLITE
def test_what_was_remembered_is_kept_when_something_is_wrong(
    logged: Ledger, signer: Signer, check: Check, tmp_path: Path
) -> None:
    memory = tmp_path / "memory"
    assert check(remembered=memory).good
    before = memory.read_bytes()
    write_events(logged, 3)
    sequence(logged, signer)
    attack(logged, "DELETE FROM events WHERE seq = 1")
    assert not check(remembered=memory).good
    assert memory.read_bytes() == before


@SQLITE
def test_contents_are_what_ids_are_made_of(logged: Ledger) -> None:
    with logged.read() as connection:
        for identity, body in connection.exec_driver_sql("SELECT id, body FROM events WHERE seq < 5"):
            assert identity == digest_bytes(canonical_json(json.loads(body)))
    assert len(set(event_ids(logged))) == 600


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE events SET body = CAST(x'ff' || CAST(body AS BLOB) AS TEXT) WHERE seq = 8",
        "UPDATE events SET body = CAST(body AS BLOB) || x'00' WHERE seq = 8",
        "UPDATE events SET body = 5 WHERE seq = 8",
        "UPDATE events SET kind = CAST(x'ff' AS TEXT) WHERE seq = 8",
        "UPDATE events SET at = 'never' WHERE seq = 8",
        "UPDATE log_tiles SET hashes = CAST(hashes AS TEXT) || 'x' WHERE level = 0 AND number = 2",
        "UPDATE log_tiles SET hashes = 17 WHERE level = 1",
        "UPDATE log_checkpoints SET root = root || root WHERE size = 180",
        "UPDATE log_checkpoints SET note = CAST(x'fe' AS TEXT) WHERE size = 180",
    ],
)
def test_values_that_no_column_should_hold_are_named_like_any_change(published: Published, statement: str) -> None:
    attack(published.ledger, statement)
    found = verify_events(published.ledger, published.key)
    assert found.count, "the change was not found"
    assert found.count <= 2, found.findings
