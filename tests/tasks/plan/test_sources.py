"""Packing a suite's own files: the same bytes for the same content."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest

from blocks.errors import PlanError
from blocks.store import Store
from tasks.plan.sources import pack_sources


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "suite"
    (made / "inner").mkdir(parents=True)
    (made / "test_b.py").write_text("b")
    (made / "inner/run.sh").write_text("r")
    (made / "inner/run.sh").chmod(0o700)
    return made


def test_the_same_content_has_the_same_digest_whenever_it_is_packed(folder: Path, tmp_path: Path) -> None:
    first = pack_sources(folder, Store(tmp_path / "one"))
    os.utime(folder / "test_b.py", (1, 1))
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__/test_b.cpython-311.pyc").write_bytes(b"x")
    assert pack_sources(folder, Store(tmp_path / "two")) == first
    (folder / "test_b.py").write_text("c")
    assert pack_sources(folder, Store(tmp_path / "two"))[0] != first[0]


def test_names_content_and_the_executable_bit_travel_and_nothing_else(folder: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    digest, size = pack_sources(folder, store)
    packed = store.get(digest)
    assert len(packed) == size
    assert packed[4:8] == bytes(4)  # gzip's own time
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        members = [(m.name, m.mode, m.mtime, m.uid, m.uname) for m in archive.getmembers()]
    assert members == [("inner/run.sh", 0o755, 0, 0, ""), ("test_b.py", 0o644, 0, 0, "")]


def test_a_link_out_of_the_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    (folder / "secret").symlink_to("/etc/hostname")
    with pytest.raises(PlanError, match="outside"):
        pack_sources(folder, Store(tmp_path / "store"))


def test_an_empty_or_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="missing"):
        pack_sources(tmp_path / "none", Store(tmp_path / "store"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(PlanError, match="empty"):
        pack_sources(tmp_path / "empty", Store(tmp_path / "store"))
