"""Two processes on one machine's folder do each other no harm, and killed ones leave nothing for ever."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from blocks.canonical import digest_bytes, digest_file
from tasks.run.runner import folders, leases, parts, spool
from tests.tasks.run.conftest import Wire, order_of, unit
from tests.tasks.run.test_runner_unpack import wheel

HOLD = """
import sys; sys.path.insert(0, {path!r})
from tasks.run.runner import folders
with folders.{what}({folder!r}) as made:
    print(made, flush=True)
    sys.stdin.read()
"""


def holder(what: str, folder: Path) -> tuple[subprocess.Popen[str], str]:
    """Another process that holds a folder, and what it made."""
    code = HOLD.format(path=str(Path.cwd()), what=what, folder=str(folder))
    process = subprocess.Popen([sys.executable, "-c", code], stdin=-1, stdout=-1, text=True)
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def test_a_held_folder_is_waited_for_and_is_free_when_its_holder_dies(tmp_path: Path) -> None:
    process, _ = holder("held", tmp_path)
    got = threading.Event()

    def take() -> None:
        with folders.held(str(tmp_path)):
            got.set()

    threading.Thread(target=take).start()
    assert not got.wait(0.2)
    kill(process)
    assert got.wait(10)


def test_who_waited_for_a_folder_that_was_made_anew_holds_the_new_one(tmp_path: Path) -> None:
    folder, got, done = tmp_path / "a", threading.Event(), threading.Event()
    folder.mkdir()

    def take() -> None:
        with folders.held(str(folder)):
            got.set()
            done.wait(10)

    with folders.held(str(folder)):
        threading.Thread(target=take).start()
        time.sleep(0.1)
        folder.rename(tmp_path / "b")
        folder.mkdir()
    assert got.wait(10)
    assert folders._is_held(str(folder))
    done.set()
    with pytest.raises(FileNotFoundError), folders.held(str(tmp_path / "never")):
        pass


def test_two_processes_that_cut_a_part_at_the_same_time_give_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One has read the spool and not written its part yet, when a record comes and the other one asks."""
    folder = tmp_path / "leases" / "lease-1"
    (folder / "spool").mkdir(parents=True)
    spool.write_order(str(folder), order_of(*(unit(f"u{n}", "command", {}) for n in (1, 2))))
    put(folder, 1)
    real, first, given = parts._path, threading.Event(), []

    def slow_to_write(lease: str, part: int) -> str:
        if threading.current_thread().name == "first" and len(spool.numbers(str(folder / "spool"))) == 1:
            if (folder / "cutting").exists():
                first.set()
                time.sleep(0.4)
            (folder / "cutting").touch()  # The second time it is asked for the path in order to write there.
        return real(lease, part)

    monkeypatch.setattr(parts, "_path", slow_to_write)

    def collect() -> None:
        given.append(leases.collect(str(tmp_path), "lease-1", 0)["part"])

    asking = [threading.Thread(target=collect, name=name) for name in ("first", "second")]
    asking[0].start()
    assert first.wait(10)
    put(folder, 2)
    asking[1].start()
    for one in asking:
        one.join(10)
    assert given[0] == given[1]
    rest = leases.collect(str(tmp_path), "lease-1", 1)["part"]
    assert [record["seq"] for record in given[0]["records"] + rest["records"]] == [1, 2]


class Anew:
    """A lease of which two records are collected, and what becomes of it then: its folder is removed, and its runner,
    which knows of the two records, puts another one with a third in its place."""

    def __init__(self, root: Path) -> None:
        self.root, self.folder, self.replaced = root, root / "leases" / "lease-1", False
        self.make(1, 2)

    def make(self, *seqs: int) -> None:
        (self.folder / "spool").mkdir(parents=True)
        spool.write_order(str(self.folder), order_of(*(unit(f"u{n}", "command", {}) for n in (1, 2, 3))))
        for seq in seqs:
            put(self.folder, seq)

    def replace(self) -> None:
        if not self.replaced:
            self.replaced = True
            shutil.rmtree(self.folder)
            self.make(3)
            parts.leap(str(self.folder), 2)

    def collect(self, acked: int) -> tuple[int, list[int]]:
        part = leases.collect(str(self.root), "lease-1", acked)["part"]
        return part["part"], [record["seq"] for record in part["records"]]


def test_a_lease_made_anew_while_it_is_collected_gives_no_number_a_second_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease, real = Anew(tmp_path), parts._acknowledge
    assert lease.collect(0) == (1, [1, 2])

    def replaced_before_the_cut(own: str, acked: int) -> int:
        said = real(own, acked)
        lease.replace()
        return said

    monkeypatch.setattr(parts, "_acknowledge", replaced_before_the_cut)
    assert lease.collect(0) == (3, [3])


def test_what_is_acknowledged_of_a_lease_that_was_made_anew_is_not_written_into_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease, real = Anew(tmp_path), spool.write
    assert lease.collect(0) == (1, [1, 2])

    def replaced_before_the_write(path: str, data: bytes, *, durable: bool = True) -> None:
        lease.replace()
        real(path, data, durable=durable)

    monkeypatch.setattr(parts.spool, "write", replaced_before_the_write)
    assert lease.collect(1) == (3, [3])
    assert parts.delivered(str(lease.folder)) == {"part": 2, "seq": 2, "leapt": True}


def test_who_holds_a_folder_holds_that_one_whatever_stands_in_its_place(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    folder.mkdir()
    with folders.held(str(folder)) as own:
        assert folders.is_still(own, str(folder))
        folder.rename(tmp_path / "b")
        assert not folders.is_still(own, str(folder))
        folder.mkdir()
        assert not folders.is_still(own, str(folder))
        Path(own, "mine").touch()
    assert [path.name for path in (tmp_path / "b").iterdir()] == ["mine"]


def put(folder: Path, seq: int) -> None:
    record = {"unit": f"u{seq}", "seq": seq, "attempts": []}
    spool.write(spool.record_path(str(folder), seq), spool.encode(record))


@pytest.mark.parametrize("where", ["builds", "discover", "leases"])
def test_what_a_killed_process_left_is_removed_and_what_a_living_one_uses_is_not(
    wire: Wire, tmp_path: Path, runner_root: Path, where: str
) -> None:
    dead, leftover = holder("temporary", runner_root / where)
    living, used = holder("temporary", runner_root / where)
    kill(dead)
    assert os.path.isdir(leftover)
    try:
        work_in(where, wire, tmp_path)
        assert not os.path.exists(leftover)
        assert os.path.isdir(used)
    finally:
        kill(living)


def work_in(where: str, wire: Wire, tmp_path: Path) -> None:
    if where == "builds":
        path = wheel(tmp_path / "a-1-py3-none-any.whl", {"a.py": b""})
        artifact: dict[str, Any] = {"role": "wheel", "name": path.name, "digest": digest_file(path), "path": str(path)}
        wire.ok("unpack", digest=digest_bytes(b"a build"), artifacts=[artifact])
    elif where == "discover":
        wire.ok("discover", kind="gtest", build=str(tmp_path), binary="none")
    else:
        wire.run(order_of(unit("u", "command", {"argv": ["/bin/true"]}), sandbox="none"))
        wire.ok("forget", lease="lease-1")
