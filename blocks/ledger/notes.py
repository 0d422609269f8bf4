"""Signed notes, and the checkpoints and co-signatures that are made of them.

A note is text with signature lines below (https://c2sp.org/signed-note). A checkpoint is a note that states a log's
origin, size and root (https://c2sp.org/tlog-checkpoint). A witness that has seen one and found it to continue what it
saw before adds a line of its own with the time (https://c2sp.org/tlog-cosignature, `cosignature/v1`). Specifications
as of 2026-11; keys of other types than ed25519 are ignored, as a reader of notes must.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from blocks.errors import TrustError
from blocks.signing import Key

ED25519 = 0x01
COSIGNATURE = 0x04
MOST_SIGNATURES = 100
"""A note with more is refused: whoever publishes a log could else make its readers work for ever."""


@dataclass(frozen=True)
class VerifierKey:
    """A public key as notes name it: `type` says what its signatures cover (ED25519 or COSIGNATURE)."""

    name: str
    type: int
    public: bytes

    @property
    def id(self) -> bytes:
        """Four bytes that tell a key's signatures from others. They identify and prove nothing."""
        return hashlib.sha256(self.name.encode() + b"\n" + bytes([self.type]) + self.public).digest()[:4]

    def __str__(self) -> str:
        return f"{self.name}+{self.id.hex()}+{_base64(bytes([self.type]) + self.public)}"


@dataclass(frozen=True)
class Signature:
    """One line below a note: whose it is, and its bytes."""

    name: str
    key: bytes
    data: bytes

    def __str__(self) -> str:
        return f"— {self.name} {_base64(self.key + self.data)}\n"


@dataclass(frozen=True)
class Note:
    """A note as it was read. Its text means nothing before a signature was checked."""

    text: str
    signatures: tuple[Signature, ...]

    def __str__(self) -> str:
        return self.text + "\n" + "".join(map(str, self.signatures))


@dataclass(frozen=True)
class Checkpoint:
    """A log's state: the first `size` leaves have the root `root`."""

    origin: str
    size: int
    root: bytes

    def __str__(self) -> str:
        return f"{self.origin}\n{self.size}\n{_base64(self.root)}\n"


def verifier_key(text: str) -> VerifierKey:
    """Read a key of the form `name+id+base64`. Raises TrustError."""
    name, _, rest = text.strip().partition("+")
    stated, _, encoded = rest.partition("+")
    data = _decoded(encoded)
    if not _is_name(name) or data is None or len(data) != 33 or data[0] not in (ED25519, COSIGNATURE):
        raise TrustError(f"{text.strip()[:80]!r} is no ed25519 key of the form name+id+base64.")
    key = VerifierKey(name, data[0], data[1:])
    if key.id.hex() != stated:
        raise TrustError(f"The key {name!r} states the id {stated[:16]} and has {key.id.hex()}.", do="Copy it again.")
    return key


def signed(text: str, name: str, key: Key) -> Note:
    """A note with one ed25519 signature."""
    own = VerifierKey(name, ED25519, key.public)
    return Note(text, (Signature(name, own.id, key.private.sign(text.encode())),))


def cosigned(note: Note, name: str, key: Key, at: int) -> Note:
    """The note with a witness's signature added: at `at` (seconds since the epoch) it had seen nothing longer."""
    own = VerifierKey(name, COSIGNATURE, key.public)
    data = at.to_bytes(8, "big") + key.private.sign(_witnessed(note.text, at))
    return Note(note.text, (*note.signatures, Signature(name, own.id, data)))


def parse_note(data: bytes) -> Note:
    """Read a note. Raises TrustError where it is none."""
    try:
        whole = data.decode()
    except UnicodeDecodeError as error:
        raise TrustError("The note is no UTF-8.") from error
    text, gap, lines = whole.rpartition("\n\n")
    signatures = [_signature(line) for line in lines.split("\n")[:-1]]
    wrong = not gap or not lines.endswith("\n") or any(character < " " and character != "\n" for character in whole)
    if wrong or not signatures or len(signatures) > MOST_SIGNATURES:
        raise TrustError("This is no signed note.")
    return Note(text + "\n", tuple(signatures))


def check_note(note: Note, keys: Iterable[VerifierKey]) -> dict[VerifierKey, int | None]:
    """The keys that signed this note, with the time in seconds since the epoch where they are witnesses.

    Signatures of keys that are not asked for are ignored. Raises TrustError where one of a key that is asked for is
    wrong, however good the others are.
    """
    known = {(key.name, key.id): key for key in keys}
    found: dict[VerifierKey, int | None] = {}
    for signature in note.signatures:
        key = known.get((signature.name, signature.key))
        if key is None:
            continue
        at, data, message = None, signature.data, note.text.encode()
        if key.type == COSIGNATURE:
            at, data = int.from_bytes(data[:8], "big"), data[8:]
            message = _witnessed(note.text, at)
        if at is not None and at >= 1 << 63:
            raise TrustError(f"The time that {key.name} states is none.")
        try:
            Ed25519PublicKey.from_public_bytes(key.public).verify(data, message)
        except InvalidSignature as error:
            raise TrustError(f"The signature of {key.name} does not fit the note.") from error
        # A witness may have signed twice; the later time says more.
        found[key] = max(at, found.get(key) or 0) if at is not None else None
    return found


def parse_checkpoint(text: str) -> Checkpoint:
    """Read the text of a checkpoint; further lines are allowed and say nothing. Raises TrustError."""
    lines = text.split("\n")
    if len(lines) < 4 or not all(lines[:-1]) or lines[-1]:
        raise TrustError("The note is no checkpoint: it needs an origin, a size and a root, a line each.")
    origin, size, encoded = lines[:3]
    root = _decoded(encoded)
    if not size.isascii() or not size.isdigit() or len(size) > 19 or size != str(int(size)):
        raise TrustError(f"The checkpoint states the size {size[:40]!r}, which is no number.")
    if root is None or len(root) != 32:
        raise TrustError("The checkpoint's root is no SHA-256 in base64.")
    return Checkpoint(origin, int(size), root)


def _witnessed(text: str, at: int) -> bytes:
    return f"cosignature/v1\ntime {at}\n{text}".encode()


def _signature(line: str) -> Signature:
    dash, _, rest = line.partition(" ")
    name, _, encoded = rest.partition(" ")
    data = _decoded(encoded)
    if dash != "—" or not _is_name(name) or data is None or len(data) < 5:
        raise TrustError("The note has a line below its text that is no signature.")
    return Signature(name, data[:4], data[4:])


def _is_name(name: str) -> bool:
    return bool(name) and "+" not in name and not any(character.isspace() or character < " " for character in name)


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _decoded(text: str) -> bytes | None:
    """The bytes of the one base64 form that they have, or None."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    return data if _base64(data) == text else None
