"""The content-addressed artifact store: a file per digest, written once.

Kept small on purpose: put and get by digest. A put is atomic and durable (fsync, rename), so a crash leaves at
most a stray temporary file, which `sweep` removes.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from blocks.canonical import digest_bytes
from blocks.disk import writing_below
from blocks.errors import TrustError


@dataclass(frozen=True)
class Store:
    """A local store below `root`. Puts raise LedgerError where the disk does not take them."""

    root: Path

    def path(self, digest: str) -> Path:
        """Where the content of `digest` stands (whether or not it is there)."""
        hexdigest = digest.removeprefix("sha256:")
        if len(hexdigest) != 64 or not all(c in "0123456789abcdef" for c in hexdigest):
            raise TrustError(f"{digest[:80]!r} is no SHA-256 digest.")
        return self.root / hexdigest[:2] / hexdigest

    def has(self, digest: str) -> bool:
        return self.path(digest).exists()

    def put_bytes(self, data: bytes) -> str:
        """Keep `data`; returns its digest."""
        digest = digest_bytes(data)
        target = self.path(digest)
        if not target.exists():
            with self._temporary(target.parent) as temporary:
                with temporary.open("wb") as file:
                    file.write(data)
                    _durable(file.fileno())
                temporary.rename(target)
            _durable_folder(target.parent)
        return digest

    def put_file(self, source: Path) -> str:
        """Keep a copy of `source`; returns its digest. The copy is hashed as it is written."""
        hasher = hashlib.sha256()
        with source.open("rb") as reader, self._temporary(self.root / "incoming") as temporary:
            with temporary.open("wb") as writer:
                while chunk := reader.read(1 << 20):
                    hasher.update(chunk)
                    writer.write(chunk)
                _durable(writer.fileno())
            digest = "sha256:" + hasher.hexdigest()
            target = self.path(digest)
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary.rename(target)
        _durable_folder(target.parent)
        return digest

    def get(self, digest: str) -> bytes:
        """The content. Raises FileNotFoundError, or TrustError where the file is not what its name says."""
        data = self.path(digest).read_bytes()
        if digest_bytes(data) != digest:
            raise TrustError(
                f"The stored file {self.path(digest)} does not have its digest any more.",
                do="The disk or somebody changed it: restore it from a backup.",
            )
        return data

    def sweep(self, older_than_seconds: float = 3600.0) -> int:
        """Remove temporary files that a crash left; returns how many.

        A file that was written to more recently may belong to a put that is under way in another process.
        """
        swept = 0
        for path in self.root.glob("*/.tmp-*"):
            try:
                stale = time.time() - path.stat().st_mtime >= older_than_seconds
                if stale:
                    path.unlink()
                    swept += 1
            except FileNotFoundError:
                pass  # renamed or removed by its owner just now
        return swept

    @contextlib.contextmanager
    def _temporary(self, folder: Path) -> Iterator[Path]:
        """A file to write and rename; gone at the end of the block unless it was renamed (the disk may be full)."""
        path: Path | None = None
        try:
            with writing_below(self.root):
                folder.mkdir(parents=True, exist_ok=True)
                handle, name = tempfile.mkstemp(prefix=".tmp-", dir=folder)
                os.close(handle)
                path = Path(name)
                yield path
        finally:
            if path is not None:
                path.unlink(missing_ok=True)


def free_bytes(path: Path) -> int:
    """Free space of the disk that holds `path`."""
    return shutil.disk_usage(path).free


def _durable(descriptor: int) -> None:
    os.fsync(descriptor)


def _durable_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
