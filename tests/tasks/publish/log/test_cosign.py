"""Witnesses: what they co-sign is kept, published and checked, and what they remember cannot be undone."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from sqlalchemy import select

from blocks.errors import TrustError
from blocks.ledger.log_schema import log_cosignatures
from blocks.ledger.notes import COSIGNATURE, Note, VerifierKey, cosigned, parse_note, signed
from blocks.signing import Key
from tasks.publish.log.cosign import accept_cosignature, witness
from tasks.publish.log.export import export_log
from tasks.publish.log.findings import Audit
from tasks.publish.log.verify_events import verify_events
from tests.ledger_rows import new_key
from tests.tasks.publish.log.conftest import Published, attack

NAME = "vendor.example/witness"
AT = 1_790_000_000


class Witness:
    """A party with a key and a memory."""

    def __init__(self, folder: Path) -> None:
        self.own: Key = new_key()
        self.memory = folder / "witness-memory"

    @property
    def key(self) -> str:
        return str(VerifierKey(NAME, COSIGNATURE, self.own.public))

    def look(self, published: Published, at: int = AT) -> Note:
        return witness(published.folder, published.key, remembered=self.memory, name=NAME, own=self.own, at=at)


@pytest.fixture
def party(tmp_path: Path) -> Witness:
    return Witness(tmp_path)


def test_a_co_signature_is_kept_published_and_vouches(published: Published, party: Witness) -> None:
    assert accept_cosignature(published.ledger, str(party.look(published)).encode(), [party.key]) == 1
    export_log(published.ledger, published.folder)
    found = published.verify(witnesses=[party.key])
    assert found.good, found.findings
    assert found.assurance == (
        "Consistent in itself up to 600 events; "
        "vendor.example/witness had seen nothing longer than its first 600 at 2026-09-21 14:13:20+00:00."
    )


def test_a_co_signature_stays_published_while_the_log_grows(published: Published, party: Witness) -> None:
    accept_cosignature(published.ledger, str(party.look(published)).encode(), [party.key])
    published.grow(50)
    found = published.verify(witnesses=[party.key])
    assert found.good, found.findings
    assert found.size == 650
    assert "its first 600" in found.assurance


def test_a_co_signature_that_the_ledger_holds_vouches_from_the_inside(published: Published, party: Witness) -> None:
    def found() -> Audit:
        return verify_events(published.ledger, published.key, witnesses=[party.key])

    assert [finding.kind for finding in found().findings] == ["no_witness"]
    accept_cosignature(published.ledger, str(party.look(published)).encode(), [party.key])
    published.grow(50)
    assert found().good, found().findings
    assert f"{NAME} had seen nothing longer than its first 600 at" in found().assurance

    later = cosigned(parse_note((published.folder / "checkpoint").read_bytes()), NAME, party.own, AT + 9)
    line = str(later.signatures[-1])  # a co-signature of another checkpoint, put to this one
    attack(published.ledger, f"UPDATE log_cosignatures SET line = '{line}'")
    assert "bad_signature" in {finding.kind for finding in found().findings}


def test_a_witness_that_could_not_remember_does_not_sign(published: Published, party: Witness, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    party.memory = tmp_path / "file" / "memory"
    with pytest.raises(TrustError, match="cannot be written"):
        party.look(published)


def test_a_witness_that_nobody_heard_of_is_missed(published: Published, party: Witness) -> None:
    found = published.verify(witnesses=[party.key])
    assert [finding.kind for finding in found.findings] == ["no_witness"]
    assert NAME in str(found.findings[0])


def test_a_removed_tail_is_told_by_what_a_witness_signed(published: Published, party: Witness, tmp_path: Path) -> None:
    before = tmp_path / "before"
    shutil.copytree(published.folder, before)
    published.grow(20)
    (tmp_path / "from-witness").write_text(str(party.look(published)))
    shutil.rmtree(published.folder)
    shutil.copytree(before, published.folder)
    found = published.verify(witnesses=[party.key], seen=[tmp_path / "from-witness"])
    assert [finding.kind for finding in found.findings] == ["removed_tail"]
    assert "the last 20 were removed" in str(found.findings[0])


def test_a_witness_signs_nothing_that_does_not_continue_what_it_saw(
    published: Published, party: Witness, tmp_path: Path
) -> None:
    before = tmp_path / "before"
    shutil.copytree(published.folder, before)
    published.grow(20)
    party.look(published)
    shutil.rmtree(published.folder)
    shutil.copytree(before, published.folder)
    with pytest.raises(TrustError, match="removed"):
        party.look(published)


def test_a_wrong_co_signature_is_named_and_never_kept(published: Published, party: Witness) -> None:
    note = party.look(published)
    good = note.signatures[1]
    wrong = Note(
        note.text, (note.signatures[0], type(good)(good.name, good.key, good.data[:-1] + bytes([good.data[-1] ^ 1])))
    )
    with pytest.raises(TrustError, match="does not fit"):
        accept_cosignature(published.ledger, str(wrong).encode(), [party.key])
    (published.folder / "checkpoint").write_text(str(wrong))
    found = published.verify(witnesses=[party.key])
    assert "bad_signature" in {finding.kind for finding in found.findings}


def test_only_our_own_checkpoints_and_known_witnesses_are_kept(published: Published, party: Witness) -> None:
    note = party.look(published)
    assert accept_cosignature(published.ledger, str(note).encode(), []) == 0
    assert accept_cosignature(published.ledger, str(note).encode(), [party.key]) == 1
    assert accept_cosignature(published.ledger, str(note).encode(), [party.key]) == 0
    foreign = signed(note.text.replace("\n600\n", "\n601\n"), published.signer.name, published.signer.key)
    with pytest.raises(TrustError, match="no checkpoint that this log has signed"):
        accept_cosignature(published.ledger, str(cosigned(foreign, NAME, party.own, AT)).encode(), [party.key])
    with published.ledger.read() as connection:
        assert len(connection.execute(select(log_cosignatures)).all()) == 1


def test_a_published_co_signature_is_read_by_any_reader_of_notes(published: Published, party: Witness) -> None:
    accept_cosignature(published.ledger, str(party.look(published)).encode(), [party.key])
    export_log(published.ledger, published.folder)
    note = parse_note((published.folder / "checkpoint").read_bytes())
    assert [signature.name for signature in note.signatures] == ["log.example/ci", NAME]
