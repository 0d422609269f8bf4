"""What the artifact store promises: whole files under their digest, and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from blocks.canonical import digest_bytes
from blocks.errors import TrustError
from blocks.store import Store, free_bytes

# A put under a limit on the size of files: the write fails half-way, as it does on a full disk.
WRITER = """
import resource, sys
from pathlib import Path
from blocks.errors import LedgerError
from blocks.store import Store
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
store = Store(Path(sys.argv[1]))
try:
    store.put_file(Path(sys.argv[2])) if sys.argv[2] else store.put_bytes(b"x" * (3 << 20))
except LedgerError as error:
    print(error.what)
"""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def files(store: Store) -> list[Path]:
    return [path for path in store.root.rglob("*") if path.is_file()]


def test_bytes_and_files_come_back_by_digest(store: Store, tmp_path: Path) -> None:
    content = os.urandom(3 << 20)
    (tmp_path / "file").write_bytes(content)
    assert store.put_file(tmp_path / "file") == store.put_bytes(content) == digest_bytes(content)
    assert store.get(digest_bytes(content)) == content
    assert files(store) == [store.path(digest_bytes(content))]


def test_the_same_content_is_kept_once(store: Store) -> None:
    first = store.put_bytes(b"same")
    inode = store.path(first).stat().st_ino
    assert store.put_bytes(b"same") == first
    assert store.path(first).stat().st_ino == inode


def test_what_was_never_put_is_not_there(store: Store) -> None:
    digest = digest_bytes(b"never")
    assert not store.has(digest)
    with pytest.raises(FileNotFoundError):
        store.get(digest)


def test_a_file_that_was_changed_is_refused(store: Store) -> None:
    digest = store.put_bytes(b"right")
    store.path(digest).write_bytes(b"wrong")
    with pytest.raises(TrustError, match="does not have its digest any more"):
        store.get(digest)


@pytest.mark.parametrize(
    "digest", ["", "sha256:", "../../etc/passwd", "sha256:" + "A" * 64, "sha256:" + "0" * 63, "sha256:" + "/" * 64]
)
def test_what_is_no_digest_never_becomes_a_path(store: Store, digest: str) -> None:
    with pytest.raises(TrustError, match="is no SHA-256 digest"):
        store.path(digest)


@pytest.mark.parametrize("source", ["a file", ""])
def test_a_write_that_fails_half_way_leaves_nothing(store: Store, tmp_path: Path, source: str) -> None:
    path = tmp_path / "file" if source else ""
    if path:
        Path(path).write_bytes(os.urandom(3 << 20))
    argv = [sys.executable, "-c", WRITER, str(store.root), str(path)]
    shown = subprocess.run(argv, capture_output=True, text=True, cwd=Path(__file__).parents[2], check=True)
    assert shown.stdout == f"{store.root} cannot be written: File too large.\n"
    assert files(store) == []


def test_a_sweep_takes_what_a_crash_left_and_not_what_is_being_written(store: Store) -> None:
    kept = store.put_bytes(b"kept")
    old, new = store.root / "incoming" / ".tmp-old", store.path(kept).with_name(".tmp-new")
    old.parent.mkdir()
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    assert store.sweep() == 1
    assert (old.exists(), new.exists(), store.has(kept)) == (False, True, True)
    assert store.sweep(older_than_seconds=0) == 1
    assert files(store) == [store.path(kept)]


def test_free_space_is_what_the_disk_says(tmp_path: Path) -> None:
    assert 0 < free_bytes(tmp_path) <= os.statvfs(tmp_path).f_blocks * os.statvfs(tmp_path).f_frsize
