"""Keys and envelopes: what is signed is exactly what is read, by exactly the key that was named."""

from __future__ import annotations

import base64
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st

from blocks.errors import TrustError
from blocks.signing import (
    BUNDLE_TYPE,
    STATEMENT_TYPE,
    Key,
    key_id,
    load_or_make_key,
    pre_authentication,
    sign,
    verify,
    verify_json,
)

SHARED = Ed25519PrivateKey.generate()


@pytest.fixture
def key(tmp_path: Path) -> Key:
    return load_or_make_key(tmp_path / "keys" / "one")


def test_a_key_is_made_once_and_readable_by_nobody_else(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "one"
    first = load_or_make_key(path)
    assert load_or_make_key(path).public == first.public
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == ["one"]
    assert first.id == key_id(first.public)
    assert load_or_make_key(tmp_path / "keys" / "two").id != first.id


@pytest.mark.parametrize("content", [b"", b"short", b"x" * 33])
def test_a_file_that_is_no_key_is_told_in_words(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "k").write_bytes(content)
    with pytest.raises(TrustError, match="no ed25519 key"):
        load_or_make_key(tmp_path / "k")


def test_a_key_that_cannot_be_read_is_told_in_words(tmp_path: Path) -> None:
    (tmp_path / "k").mkdir()
    with pytest.raises(TrustError, match="cannot be used"):
        load_or_make_key(tmp_path / "k")


def test_processes_that_start_at_once_agree_on_one_key(tmp_path: Path) -> None:
    code = "import sys; from pathlib import Path; from blocks.signing import load_or_make_key as k\n"
    code += "print(k(Path(sys.argv[1])).id)"
    argv = [sys.executable, "-c", code, str(tmp_path / "keys" / "one")]
    root = Path(__file__).parents[2]
    starting = [subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, cwd=root) for _ in range(4)]
    assert {process.communicate()[0].strip() for process in starting} == {load_or_make_key(Path(argv[-1])).id}


def test_the_encoding_is_that_of_the_dsse_specification() -> None:
    # The example of https://github.com/secure-systems-lab/dsse/blob/master/protocol.md
    expected = b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    assert pre_authentication("http://example.com/HelloWorld", b"hello world") == expected


def test_an_envelope_can_be_checked_by_anybody_who_knows_dsse(key: Key) -> None:
    envelope = sign(key, BUNDLE_TYPE, b'{"a":1}')
    assert set(envelope) == {"payloadType", "payload", "signatures"}
    assert envelope["signatures"][0]["keyid"] == key.id
    signature = base64.b64decode(envelope["signatures"][0]["sig"])
    Ed25519PublicKey.from_public_bytes(key.public).verify(signature, pre_authentication(BUNDLE_TYPE, b'{"a":1}'))


@given(st.binary(max_size=200), st.integers(0, 199), st.integers(1, 255))
def test_a_payload_reads_back_and_no_byte_of_it_can_be_changed(payload: bytes, place: int, flip: int) -> None:
    key = Key(SHARED)
    envelope = sign(key, BUNDLE_TYPE, payload)
    assert verify(envelope, BUNDLE_TYPE, key.public) == payload
    if payload:
        changed = bytearray(payload)
        changed[place % len(payload)] ^= flip
        with pytest.raises(TrustError):
            verify({**envelope, "payload": base64.b64encode(changed).decode()}, BUNDLE_TYPE, key.public)


def test_another_type_or_another_key_does_not_fit(key: Key, tmp_path: Path) -> None:
    envelope = sign(key, BUNDLE_TYPE, b"{}")
    with pytest.raises(TrustError, match="was expected"):
        verify(envelope, STATEMENT_TYPE, key.public)
    with pytest.raises(TrustError, match="No signature of key"):
        verify({**envelope, "payloadType": STATEMENT_TYPE}, STATEMENT_TYPE, key.public)
    with pytest.raises(TrustError, match="No signature of key"):
        verify(envelope, BUNDLE_TYPE, load_or_make_key(tmp_path / "other").public)


def test_the_key_that_counts_is_ours_whatever_the_envelope_names(key: Key, tmp_path: Path) -> None:
    stranger = load_or_make_key(tmp_path / "stranger")
    envelope = sign(stranger, BUNDLE_TYPE, b"{}")
    envelope["signatures"][0]["keyid"] = key.id
    with pytest.raises(TrustError):
        verify(envelope, BUNDLE_TYPE, key.public)


def test_one_good_signature_among_several_is_enough(key: Key, tmp_path: Path) -> None:
    ours, theirs = sign(key, BUNDLE_TYPE, b"{}"), sign(load_or_make_key(tmp_path / "other"), BUNDLE_TYPE, b"{}")
    assert verify({**ours, "signatures": theirs["signatures"] + ours["signatures"]}, BUNDLE_TYPE, key.public) == b"{}"


@pytest.mark.parametrize(
    "envelope",
    [
        {},
        {"payload": "", "payloadType": BUNDLE_TYPE},
        {"payload": "***", "payloadType": BUNDLE_TYPE, "signatures": []},
        {"payload": "e30=", "payloadType": BUNDLE_TYPE, "signatures": [{}]},
        {"payload": "e30=", "payloadType": BUNDLE_TYPE, "signatures": None},
        {"payload": "e30=", "payloadType": BUNDLE_TYPE, "signatures": []},
        {"payload": 7, "payloadType": BUNDLE_TYPE, "signatures": [{"sig": "AA=="}]},
    ],
)
def test_what_is_no_envelope_is_refused(key: Key, envelope: dict[str, Any]) -> None:
    with pytest.raises(TrustError):
        verify(envelope, BUNDLE_TYPE, key.public)


def test_a_signed_payload_that_is_no_json_is_refused(key: Key) -> None:
    assert verify_json(sign(key, BUNDLE_TYPE, b'{"a": [1]}'), BUNDLE_TYPE, key.public) == {"a": [1]}
    with pytest.raises(TrustError, match="is no JSON"):
        verify_json(sign(key, BUNDLE_TYPE, b"{"), BUNDLE_TYPE, key.public)
