"""A suite's own files as one archive that is the same, byte for byte, whenever and wherever it is made."""

from __future__ import annotations

import gzip
import stat
import tarfile
import tempfile
from pathlib import Path

from blocks.errors import PlanError
from blocks.store import Store

MAX_BYTES = 256 << 20
"""Suites bring tests, not data sets; those belong into the build."""

IGNORED_FOLDERS = frozenset({"__pycache__", ".git", ".pytest_cache", ".mypy_cache", ".ruff_cache", ".hypothesis"})
IGNORED_SUFFIXES = (".pyc", ".pyo")


def pack_sources(folder: Path, store: Store) -> tuple[str, int]:
    """Put `folder` into the store as a tar.gz of paths relative to it; returns its digest and size in bytes.

    Only content, names and the executable bit count: no times, owners or caches. Raises PlanError.
    """
    files = _files(folder)
    total = sum(path.stat().st_size for path in files)
    if total > MAX_BYTES:
        raise PlanError(
            f"The suite's files in {folder} have {total:,} bytes; at most {MAX_BYTES:,} travel with a suite.",
            do="Put data into the build, or point the suite at a smaller folder.",
        )
    with tempfile.TemporaryFile() as packed:
        # No name and no time in gzip's header either.
        with (
            gzip.GzipFile("", "wb", compresslevel=6, fileobj=packed, mtime=0) as plain,
            tarfile.open(fileobj=plain, mode="w", format=tarfile.PAX_FORMAT) as archive,
        ):
            for path in files:
                _add(archive, path, path.relative_to(folder).as_posix())
        size = packed.tell()
        packed.seek(0)
        return store.put_bytes(packed.read()), size


def _add(archive: tarfile.TarFile, path: Path, name: str) -> None:
    facts = path.stat()
    member = tarfile.TarInfo(name)
    member.size = facts.st_size
    member.mode = 0o755 if facts.st_mode & stat.S_IXUSR else 0o644
    with path.open("rb") as content:
        archive.addfile(member, content)


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise PlanError(f"The sources folder {folder} is missing.", do="Correct the suite's `sources`.")
    found = []
    for path in sorted(folder.rglob("*"), key=lambda path: path.relative_to(folder).as_posix()):
        inner = path.relative_to(folder)
        if IGNORED_FOLDERS.intersection(inner.parts) or path.name.endswith(IGNORED_SUFFIXES):
            continue
        if path.is_file() and path.resolve().is_relative_to(folder.resolve()):
            found.append(path)
        elif path.is_symlink():
            raise PlanError(
                f"{path} is a link to something outside of {folder}, or to nothing.",
                do="Replace it by the file itself: what a suite needs travels with it.",
            )
    if not found:
        raise PlanError(f"The sources folder {folder} is empty.", do="Correct the suite's `sources`.")
    return found
