"""Two processes on one machine's folder do each other no harm, and killed ones leave nothing for ever."""

from __future__ import annotations

import os
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
