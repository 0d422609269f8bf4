"""The embedded PostgreSQL as root, as an ordinary user, and from where its user cannot go."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from blocks.errors import CommonfleetError
from blocks.home import Home, open_home
from deployments.up import database

ROOT = os.geteuid() == 0
LIFE = """
import asyncio, subprocess, sys, time
from blocks.home import open_home
from deployments.up import database
home = open_home()
home.prefect.mkdir(exist_ok=True, mode=0o700)
place = database.locate(home)
database.prepare(place, home)
child = subprocess.Popen(database.command(place), env={"PATH": "/usr/bin:/bin"}, cwd="/", **place.account)
try:
    until = time.monotonic() + 30
    while not asyncio.run(database.ready(place, home)):
        assert time.monotonic() < until and child.poll() is None
        time.sleep(0.1)
    print("ready", place.data, place.programs, database.postmaster(place) == child.pid, flush=True)
    if "hang" in sys.argv:
        time.sleep(300)
finally:
    child.send_signal(2)
    child.wait(20)
"""


@pytest.fixture
def system_folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder in place of /var/lib/commonfleet that every user can pass, as that one is."""
    folder = Path(tempfile.mkdtemp(prefix="commonfleet-test-"))
    folder.chmod(0o711)
    monkeypatch.setattr(database, "SYSTEM_FOLDER", folder)
    yield folder
    shutil.rmtree(folder)


def interpreter_for(user: int) -> str | None:
    """A Python of our version that this user can run: ours, or else the system's."""
    ours = "python{}.{}".format(*sys.version_info)
    candidates = [sys.executable, shutil.which(ours, path=os.defpath)]
    return next((path for path in candidates if path and database.reachable(Path(path), user)), None)


def lived(home: Path, *arguments: str, user: int | None = None) -> subprocess.CompletedProcess[str]:
    python = sys.executable if user is None else interpreter_for(user)
    assert python
    account = {} if user is None else {"user": user, "group": user, "extra_groups": []}
    return subprocess.run(  # type: ignore[call-overload, no-any-return]
        [python, "-B", "-c", LIFE, *arguments],
        env={**os.environ, "COMMONFLEET_HOME": str(home), "HOME": str(home), "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True, text=True, timeout=90, cwd="/", **account,
    )  # fmt: skip


@pytest.mark.skipif(not ROOT, reason="only root can become somebody else")
def test_an_ordinary_user_s_database_lives_in_the_state_folder() -> None:
    nobody = 65534
    if interpreter_for(nobody) is None or not database.reachable(database.packaged_programs() / "postgres", nobody):
        pytest.skip("no other user can run this Python, or reach its packages")
    folder = Path(tempfile.mkdtemp(prefix="commonfleet-test-"))
    try:
        os.chown(folder, nobody, nobody)
        done = lived(folder / "home", user=nobody)
        assert done.returncode == 0, done.stderr
        assert done.stdout.split()[1] == str(folder / "home/prefect/postgres/data")
        assert done.stdout.split()[3] == "True"
    finally:
        shutil.rmtree(folder)


@pytest.mark.skipif(not ROOT, reason="an ordinary user's database lives in the state folder")
def test_root_s_database_has_a_user_and_a_folder_of_its_own(tmp_path: Path, system_folder: Path) -> None:
    home = open_home(tmp_path / "home")
    home.prefect.mkdir()
    place = database.locate(home)
    assert place.uid in database.UIDS
    assert place.folder.parent == system_folder
    assert place.folder.stat().st_uid == place.uid
    assert database.locate(home) == place  # the same one at each start
    moved = Home(home.root.rename(tmp_path / "moved"))
    assert database.locate(moved) == place  # also when the state folder has moved


@pytest.mark.skipif(not ROOT, reason="an ordinary user can always run its own programs")
def test_programs_that_the_database_s_user_cannot_reach_are_copied(
    tmp_path: Path, system_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = database.packaged_programs().parent.parent
    closed = Path(tempfile.mkdtemp(prefix="commonfleet-closed-"))  # mode 0700, as /root is
    try:
        (closed / package.name).symlink_to(package)
        programs = closed / package.name / "pginstall" / "bin"
        uid = database.UIDS[0]
        assert not database.reachable(programs / "postgres", uid)
        monkeypatch.setattr(database, "packaged_programs", lambda: programs)
        copy = database.copied(database.packaged_programs().resolve())
        assert copy.is_relative_to(system_folder)
        assert database.reachable(copy / "postgres", uid)
        assert database.reachable(copy / "initdb", uid)
        home = open_home(tmp_path / "home")
        home.prefect.mkdir()
        monkeypatch.setattr(database, "copied", lambda programs: copy)
        place = database.locate(home)
        assert place.programs == copy
        database.prepare(place, home)
        assert (place.data / "PG_VERSION").stat().st_uid == place.uid
    finally:
        shutil.rmtree(closed)


def test_a_killed_database_is_recognised_and_its_lock_cleared(tmp_path: Path) -> None:
    home = open_home(tmp_path / "home")
    child = subprocess.Popen(
        [sys.executable, "-c", LIFE, "hang"],
        env={**os.environ, "COMMONFLEET_HOME": str(home.root)},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert child.stdout
        assert child.stdout.readline().startswith("ready")
        child.kill()
        child.wait()
        place = database.locate(home)
        pid = database.postmaster(place)
        assert pid  # it outlived its parent, and is known by its data folder
        os.kill(pid, signal.SIGKILL)
        for _ in range(100):
            if database.postmaster(place) is None:
                break
            time.sleep(0.05)
        assert database.postmaster(place) is None
        lock = place.data / "postmaster.pid"
        lock.write_text(f"{os.getpid()}\n" + "\n".join(lock.read_text().splitlines()[1:]) + "\n")
        assert database.postmaster(place) is None  # our own id, which is no postmaster
        database.prepare(place, home)
        assert not lock.exists()
        again = lived(home.root)
        assert again.returncode == 0, again.stderr
    finally:
        child.kill()
        if ROOT and (home.prefect / "database-folder").exists():
            shutil.rmtree((home.prefect / "database-folder").read_text().strip())


def test_a_cluster_of_another_major_version_is_refused(tmp_path: Path) -> None:
    place = database.Database(tmp_path, tmp_path / "socket", database.packaged_programs(), None)
    place.data.mkdir()
    (place.data / "PG_VERSION").write_text("12\n")
    with pytest.raises(CommonfleetError, match="made by PostgreSQL 12"):
        database.check_version(place)


def test_a_socket_path_too_long_for_the_kernel_gets_a_short_private_folder(tmp_path: Path) -> None:
    home = open_home(tmp_path / "home")
    home.prefect.mkdir()
    deep = tmp_path / ("d" * 100)
    short = database.socket_folder(home, deep, None)
    try:
        assert len(str(short)) < 60
        assert short.stat().st_mode & 0o777 == 0o700
        assert database.socket_folder(home, deep, None) == short
    finally:
        short.rmdir()
