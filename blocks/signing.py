"""ed25519 keys and DSSE envelopes.

DSSE (Dead Simple Signing Envelope, https://github.com/secure-systems-lab/dsse/blob/master/protocol.md, read
2026-11): the signature covers the pre-authentication encoding of type and payload, so a payload cannot be passed
off as another type.
"""

from __future__ import annotations

import base64
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from blocks.canonical import digest_bytes
from blocks.errors import TrustError

BUNDLE_TYPE = "application/vnd.commonfleet.bundle+json"
STATEMENT_TYPE = "application/vnd.in-toto+json"


@dataclass(frozen=True)
class Key:
    """A signing key. `id` is the digest of the public half, so it names the key without revealing anything."""

    private: Ed25519PrivateKey

    @property
    def public(self) -> bytes:
        return self.private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)

    @property
    def id(self) -> str:
        return key_id(self.public)


def key_id(public: bytes) -> str:
    """The id of a public key: its SHA-256."""
    return digest_bytes(public)


def load_or_make_key(path: Path) -> Key:
    """The key at `path`, made there (mode 0600) when there is none. Raises TrustError for a file that is no key."""
    if path.exists():
        return _read_key(path)
    private = Ed25519PrivateKey.generate()
    raw = private.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    # Written aside and linked into place: of two processes that start at once, one key wins and both use it.
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(raw)
        os.fsync(file.fileno())
    try:
        os.link(temporary, path)
    except FileExistsError:
        pass  # the other process was first: its key is the key
    finally:
        temporary.unlink()
    return _read_key(path)


def _read_key(path: Path) -> Key:
    try:
        return Key(Ed25519PrivateKey.from_private_bytes(path.read_bytes()))
    except (OSError, ValueError) as error:
        said = error.strerror if isinstance(error, OSError) else "it is no ed25519 key of 32 bytes"
        raise TrustError(
            f"The key {path} cannot be used: {said}.",
            kept="Nothing was changed.",
            do="Put it back from a backup, or make it readable for the user who calls this.",
        ) from error


def sign(key: Key, payload_type: str, payload: bytes) -> dict[str, Any]:
    """A DSSE envelope around `payload`."""
    signature = key.private.sign(pre_authentication(payload_type, payload))
    return {
        "payloadType": payload_type,
        "payload": base64.b64encode(payload).decode(),
        "signatures": [{"keyid": key.id, "sig": base64.b64encode(signature).decode()}],
    }


def verify(envelope: dict[str, Any], payload_type: str, public: bytes) -> bytes:
    """The payload of an envelope signed with `public`. Raises TrustError for anything else."""
    try:
        payload = base64.b64decode(envelope["payload"], validate=True)
        signatures = [base64.b64decode(s["sig"], validate=True) for s in envelope["signatures"]]
        stated = envelope["payloadType"]
    except (KeyError, TypeError, ValueError) as error:
        raise TrustError("This is no DSSE envelope.") from error
    if stated != payload_type:
        raise TrustError(f"The envelope holds {stated!r} where {payload_type!r} was expected.")
    message = pre_authentication(payload_type, payload)
    verifier = Ed25519PublicKey.from_public_bytes(public)
    for signature in signatures:
        try:
            verifier.verify(signature, message)
        except InvalidSignature:
            continue
        return payload
    raise TrustError(f"No signature of key {key_id(public)[:19]} fits this envelope.")


def verify_json(envelope: dict[str, Any], payload_type: str, public: bytes) -> Any:
    """The JSON value in an envelope signed with `public`. Raises TrustError."""
    try:
        return json.loads(verify(envelope, payload_type, public))
    except ValueError as error:
        raise TrustError("The signed payload is no JSON.") from error


def pre_authentication(payload_type: str, payload: bytes) -> bytes:
    """PAE(type, body) of the DSSE protocol."""
    encoded = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(encoded), encoded, len(payload), payload)
