"""Builds and sources on a machine: whole, checked and inside their folder, or not at all."""

from __future__ import annotations

import io
import os
import stat
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from blocks.canonical import digest_bytes, digest_file
from tests.tasks.run.conftest import Wire

DIGEST = digest_bytes(b"a build")


def artifact(path: Path, role: str, name: str = "") -> dict[str, Any]:
    return {"role": role, "name": name or path.name, "digest": digest_file(path), "path": str(path)}


def wheel(path: Path, members: dict[str, bytes], modes: dict[str, int] | None = None) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = (modes or {}).get(name, 0o100644) << 16
            archive.writestr(info, data)
    return path


def tree(path: Path, *members: tuple[str, bytes | None, dict[str, Any]]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, data, fields in members:
            info = tarfile.TarInfo(name)
            for key, value in fields.items():
                setattr(info, key, value)
            info.size = len(data or b"")
            archive.addfile(info, io.BytesIO(data or b""))
    return path


def test_wheels_and_trees_arrive_with_their_exec_bits_and_only_once(wire: Wire, tmp_path: Path) -> None:
    tag = f"cp{sys.version_info[0]}{sys.version_info[1]}"
    one = wheel(
        tmp_path / f"pkg-1-{tag}-{tag}-linux.whl",
        {"pkg/__init__.py": b"x = 1\n", "pkg/bin/tool": b"#!/bin/sh\n", "pkg-1.data/purelib/other.py": b"y = 2\n"},
        {"pkg/bin/tool": 0o100755},
    )
    two = tree(
        tmp_path / "suite.tar.gz",
        ("a/test.py", b"z", {"mode": 0o640}),
        ("a/link", None, {"type": tarfile.SYMTYPE, "linkname": "test.py"}),
    )
    request = {"digest": DIGEST, "artifacts": [artifact(one, "wheel"), artifact(two, "tree")]}
    root = Path(wire.ok("unpack", **request)["root"])
    assert root.name == DIGEST[7:]
    assert os.access(root / "site" / "pkg" / "bin" / "tool", os.X_OK)
    assert not os.access(root / "site" / "pkg" / "__init__.py", os.X_OK)
    assert (root / "site" / "other.py").read_bytes() == b"y = 2\n"
    assert (root / "suite" / "a" / "link").read_bytes() == b"z"
    assert list((root / "site" / "pkg" / "__pycache__").glob("__init__.*.pyc"))
    inode = root.stat().st_ino
    one.unlink()
    assert wire.ok("unpack", **request)["root"] == str(root)
    assert root.stat().st_ino == inode


def test_a_wrong_digest_is_refused_and_nothing_is_kept(wire: Wire, tmp_path: Path, runner_root: Path) -> None:
    one = wheel(tmp_path / "pkg-1-py3-none-any.whl", {"a.py": b""})
    wrong = {**artifact(one, "wheel"), "digest": digest_bytes(b"another")}
    answer = wire.ask("unpack", digest=DIGEST, artifacts=[wrong])
    assert (answer["ok"], answer["kind"]) == (False, "artifact")
    assert "as promised" in answer["error"]
    assert list((runner_root / "builds").iterdir()) == []


LINK = {"type": tarfile.SYMTYPE}
EVIL: dict[str, Callable[[Path], Path]] = {
    "tar parent": lambda p: tree(p / "t.tar.gz", ("../evil", b"x", {})),
    "tar deep parent": lambda p: tree(p / "t.tar.gz", ("a/../../evil", b"x", {})),
    "tar absolute": lambda p: tree(p / "t.tar.gz", ("/tmp/evil", b"x", {})),
    "tar link out": lambda p: tree(p / "t.tar.gz", ("a", None, {**LINK, "linkname": "../../evil"})),
    "tar link absolute": lambda p: tree(p / "t.tar.gz", ("a", None, {**LINK, "linkname": "/etc"})),
    "tar hard link out": lambda p: tree(
        p / "t.tar.gz", ("a", None, {"type": tarfile.LNKTYPE, "linkname": "/etc/passwd"})
    ),
    "tar through a link": lambda p: tree(
        p / "t.tar.gz",
        ("d", None, {"type": tarfile.DIRTYPE}),
        ("a", None, {**LINK, "linkname": "d"}),
        ("a/x", b"x", {}),
    ),
    "tar device": lambda p: tree(p / "t.tar.gz", ("a", None, {"type": tarfile.CHRTYPE})),
    "tar fifo": lambda p: tree(p / "t.tar.gz", ("a", None, {"type": tarfile.FIFOTYPE})),
    "zip parent": lambda p: wheel(p / "t.whl", {"../evil": b"x"}),
    "zip absolute": lambda p: wheel(p / "t.whl", {"/tmp/evil": b"x"}),
    "zip link": lambda p: wheel(p / "t.whl", {"a": b"/etc/passwd"}, {"a": stat.S_IFLNK | 0o777}),
    "zip data parent": lambda p: wheel(p / "t.whl", {"x.data/purelib/../../evil": b"x"}),
    "no archive": lambda p: _cut(wheel(p / "t.whl", {"a": os.urandom(5000)})),
    "cut archive": lambda p: _cut(tree(p / "t.tar.gz", ("a", os.urandom(5000), {}))),
}


def _cut(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[:-2000])
    return path


@pytest.mark.parametrize("evil", EVIL)
def test_an_archive_that_reaches_outside_or_is_broken_is_refused(
    wire: Wire, tmp_path: Path, runner_root: Path, evil: str
) -> None:
    path = EVIL[evil](tmp_path)
    role = "wheel" if path.suffix == ".whl" else "tree"
    answer = wire.ask("unpack", digest=DIGEST, artifacts=[artifact(path, role)])
    assert (answer["ok"], answer["kind"]) == (False, "artifact"), answer
    assert list((runner_root / "builds").iterdir()) == []
    assert not list(tmp_path.rglob("evil"))


def test_artifacts_with_names_or_roles_that_cannot_be_are_refused(wire: Wire, tmp_path: Path) -> None:
    good = artifact(wheel(tmp_path / "a-1-py3-none-any.whl", {"a.py": b""}), "wheel")
    for change in ({"name": "../x.tar.gz"}, {"name": ""}, {"role": "script"}, {"path": "/no/such"}, {"digest": None}):
        assert not wire.ask("unpack", digest=DIGEST, artifacts=[{**good, **change}])["ok"]
    for digest in ("sha256:../../x", "x", None):
        assert not wire.ask("unpack", digest=digest, artifacts=[good])["ok"]
    assert not wire.ask("unpack", digest=DIGEST, artifacts=[])["ok"]


def test_requests_for_one_build_at_the_same_time_make_it_once(wire: Wire, tmp_path: Path, runner_root: Path) -> None:
    good = artifact(wheel(tmp_path / "a-1-py3-none-any.whl", {"a.py": b""}), "wheel")
    numbers = [wire.send("unpack", digest=DIGEST, artifacts=[good]) for _ in range(4)]
    assert len({wire.wait(number)["root"] for number in numbers}) == 1
    assert len(list((runner_root / "builds").iterdir())) == 1
