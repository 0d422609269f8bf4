"""How much a unit may put on disk: what counts, and what becomes of a unit that goes beyond it."""

from __future__ import annotations

import itertools
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tasks.run.runner import disk, workplace
from tests.tasks.run.conftest import Wire, message, order_of, outcomes, unit

MIB = 1 << 20
BOTH = pytest.mark.parametrize("isolation", ["bubblewrap", "none"])


def beyond(folder: Path, most_bytes: int = MIB, files: int = 1000, pids: tuple[int, ...] = ()) -> str:
    """What one pass says, empty when there is room."""
    return next(filter(None, disk.measured(disk.Room(str(folder), most_bytes, files), lambda: pids)), "")


def fill(path: Path, size: int = 2 * MIB) -> Path:
    path.write_bytes(os.urandom(size))
    return path


def test_what_is_on_disk_counts_wherever_it_lies(tmp_path: Path) -> None:
    assert beyond(tmp_path) == ""
    (tmp_path / "a" / "b").mkdir(parents=True)
    fill(tmp_path / "a" / "b" / "c")
    assert beyond(tmp_path) == "wrote more than 1 MiB in its work folder"
    assert beyond(tmp_path, 3 * MIB) == ""
    assert beyond(tmp_path, 3 * MIB, 2) == "made more than 2 files in its work folder"


def test_a_sparse_file_is_as_large_as_what_is_in_it(tmp_path: Path) -> None:
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(1 << 40)
        file.write(b"x" * 4096)
    assert beyond(tmp_path) == ""


def test_a_file_with_many_names_counts_once(tmp_path: Path) -> None:
    fill(tmp_path / "first")
    for n in range(3):
        os.link(tmp_path / "first", tmp_path / str(n))
    assert beyond(tmp_path, 3 * MIB) == ""


def test_links_are_not_followed(tmp_path: Path) -> None:
    work = tmp_path / "work"
    (work / "a").mkdir(parents=True)
    fill(tmp_path / "outside")
    (work / "file").symlink_to(tmp_path / "outside")
    (work / "folder").symlink_to(tmp_path)
    (work / "a" / "up").symlink_to(work)
    assert beyond(work, files=4) == ""
    (tmp_path / "link").symlink_to(tmp_path)
    assert beyond(tmp_path / "link") == ""


def test_a_file_that_was_removed_and_is_still_open_counts(tmp_path: Path) -> None:
    path, other = fill(tmp_path / "work"), tmp_path / "other"
    path.rename(tmp_path / "file")
    path.mkdir()
    other.mkdir()
    with fill(path / "gone").open("rb"), fill(other / "gone").open("rb"):
        (path / "gone").unlink()
        (other / "gone").unlink()
        assert beyond(path) == ""
        assert beyond(path, pids=(os.getpid(),)) == "wrote more than 1 MiB in its work folder"
        assert beyond(path, 3 * MIB, pids=(os.getpid(),)) == ""


@pytest.fixture
def swept(tmp_path: Path) -> Iterator[None]:
    """Nothing too deep is left behind, whatever becomes of the test: pytest itself could not remove it."""
    yield
    for path in tmp_path.iterdir():
        subprocess.run(["rm", "-rf", str(path)], check=False)


def deep(top: Path, levels: int, beside: bool = False) -> None:
    """Folders in folders, further than any path reaches; with `beside`, each holds two more, before it and after."""
    fd = os.open(top, os.O_RDONLY)
    for n in range(levels):
        for name in [f"a{n}", f"d{n:020}", f"e{n}"] if beside else [f"d{n:020}"]:
            os.mkdir(name, dir_fd=fd)
        inner = os.open(f"d{n:020}", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = inner
    file = os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=fd)
    os.write(file, os.urandom(2 * MIB))
    os.close(file)
    os.close(fd)


@pytest.mark.usefixtures("swept")
def test_a_tree_that_no_path_reaches_is_measured_and_removed(tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    deep(work, 2000)
    before = len(os.listdir("/proc/self/fd"))
    assert beyond(work, 64 * MIB, 10_000) == ""
    assert beyond(work, files=10_000) == "wrote more than 1 MiB in its work folder"
    assert len(os.listdir("/proc/self/fd")) == before
    workplace.remove(str(work))
    assert not work.exists()


@pytest.mark.usefixtures("swept")
def test_a_tree_made_to_hold_everything_open_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "OPEN_FOLDERS", 30)
    deep(tmp_path, 100, beside=True)
    assert "cannot be measured" in beyond(tmp_path, 64 * MIB)


def test_a_long_look_is_taken_in_slices_and_still_comes_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in range(300):
        (tmp_path / str(n)).touch()
    monkeypatch.setattr(disk, "SLICE_SECONDS", 0.0)  # One entry a slice.
    watch = disk.Watch(disk.Room(str(tmp_path), 1 << 30, 299), list)
    looks = [watch.look() for _ in range(299)]
    assert set(looks) == {("", disk.PAUSE_SECONDS)}
    assert watch.look() == ("made more than 299 files in its work folder", 0.0)


def test_a_dear_look_is_followed_by_a_long_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watch = disk.Watch(disk.Room(str(tmp_path)), list)
    assert watch.look() == ("", disk.REST_SECONDS)
    ticks = itertools.count(0, 0.05)
    monkeypatch.setattr(disk.posix, "clock", lambda: next(ticks))
    assert watch.look() == ("", pytest.approx(5.0))
    ticks = itertools.count(0, 60)
    assert watch.look() == ("", disk.LONGEST_REST_SECONDS)


def python(number: str, code: str, **fields: Any) -> dict[str, Any]:
    return unit(number, "command", {"argv": ["{python}", "-c", code]}, **fields)


FILLS = "import time\nwith open('f', 'wb') as f:\n  for n in range(40): f.write(b'x' * (1 << 20))\ntime.sleep(60)"
HOLDS = FILLS.replace("\n  for", "\n  import os; os.unlink('f')\n  for").replace("\ntime", "\n  f.flush(); time")
MANY = "import time\nfor n in range(300): open(str(n), 'w').close()\ntime.sleep(60)"
MUCH, FILES = "wrote more than 16 MiB in its work folder", "made more than 200 files in its work folder"


@BOTH
@pytest.mark.parametrize(("code", "why"), [(FILLS, MUCH), (HOLDS, MUCH), (MANY, FILES)], ids=["file", "open", "many"])
def test_a_unit_that_fills_the_disk_is_ended_and_its_note_says_why(
    wire: Wire, isolation: str, sandboxed: str, code: str, why: str
) -> None:
    began = time.monotonic()
    units = python("u-hog", code), python("u-after", "open('f', 'wb').write(b'x' * (1 << 20))")
    hog, after = wire.run(order_of(*units, sandbox=isolation, work_bytes=16 * MIB, work_files=200))
    (attempt,) = hog["attempts"]
    assert (attempt["outcome"], attempt["note"]) == ("crashed", f"the process was ended by the runner: it {why}")
    assert why in message(attempt, "u-hog")
    assert after["attempts"][0]["outcome"] == "passed"
    assert time.monotonic() - began < 30


def test_in_company_the_test_in_hand_is_blamed_and_the_rest_goes_on_with_an_empty_folder(
    wire: Wire, fake_gtest: Any, fake_build: Path
) -> None:
    hog = "open('f', 'wb').write(b'x' * (40 << 20)); time.sleep(60);"
    after = "time.sleep(2.5); outcome = 'FAILED' if os.path.exists('f') else 'OK';"
    one = fake_gtest({"A.One": "", "A.Hog": hog, "A.After": after})
    (record,) = wire.run(order_of(one, build=fake_build, work_bytes=16 * MIB, retry_alone=0))
    (company,) = record["attempts"]
    assert outcomes(company) == {"A.One": "passed", "A.Hog": "crashed", "A.After": "passed"}
    assert message(company, "Hog").startswith(MUCH)
    assert f"a process was ended by the runner: it {MUCH}, inside A.Hog" in company["note"]


def test_without_a_word_of_the_order_the_stated_room_is_given() -> None:
    assert (disk.Room("x").bytes, disk.Room("x").files) == (10 << 30, 1_000_000)
    assert disk.shown(disk.WORK_BYTES) == "10 GiB"


@pytest.mark.usefixtures("swept")
def test_a_unit_that_leaves_folders_beyond_any_path_takes_nothing_along(wire: Wire, runner_root: Path) -> None:
    code = "import os\nfor n in range(2000): os.mkdir('d' * 20); os.chdir('d' * 20)"
    records = wire.run(order_of(python("u-deep", code), python("u-after", "")))
    assert [record["attempts"][0]["outcome"] for record in records] == ["passed", "passed"]
    assert list((runner_root / "leases" / "lease-1" / "work").iterdir()) == []
