"""What an event is in the Merkle log: the entry that its leaf hashes.

The entry of an event is its content, the canonical JSON whose SHA-256 is the event's id, so that whoever has the
published entries has the events themselves and needs nothing else to check them. The published form gives an entry's
length in 16 bits (https://c2sp.org/tlog-tiles). The few events that are longer (the list of a whole plan's units)
have `{"content":"sha256:..."}` as their entry, and their content is published beside the tiles, in a file named after
that digest: one hash further, and bound just as firmly. No event's content looks like that, for it begins with `at`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from blocks.canonical import canonical_json, digest_bytes

LONGEST = 0xFFFF
"""The most bytes that an entry can have."""

_POINTER = re.compile(rb'\{"content":"sha256:([0-9a-f]{64})"\}')


def entry_of(content: bytes) -> bytes:
    """The entry of an event with this content."""
    return content if len(content) <= LONGEST else pointer(digest_bytes(content))


def pointer(event: str) -> bytes:
    """The entry of an event that is too long to be one, by its id."""
    return canonical_json({"content": event})


def pointed_at(entry: bytes) -> str | None:
    """The id of the event that this entry only points at, or None where the entry is the content."""
    matched = _POINTER.fullmatch(entry)
    return f"sha256:{matched[1].decode()}" if matched else None


def content_path(event: str) -> str:
    """Where the content of an event that is too long for an entry is published."""
    return f"content/{event.removeprefix('sha256:')}"


def pack(entries: Iterable[bytes]) -> bytes:
    """A bundle of entries as it is published: each after its length, 16 bits, big end first."""
    return b"".join(len(entry).to_bytes(2, "big") + entry for entry in entries)


def unpack(bundle: bytes) -> list[bytes]:
    """The entries of a bundle. Raises ValueError where it ends inside of one."""
    entries: list[bytes] = []
    at = 0
    while at < len(bundle):
        length = int.from_bytes(bundle[at : at + 2], "big")
        entry = bundle[at + 2 : at + 2 + length]
        if at + 2 > len(bundle) or len(entry) < length:
            raise ValueError(f"the bundle ends inside of its entry {len(entries)}")
        entries.append(entry)
        at += 2 + length
    return entries
