"""The content-addressed artifact store: a file per digest, written once.

    Store(folder)                           a local folder
    open_store("s3://bucket/prefix", folder)  a bucket, with copies of what is used here in the folder

Kept small on purpose: put and get by digest. A put is atomic and durable (fsync, rename), so a crash leaves at
most a stray temporary file, which `sweep` removes. With a bucket a put is there when the bucket has it; the folder
only saves the way there, and is kept within `COPIES_BYTES`.
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

from blocks.bucket import Bucket, bucket_at
from blocks.canonical import digest_bytes, digest_file
from blocks.copies import touched, trim
from blocks.disk import make_durable, writing_below
from blocks.errors import TrustError


@dataclass(frozen=True)
class Store:
    """A store below `root`, or in a `bucket` with copies below `root`. Puts raise LedgerError where nothing is kept."""

    root: Path
    bucket: Bucket | None = None

    def path(self, digest: str) -> Path:
        """Where the content of `digest` stands on this machine (whether or not it is there; see `local_copy`)."""
        return self.root / _hex(digest)[:2] / _hex(digest)

    def has(self, digest: str) -> bool:
        if self.bucket is not None:
            return self.bucket.size(_name(digest)) is not None
        return self.path(digest).exists()

    def size(self, digest: str) -> int:
        """The content's length in bytes. Raises FileNotFoundError."""
        if self.bucket is None:
            return self.path(digest).stat().st_size
        found = self.bucket.size(_name(digest))
        if found is None:
            raise FileNotFoundError(f"{digest} is not in {self.bucket.url}")
        return found

    def put_bytes(self, data: bytes) -> str:
        """Keep `data`; returns its digest."""
        digest = digest_bytes(data)
        target = self.path(digest)
        if not target.exists():
            with self._temporary(target.parent) as temporary:
                temporary.write_bytes(data)
                make_durable(temporary)
                temporary.rename(target)
            make_durable(target.parent)
        if self.bucket is not None:
            self.bucket.put(_name(digest), data)
        return digest

    def put_file(self, source: Path) -> str:
        """Keep a copy of `source`; returns its digest. The copy is hashed as it is written."""
        hasher = hashlib.sha256()
        with source.open("rb") as reader, self._temporary(self.root / "incoming") as temporary:
            with temporary.open("wb") as writer:
                while chunk := reader.read(1 << 20):
                    hasher.update(chunk)
                    writer.write(chunk)
            make_durable(temporary)
            digest = "sha256:" + hasher.hexdigest()
            target = self.path(digest)
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary.rename(target)
        make_durable(target.parent)
        if self.bucket is not None:
            self.bucket.put(_name(digest), target)
        return digest

    def get(self, digest: str) -> bytes:
        """The content. Raises FileNotFoundError, or TrustError where it is not what its name says."""
        data = self.local_copy(digest).read_bytes()
        if digest_bytes(data) == digest:
            return data
        if self.bucket is not None:  # only the copy here is damaged, as far as we know
            self.path(digest).unlink(missing_ok=True)
            return self.local_copy(digest).read_bytes()
        raise TrustError(
            f"The stored file {self.path(digest)} does not have its digest any more.",
            do="The disk or somebody changed it: restore it from a backup.",
        )

    def local_copy(self, digest: str) -> Path:
        """A file of this machine with the content, to be read within the hour: later it may be gone (`sweep`).

        From a bucket it is brought once, and checked. In a local folder it is the very file, which `get` checks and
        whoever unpacks it. Raises FileNotFoundError, and TrustError where the bucket holds something else.
        """
        target = self.path(digest)
        if self.bucket is None:
            target.stat()
        elif not touched(target):
            with self._temporary(target.parent) as temporary:
                found = bring(self.bucket, _name(digest), digest, temporary)
                if found:
                    temporary.rename(target)
            if not found:
                raise FileNotFoundError(f"{digest} is not in {self.bucket.url}")
            trim(self.root, brought=target.stat().st_size)
        return target

    def digest_now(self, digest: str) -> str | None:
        """What the content of this name hashes to where it is kept (a bucket, if there is one). None: not there."""
        if self.bucket is not None:
            return self.bucket.digest(_name(digest))
        path = self.path(digest)
        return digest_file(path) if path.is_file() else None

    def discard(self, digest: str) -> None:
        """Remove the content, here and in the bucket. What is not there is fine."""
        if self.bucket is not None:
            self.bucket.delete(_name(digest))
        self.path(digest).unlink(missing_ok=True)

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
        if self.bucket is not None:
            trim(self.root)
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


def open_store(where: str | Path, copies: Path) -> Store:
    """The store at `where`: a folder, or the URL of a bucket, of which `copies` then keeps what is used here.

    Raises LedgerError for a URL that is no bucket's. Nothing is asked of the bucket yet.
    """
    if "://" in str(where):
        return Store(copies, bucket_at(str(where)))
    return Store(Path(where))


def bring(bucket: Bucket, name: str, digest: str, target: Path) -> bool:
    """Write the object to `target`; False where there is none. Raises TrustError where it does not have that digest."""
    try:
        bucket.fetch(name, target)
    except FileNotFoundError:
        return False
    if digest_file(target) != digest:
        raise TrustError(
            f"The object {name} of {bucket.url} does not have its digest.",
            do="An upload was cut off, or somebody changed it: put it there again, or restore it from a backup.",
        )
    make_durable(target)
    return True


def free_bytes(path: Path) -> int:
    """Free space of the disk that holds `path`."""
    return shutil.disk_usage(path).free


def _hex(digest: str) -> str:
    hexdigest = digest.removeprefix("sha256:")
    if len(hexdigest) != 64 or not all(c in "0123456789abcdef" for c in hexdigest):
        raise TrustError(f"{digest[:80]!r} is no SHA-256 digest.")
    return hexdigest


def _name(digest: str) -> str:
    """The object of this digest in a bucket."""
    return f"store/{_hex(digest)[:2]}/{_hex(digest)}"
