"""Signed notes: what other implementations signed is read here, byte for byte, and nothing else passes."""

from __future__ import annotations

import base64

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from blocks.errors import TrustError
from blocks.ledger.notes import (
    COSIGNATURE,
    ED25519,
    MOST_SIGNATURES,
    Checkpoint,
    Note,
    VerifierKey,
    check_note,
    cosigned,
    parse_checkpoint,
    parse_note,
    signed,
    verifier_key,
)
from blocks.signing import Key
from tests.ledger_rows import new_key

# golang.org/x/mod/sumdb/note, note_test.go.
GO_TEXT = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
GO_KEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
GO_PRIVATE = "AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz"
GO_LINE = "x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM="
# c2sp.org/signed-note, its test vector.
C2SP_KEY = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"
C2SP_NOTE = (
    "This is an example message.\n\n"
    "— example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n"
)
# A checkpoint of a public staging log of 2026-05, with signature types that are none of ours between those that are.
PUBLIC = """\
arche2025h1.staging.ct.transparency.dev
1432088532
U7WM79jrzyhGZ5/GUBTpM7NzwdyfFx61t3RovgcC4Ro=

— arche2025h1.staging.ct.transparency.dev zTM8sQAAAZ5W0WdjBAMARjBEAiBjW5IQf9pvsYLfQFX6hoGREPMHbdQ3urbllzalApkptQIgIpwtEroeW2BXaHAI4kJXFbon5Ch9MNL5zRNZ55lvGt0=
— arche2025h1.staging.ct.transparency.dev ui8GwCF1+kWqZrxGdhj4aX3gcw7XUlXQQabg/27lefwhUkzbC3NygNI75MdhL1bfTW9g8Ei59RA23oHP7Ry1k3ZFWwQ=
— transparency.dev/DEV:witness-little-garden 2AQqhwAAAABqEiEgzgFIqqhbUoDwjMWE6UP8nd8/KYTzwZ2rhIgcqoXHAwVkjZr4AscylP3v7sEodkRAErumC2q44vdgJY096st5BQ==
— witness1.smartit.nu/witness1 pIyCDwAAAABqEiEghIp82KWebrw7/oHQwlTAm3g2RKS4+eebl8eO0WH+/iEcxZ75W3u5hNI7TOQtmJbqmNWVuE0tgh0XwzdZsDsUAQ==
— remora.n621.de 2net5wAAAABqEiEgPlfF3V06o0Y+fHM+J5J9s27wgxxcOVSpZ/2g/KSiXCg9DEZI+aVCIobWX9sXTynk5XeU/zZ0WBxtqB0DrAWfBw==
— witness.stagemole.eu Z/euoAAAAABqEiEgw0i+7g2ENfDAWHmtRzCfKTHSDwYDJA2NmKeGi9Y8FtEyOUvVr+AJmIY/2TUFucgKi7lI7cUiOvKFYe/TmN9DAg==
"""  # noqa: E501
PUBLIC_LOG = "arche2025h1.staging.ct.transparency.dev+ba2f06c0+AU0vHmlGCS/PdN8b2OaGmKprLI8HKM+dJ472xgFYh15f"
PUBLIC_WITNESSES = (
    "remora.n621.de+da77ade7+BOvN63jn/bLvkieywe8R6UYAtVtNbZpXh34x7onlmtw2",
    "witness.stagemole.eu+67f7aea0+BEqSG3yu9YrmcM3BHvQYTxwFj3uSWakQepafafpUqklv",
    "transparency.dev/DEV:witness-little-garden+d8042a87+BCtusOxINQNUTN5Oj8HObRkh2yHf/MwYaGX4CPdiVEPM",
    "witness1.smartit.nu/witness1+a48c820f+BPSFWg9G6KPiO7QPryYO5Xq4oYJJ+kAvLKLSimDhoxMO",
)


def test_a_note_signed_by_go_verifies_and_ours_is_the_same_to_the_byte() -> None:
    note = f"{GO_TEXT}\n— PeterNeumann {GO_LINE}\n"
    key = verifier_key(GO_KEY)
    assert check_note(parse_note(note.encode()), [key]) == {key: None}
    private = Key(Ed25519PrivateKey.from_private_bytes(base64.b64decode(GO_PRIVATE)[1:]))
    assert str(signed(GO_TEXT, "PeterNeumann", private)) == note
    assert str(VerifierKey("PeterNeumann", ED25519, private.public)) == GO_KEY


def test_the_vector_of_the_specification_verifies() -> None:
    key = verifier_key(C2SP_KEY)
    assert key.public.hex() == "e932791ae6e7a840a46164c904786426d5e7821dd8b29a00d61cae72afdd4da4"
    assert check_note(parse_note(C2SP_NOTE.encode()), [key]) == {key: None}


def test_a_public_checkpoint_verifies_with_its_log_and_its_witnesses() -> None:
    note = parse_note(PUBLIC.encode())
    keys = [verifier_key(text) for text in (PUBLIC_LOG, *PUBLIC_WITNESSES)]
    assert check_note(note, keys) == {keys[0]: None, **dict.fromkeys(keys[1:], 0x6A122120)}
    assert parse_checkpoint(note.text).size == 1432088532
    assert str(parse_checkpoint(note.text)) == note.text
    assert str(note) == PUBLIC


@pytest.mark.parametrize("key", [PUBLIC_LOG, *PUBLIC_WITNESSES])
def test_a_signature_that_is_asked_for_and_wrong_is_never_outvoted(key: str) -> None:
    note = parse_note(PUBLIC.replace("1432088532", "1432088531").encode())
    with pytest.raises(TrustError):
        check_note(note, [verifier_key(key)])


def test_signatures_of_keys_that_nobody_asked_for_are_ignored() -> None:
    stranger = VerifierKey("remora.n621.de", COSIGNATURE, new_key().public)
    assert check_note(parse_note(PUBLIC.encode()), [stranger]) == {}


def test_a_witness_signs_the_time_with_the_text() -> None:
    log, witness = new_key(), new_key()
    key = VerifierKey("w.example/1", COSIGNATURE, witness.public)
    note = cosigned(
        signed("log.example\n1\n" + "A" * 43 + "=\n", "log.example", log), "w.example/1", witness, 1_790_000_000
    )
    assert check_note(parse_note(str(note).encode()), [key]) == {key: 1_790_000_000}
    line = note.signatures[1]
    later = (1_790_000_001).to_bytes(8, "big") + line.data[8:]
    moved = Note(note.text, (note.signatures[0], type(line)(line.name, line.key, later)))
    with pytest.raises(TrustError):
        check_note(moved, [key])


def test_the_key_of_a_log_and_of_a_witness_differ_even_where_they_are_the_same() -> None:
    both = new_key()
    as_log, as_witness = (VerifierKey("x", kind, both.public) for kind in (ED25519, COSIGNATURE))
    assert as_log.id != as_witness.id
    assert check_note(signed("text\n", "x", both), [as_witness]) == {}


@pytest.mark.parametrize(
    "text",
    ["", "name", "name+00000000", GO_KEY.replace("c74f20a3", "c74f20a4"), GO_KEY[:-4], GO_KEY.replace("ARpc", "Axpc"),
     GO_KEY.replace("Peter", "Paula"), " +c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"],
)  # fmt: skip
def test_what_is_no_key_is_refused(text: str) -> None:
    with pytest.raises(TrustError):
        verifier_key(text)


@pytest.mark.parametrize(
    "note",
    [
        "", "text\n", "text\n\n", "text\n\n— a AAAAAAA=", "text\n\nno signature\n", "text\n\n- a AAAAAAA=\n",
        "text\n\n—  AAAAAAA=\n", "text\n\n— a+b AAAAAAA=\n", "text\n\n— a AAAA\n", "text\n\n— a !!!!\n",
        "te\txt\n\n— a AAAAAAA=\n", "text\r\n\n— a AAAAAAA=\n", "text\n\n— a AAAAAAB=\n",
        "text\n\n" + "— a AAAAAAA=\n" * (MOST_SIGNATURES + 1),
    ],
)  # fmt: skip
def test_what_is_no_note_is_refused(note: str) -> None:
    with pytest.raises(TrustError):
        parse_note(note.encode())


def test_a_note_may_have_many_signatures_and_empty_lines() -> None:
    note = parse_note(("a\n\n\nb\n\n" + "— a AAAAAAA=\n" * 16).encode())
    assert note.text == "a\n\n\nb\n"
    assert len(note.signatures) == 16


@pytest.mark.parametrize(
    "text",
    ["o\n1\n", "o\n1\nAAAA\n", f"o\n01\n{'A' * 43}=\n", f"o\n-1\n{'A' * 43}=\n", f"\n1\n{'A' * 43}=\n",
     f"o\n١\n{'A' * 43}=\n", f"o\n1\n{'A' * 43}=", f"o\n1\n{'A' * 43}=\n\nx\n", f"o\n1\n{'A' * 42}B=\n",
     f"o\n{'9' * 30}\n{'A' * 43}=\n"],
)  # fmt: skip
def test_what_is_no_checkpoint_is_refused(text: str) -> None:
    with pytest.raises(TrustError):
        parse_checkpoint(text)


def test_further_lines_of_a_checkpoint_are_allowed_and_signed() -> None:
    checkpoint = parse_checkpoint(f"o\n0\n{'A' * 43}=\nextra\n")
    assert checkpoint == Checkpoint("o", 0, bytes(32))


@given(st.binary(max_size=200))
def test_any_bytes_are_a_note_or_a_trust_error(data: bytes) -> None:
    try:
        assert str(parse_note(data)).encode() == data
    except TrustError:
        pass


@given(st.text(max_size=100))
def test_any_text_is_a_checkpoint_or_a_trust_error(text: str) -> None:
    try:
        assert text.startswith(str(parse_checkpoint(text)))
    except TrustError:
        pass
