"""A published log as it lies in a folder: files that anybody can serve, and that were made by nobody knows whom."""

from __future__ import annotations

import os
from pathlib import Path

from blocks.canonical import digest_bytes, digest_file, short
from blocks.ledger.entries import LONGEST, content_path, pointed_at, unpack
from blocks.ledger.merkle import HASH_BYTES, leaf_hash
from blocks.ledger.tiles import WIDTH, entries_path, tile_path
from tasks.publish.log.findings import Findings

CHECKPOINT = "checkpoint"
"""The newest checkpoint of the published tree."""
WITNESSED = "witnessed"
"""The newest checkpoint that has co-signatures: a witness can only sign what was published before."""
LARGEST_NOTE = 1 << 20


class FolderSource:
    """Reads tiles and entries from a folder, for `walk`."""

    def __init__(self, folder: Path, size: int, findings: Findings) -> None:
        self._folder, self._size, self._findings = folder, size, findings
        self._entries: tuple[int, list[bytes]] = (-1, [])

    def tile(self, level: int, number: int, width: int) -> bytes | None:
        """The hashes of a tile file; None where it is missing or has another length."""
        data = self._read(tile_path(level, number, width), tile_path(level, number), WIDTH * HASH_BYTES)
        if data is None:
            return None
        if len(data) not in (width * HASH_BYTES, WIDTH * HASH_BYTES):
            name = self.tile_name(level, number, width)
            self._findings.add("damaged", name, f"it has {len(data)} bytes where {width * HASH_BYTES} belong")
            return None
        return data[: width * HASH_BYTES]

    def leaves(self, number: int, width: int) -> list[bytes | None]:
        """Leaf hashes made from the entries of a bundle."""
        entries = self._bundle(number, width)
        for i, entry in enumerate(entries):
            event = pointed_at(entry)
            if event is not None:
                self._check_content(number * WIDTH + i, event)
        return [leaf_hash(entry) for entry in entries] or [None] * width

    def entry_name(self, index: int) -> str:
        number, within = divmod(index, WIDTH)
        width = min(WIDTH, self._size - number * WIDTH)
        entries = self._bundle(number, width)
        told = f" (now {short(digest_bytes(entries[within]))})" if within < len(entries) else ""
        return f"{entries_path(number, width)}, entry {index}{told}"

    def tile_name(self, level: int, number: int, width: int) -> str:
        return tile_path(level, number, width)

    def _bundle(self, number: int, width: int) -> list[bytes]:
        if self._entries[0] != number:
            self._entries = (number, self._read_bundle(number, width))
        return self._entries[1]

    def _read_bundle(self, number: int, width: int) -> list[bytes]:
        data = self._read(entries_path(number, width), entries_path(number), WIDTH * (LONGEST + 2))
        if data is None:
            return []
        name = entries_path(number, width)
        try:
            entries = unpack(data)
        except ValueError as error:
            self._findings.add("damaged", name, str(error))
            return []
        if len(entries) not in (width, WIDTH):
            self._findings.add("damaged", name, f"it has {len(entries)} entries where {width} belong")
            return []
        return entries[:width]

    def _check_content(self, index: int, event: str) -> None:
        path = self._folder / content_path(event)
        if not path.is_file():
            self._findings.add("missing", content_path(event), f"the content of entry {index} is missing")
        elif digest_file(path) != event:
            self._findings.add(
                "changed_entry", content_path(event), f"the content of entry {index} is not what was logged there"
            )

    def _read(self, path: str, wider: str, most: int) -> bytes | None:
        # A partial file may be gone once the full one is there; what belongs to this tree is at its beginning.
        for name in dict.fromkeys((path, wider)):
            data = read_at_most(self._folder / name, most)
            if data is not None:
                return data
        self._findings.add("missing", path, "the file is missing")
        return None


def read_at_most(path: Path, most: int) -> bytes | None:
    """A file's bytes, one more than `most` at most; None where there is no such file."""
    try:
        with path.open("rb") as file:
            # Reading sets aside what it is asked for, and a bundle of entries may have 16 MiB.
            return file.read(min(most, os.fstat(file.fileno()).st_size) + 1)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None
