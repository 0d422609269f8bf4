"""The sequencer: each event gets one leaf, in order, whoever sequences and whatever is written meanwhile."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from sqlalchemy import insert, select, text
from sqlalchemy.exc import DBAPIError

from blocks.errors import LedgerError, StaleSequencer, TrustError
from blocks.ledger import Ledger, log, record
from blocks.ledger.entries import entry_of
from blocks.ledger.log_schema import log_checkpoints, log_leaves
from blocks.ledger.merkle import leaf_hash, root, verify_consistency, verify_inclusion
from blocks.ledger.notes import check_note, parse_checkpoint, parse_note
from blocks.ledger.schema import events
from tasks.publish.log.findings import Audit
from tasks.publish.log.sequence import Signer, sequence, sequence_all, signer_of
from tests.ledger_rows import new_key, open_made
from tests.postgres import Postgres
from tests.tasks.publish.log.conftest import LONG, attack, event_ids, leaf_order, slip_in, write_events


def test_every_event_gets_one_leaf_in_the_order_of_events(ledger: Ledger, signer: Signer) -> None:
    ids = write_events(ledger, 25)
    assert sequence(ledger, signer, batch=10) == 10
    ids += write_events(ledger, 5, first=25)
    assert sequence_all(ledger, signer, batch=10) == 20
    assert sequence(ledger, signer) == 0
    assert leaf_order(ledger) == ids


def test_the_checkpoint_signs_the_root_over_the_events_themselves(ledger: Ledger, signer: Signer) -> None:
    write_events(ledger, 300)
    write_events(ledger, 1, note=LONG)
    sequence_all(ledger, signer)
    with ledger.read() as connection:
        bodies = connection.scalars(select(events.c.body).order_by(events.c.seq)).all()
        newest = log.latest_checkpoint(connection)
    assert newest is not None
    note = parse_note(newest.note.encode())
    assert signer.verifier in check_note(note, [signer.verifier])
    checkpoint = parse_checkpoint(note.text)
    assert (checkpoint.origin, checkpoint.size) == ("log.example/ci", 301)
    assert checkpoint.root == newest.root == root([leaf_hash(entry_of(body.encode())) for body in bodies])


def test_every_proof_verifies_against_the_checkpoints(logged: Ledger) -> None:
    ids = event_ids(logged)
    with logged.read() as connection:
        roots = {row.size: row.root for row in connection.execute(select(log_checkpoints))}
        for size in (90, 540, 600):
            for index in range(0, size, 41):
                proven = log.prove_event(connection, ids[index], size)
                assert proven.index == index
                assert verify_inclusion(proven.leaf, index, size, proven.proof, roots[size])
        for first in roots:
            proof = log.prove_consistency(connection, first, 600)
            assert verify_consistency(first, 600, proof, roots[first], roots[600])
        with pytest.raises(LedgerError):
            log.prove_event(connection, ids[95], 90)


def test_of_two_sequencers_the_slower_one_is_refused_and_appends_nothing(
    ledger: Ledger, signer: Signer, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = log.waiting
    for already in (0, 10):  # the first leaves of all, and later ones
        write_events(ledger, 10)
        faster = True

        def overtaken(*arguments: object) -> list[log.Waiting]:
            nonlocal faster
            found = looked(*arguments)  # type: ignore[arg-type]
            if faster:
                faster = False
                sequence(ledger, signer, batch=4)
            return found

        with monkeypatch.context() as patched:
            patched.setattr(log, "waiting", overtaken)
            with pytest.raises(StaleSequencer):
                sequence(ledger, signer)
        assert len(leaf_order(ledger)) == already + 4
        sequence_all(ledger, signer)
    assert leaf_order(ledger) == event_ids(ledger)


def test_an_event_of_a_transaction_that_commits_late_gets_its_leaf(postgres: Postgres, tmp_path: object) -> None:
    ledger = open_made(tmp_path, postgres.new_database())  # type: ignore[arg-type]
    signer = signer_of(ledger, new_key())
    with ledger.engine.connect() as slow, ledger.engine.connect() as failing:
        slow.begin(), failing.begin()  # said outright, for `record` goes past SQLAlchemy
        slow_id, _ = record(slow, "slow.one", run=None), record(failing, "failing.one", run=None)
        for number in range(5):
            write_events(ledger, 7, first=7 * number)
            sequence_all(ledger, signer, batch=3)
        slow.commit()
        failing.rollback()
    assert len(leaf_order(ledger)) == 35
    assert sequence_all(ledger, signer, batch=3) == 1
    assert leaf_order(ledger)[-1] == slow_id
    for _ in range(3):  # what was rolled back is no longer waited for
        write_events(ledger, 7)
        sequence_all(ledger, signer)
    with ledger.read() as connection:
        head = log.head_of(connection)
        assert head is not None
        assert head.floor > 35
    assert sorted(leaf_order(ledger)) == sorted(event_ids(ledger))
    ledger.close()


def test_the_search_for_events_without_a_leaf_stays_short(ledger: Ledger, signer: Signer) -> None:
    for number in range(4):
        write_events(ledger, 50, first=50 * number)
        sequence_all(ledger, signer, batch=25)
    with ledger.read() as connection:
        head = log.head_of(connection)
    assert head is not None
    assert head.floor >= 150


@pytest.mark.parametrize("batch", [3, 5, 1000])
@pytest.mark.parametrize("note", ["", LONG], ids=["short", "long"])
def test_an_event_that_is_not_what_its_id_says_is_never_signed_and_the_log_stops_before_it(
    ledger: Ledger, signer: Signer, check: Callable[..., Audit], batch: int, note: str
) -> None:
    before = write_events(ledger, 5)
    slip_in(ledger, note=note)
    after = write_events(ledger, 5, first=5)
    for _ in range(2):
        with pytest.raises(TrustError, match=r"Event 6 .* is not what its id says") as told:
            sequence_all(ledger, signer, batch)
        assert "verify" in told.value.do
        assert leaf_order(ledger) == before
    attack(ledger, "DELETE FROM events WHERE seq = 6")  # as its owner takes it out
    assert sequence_all(ledger, signer, batch) == 5
    assert leaf_order(ledger) == before + after
    assert check().good


@pytest.mark.parametrize("database_url", [None], ids=["sqlite"])
def test_an_event_that_is_not_signed_is_not_passed_over_either(ledger: Ledger, signer: Signer) -> None:
    write_events(ledger, 2)
    attack(ledger, "UPDATE events SET seq = 100 WHERE seq = 2")
    sequence_all(ledger, signer)
    write_events(ledger, 1, first=2)
    slip_in(ledger)
    attack(ledger, "UPDATE events SET seq = seq - 60 WHERE seq > 100")  # as of a transaction that commits late
    for _ in range(2):
        with pytest.raises(TrustError, match="Event 42 "):
            sequence_all(ledger, signer)


def test_a_clock_that_was_set_back_changes_no_order(
    ledger: Ledger, signer: Signer, check: Callable[..., Audit]
) -> None:
    with ledger.write() as connection:
        ids = [record(connection, "plan.written", at=at) for at in (1_790_000_000.0, 1_700_000_000.5, 3.25)]
    sequence_all(ledger, signer)
    assert leaf_order(ledger) == ids
    assert check().good


def test_the_log_cannot_be_changed_with_sql(logged: Ledger) -> None:
    for statement in (
        "UPDATE log_leaves SET seq = seq + 1000 WHERE leaf = 3",
        "DELETE FROM log_leaves WHERE leaf = 599",
        "UPDATE log_checkpoints SET note = 'x'",
        "DELETE FROM log_checkpoints",
        "UPDATE log_head SET size = 10",
        "UPDATE log_head SET origin = 'other', size = 601",
        "DELETE FROM log_head",
        "DELETE FROM log_tiles",
        "UPDATE log_tiles SET hashes = substr(hashes, 1, 64) WHERE level = 0 AND number = 2",
        "UPDATE log_tiles SET number = 7 WHERE number = 2",
    ):
        with pytest.raises(DBAPIError, match="only grows"), logged.write() as connection:
            connection.execute(text(statement))


def test_a_tree_that_was_changed_is_never_signed_again(logged: Ledger, signer: Signer) -> None:
    zeros = "zeroblob(2816)" if logged.engine.dialect.name == "sqlite" else "decode(repeat('00', 2816), 'hex')"
    attack(logged, f"UPDATE log_tiles SET hashes = {zeros} WHERE level = 0 AND number = 2")
    write_events(logged, 1)
    with pytest.raises(TrustError, match="signed last"):
        sequence(logged, signer)


def test_two_leaves_for_one_event_are_impossible(logged: Ledger) -> None:
    with pytest.raises(DBAPIError), logged.write() as connection:
        connection.execute(insert(log_leaves).values(leaf=600, seq=1))


def test_a_log_keeps_its_name(logged: Ledger) -> None:
    assert signer_of(logged, new_key()).name == "log.example/ci"
    with pytest.raises(LedgerError, match="called"):
        signer_of(logged, new_key(), "log.example/other")


def test_a_log_without_a_name_is_named_after_its_key(ledger: Ledger) -> None:
    key = new_key()
    assert signer_of(ledger, key).name == f"commonfleet/{key.id[7:23]}"
