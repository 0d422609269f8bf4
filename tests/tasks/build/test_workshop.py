"""Interrupted builds, builds made twice at once, and a disk that is full: nothing confuses the next build."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from blocks.catalog.models import SourceBuild, WheelBuild
from tasks.build.workshop import one_maker, sweep, temporary_folder
from tests.tasks.build.place import Place, runs, wheel
from tests.tasks.build.test_source_builds import commit, git

BUILDER = """
import sys
from pathlib import Path
from blocks.catalog.models import SourceBuild, WheelBuild
from blocks.errors import CommonfleetError
from tests.tasks.build.place import open_place
root, spec = Path(sys.argv[1]), sys.argv[2]
kind = WheelBuild if '"wheel"' in spec else SourceBuild
place = open_place(root)
try:
    made = place.make(kind.model_validate_json(spec))
    print("reused" if made.reused else "made", made.build.digest)
except CommonfleetError as error:
    print(type(error).__name__, error, "LEFT", place.leftovers())
"""


def builder(place: Place, spec: SourceBuild | WheelBuild) -> subprocess.Popen[str]:
    """Another process that makes `spec` in the same place."""
    argv = [sys.executable, "-c", BUILDER, str(place.root), spec.model_dump_json()]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[3])


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "empty"
    folder.mkdir()
    git(folder, "init", "--quiet")
    (folder / "file").write_text("")
    commit(folder)
    return folder


def shell(repository: Path, script: str) -> SourceBuild:
    return SourceBuild(
        kind="source",
        repository=str(repository),
        ref="main",
        command=["sh", "-c", script, "sh", "{out}"],
        outputs=["{out}/*.tar.gz"],
    )


def wait_for(path: Path) -> str:
    deadline = time.monotonic() + 60
    while not (path.exists() and path.read_text().strip()):
        assert time.monotonic() < deadline, f"{path} was never written"
        time.sleep(0.05)
    return path.read_text().strip()


def test_a_builder_that_is_killed_leaves_nothing_after_the_next_build(place: Place, repository: Path) -> None:
    pid_file, blocked = place.root / "pid", place.root / "blocked"
    blocked.write_text("")
    # The first time it hangs where a compiler would be busy; the second time it is done at once.
    script = f"test -e {blocked} && {{ echo $$ > {pid_file}; exec sleep 300; }}; echo content > $1/x.tar.gz"
    spec = shell(repository, script)
    first = builder(place, spec)
    compiler = int(wait_for(pid_file))
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert place.leftovers()
    blocked.unlink()
    made = place.make(spec)
    assert not made.reused
    assert place.leftovers() == []
    assert place.events() == ["build.made"]
    deadline = time.monotonic() + 10
    while runs(compiler) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not runs(compiler)


def test_of_two_builders_at_once_one_makes_and_the_other_waits(place: Place, repository: Path) -> None:
    count = place.root / "count"
    spec = shell(repository, f"echo made >> {count}; sleep 1; echo content > $1/x.tar.gz")
    both = [builder(place, spec) for _ in range(2)]
    said = sorted(process.communicate()[0].split() for process in both)
    assert [words[0] for words in said] == ["made", "reused"]
    assert said[0][1] == said[1][1]
    assert count.read_text() == "made\n"


def test_the_one_that_waits_says_for_whom(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from tasks.build.workshop import one_maker\n"
        "with one_maker(Path(sys.argv[1]), 'sha256:ab', lambda line: print(line, flush=True)):\n"
        "    print('mine', flush=True)"
    )
    said: list[str] = []
    with one_maker(tmp_path, "sha256:ab", said.append):
        argv = [sys.executable, "-c", code, str(tmp_path)]
        other = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[3])
        assert other.stdout
        assert other.stdout.readline() == f"waiting for process {os.getpid()}, which makes the same build\n"
        assert other.poll() is None
    assert other.communicate()[0] == "mine\n"
    assert said == []


def test_the_folder_of_a_living_builder_is_not_swept(tmp_path: Path) -> None:
    with temporary_folder(tmp_path) as folder:
        (folder / "work").write_text("")
        assert sweep(tmp_path) == 0
        assert (folder / "work").exists()
    assert not folder.exists()
    (tmp_path / "making-old" / "site").mkdir(parents=True)
    assert sweep(tmp_path) == 1
    assert not (tmp_path / "making-old").exists()


def test_a_process_that_has_inherited_a_dead_ones_number_is_left_alone(tmp_path: Path) -> None:
    bystander = subprocess.Popen(["sleep", "60"], start_new_session=True)
    try:
        (tmp_path / "making-old").mkdir()
        (tmp_path / "making-old" / f"running-{bystander.pid}").write_text("12345")
        assert sweep(tmp_path) == 1
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_a_full_disk_is_a_clear_error_and_leaves_nothing_behind(place: Place, links: Path, tmp_path: Path) -> None:
    """On a real file system of 6 MB, with a wheel of 4 MB: it fits once, and not a second time."""
    if subprocess.run(["unshare", "-Urm", "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("this machine lets nobody mount a small file system (unshare -Urm)")
    wheel(links, "apple", "1.2", body="# " + os.urandom(2 << 20).hex())
    spec = WheelBuild(kind="wheel", requirements=["apple==1.2"]).model_dump_json()
    disk = tmp_path / "disk"
    disk.mkdir()
    inside = f'mount -t tmpfs -o size=6m none {disk} && exec "$@"'
    argv = ["unshare", "-Urm", "sh", "-c", inside, "sh", sys.executable, "-c", BUILDER, str(disk), spec]
    env = {**os.environ, "TMPDIR": str(tmp_path)}
    shown = subprocess.run(argv, capture_output=True, text=True, env=env, cwd=Path(__file__).parents[3], check=False)
    assert "BuildError The build b could not be written: No space left on device" in shown.stdout, shown
    assert "Free some space" in shown.stdout
    assert shown.stdout.rstrip().endswith("LEFT []")
