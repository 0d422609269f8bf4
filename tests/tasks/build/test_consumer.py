"""The C++ consumer: small ones without torch, and the one that ships against the real wheel."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tarfile
import threading
import time
import zipfile
from pathlib import Path

import pytest

from blocks.catalog.models import WheelBuild
from blocks.errors import BuildError
from blocks.home import Home
from blocks.signing import load_or_make_key
from blocks.store import Store
from tasks.build.base import Bench
from tasks.build.consumer import build_consumer, pack
from tasks.build.make import MadeBuild
from tasks.build.provenance import check_build
from tests.small import asked
from tests.tasks.build.place import Place, wheel

CMAKE = "cmake_minimum_required(VERSION 3.18)\nproject(c LANGUAGES CXX)\nadd_executable(consumer consumer.cpp)\n"
GOOD = "#include <cstdio>\nint main() { std::puts(__FILE__); }\n"


def consumer(place: Place, links: Path, cpp: str = GOOD, cmake: str = CMAKE, model: str | None = None) -> WheelBuild:
    """A build of a tiny wheel whose consumer needs no torch."""
    wheel(links, "apple", "1.2")
    folder = place.root / "catalog" / "consumer"
    folder.mkdir(exist_ok=True)
    (folder / "CMakeLists.txt").write_text(cmake)
    (folder / "consumer.cpp").write_text(cpp)
    if model is not None:
        (folder / "model.py").write_text(model)
    return WheelBuild(kind="wheel", requirements=["apple==1.2"], consumer="consumer")


def unpacked(store: Store, made: MadeBuild, folder: Path) -> Path:
    """The consumer's tree, unpacked as a machine does it."""
    digest = next(artifact.digest for artifact in made.build.artifacts if artifact.name == "consumer.tar.gz")
    with tarfile.open(store.path(digest)) as archive:
        archive.extractall(folder / "consumer", filter="data")
    return folder / "consumer"


def test_a_consumer_is_compiled_packed_and_runs(place: Place, links: Path, tmp_path: Path) -> None:
    made = place.make(
        consumer(place, links, model="import apple, sys; open(sys.argv[1] + '/m', 'w').write(apple.version)")
    )
    folder = unpacked(place.store, made, tmp_path)
    shown = subprocess.run([folder / "consumer"], capture_output=True, text=True, check=True)
    assert str(place.root) not in shown.stdout  # the program does not depend on where it was compiled
    assert (folder / "m").read_text() == "1.2"  # the model script imported from the wheels
    assert made.build.runtime.libc.startswith("glibc 2.")


def test_a_cuda_build_without_the_toolkit_is_refused_before_it_is_fetched(
    place: Place, links: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = consumer(place, links)
    wheel(links, "apple", "1.2", needs=["nvidia-cublas"])
    wheel(links, "nvidia-cublas", "13.0")
    programs = shutil.which
    monkeypatch.setattr(shutil, "which", lambda name: None if name == "nvcc" else programs(name))
    monkeypatch.setattr("tasks.build.consumer.TOOLKIT", str(tmp_path / "none"))
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "cuda"))
    monkeypatch.delenv("CUDA_PATH", raising=False)
    with pytest.raises(BuildError, match=r"nvidia-cublas.*no `nvcc`") as refused:
        place.make(spec)
    assert refused.value.kept == "Nothing was downloaded."
    assert "indexes" in refused.value.do
    (tmp_path / "cuda" / "bin").mkdir(parents=True)
    (tmp_path / "cuda" / "bin" / "nvcc").touch()
    place.make(spec)


def test_changed_sources_make_another_build(place: Place, links: Path) -> None:
    first = place.make(consumer(place, links))
    assert place.make(consumer(place, links)).reused
    second = place.make(consumer(place, links, cpp=GOOD + "// changed\n"))
    assert not second.reused
    assert second.build.key != first.build.key


def test_a_compiler_error_is_shown_and_the_other_half_is_ended(place: Place, links: Path) -> None:
    began = time.monotonic()
    with pytest.raises(BuildError) as caught:
        place.make(consumer(place, links, cpp="int main() { return oops; }\n", model="import time; time.sleep(120)"))
    assert time.monotonic() - began < 60
    assert "Compiling the libtorch consumer" in caught.value.what
    assert re.search(r"consumer\.cpp:1:21: error: .oops. was not declared", caught.value.what)
    log = Path(caught.value.kept.removeprefix("The whole log: ").rstrip("."))
    assert "oops" in log.read_text()
    assert place.leftovers() == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cmake": CMAKE + "find_package(Nope REQUIRED)\n"}, "CMake Error at CMakeLists.txt:4 .find_package.:"),
        ({"cpp": "int f();\nint main() { return f(); }\n"}, "undefined reference to `f"),
        ({"model": "raise SystemError('no such model')"}, "SystemError: no such model"),
    ],
)
def test_each_other_step_shows_its_first_error_too(
    change: dict[str, str], message: str, place: Place, links: Path
) -> None:
    with pytest.raises(BuildError, match=message):
        place.make(consumer(place, links, **change))


def test_an_archive_depends_on_names_and_contents_alone(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        for file in ("b", "a") if name == "one" else ("a", "b"):
            (tmp_path / name / file).write_text(file)
        time.sleep(0.01)
        pack(tmp_path / name, tmp_path / f"{name}.tar.gz")
    assert (tmp_path / "one.tar.gz").read_bytes() == (tmp_path / "two.tar.gz").read_bytes()


@pytest.mark.torch
def test_the_consumer_that_ships_agrees_with_the_real_torch(
    torch_home: Home, real_torch_build: MadeBuild, tmp_path: Path
) -> None:
    store, key = Store(torch_home.store), load_or_make_key(torch_home.keys / "agent.key")
    build = real_torch_build.build
    assert build.version.startswith("2.13.0")
    assert build.runtime.python
    assert build.runtime.toolchain == ("c++", "Python.h")
    check_build(build, json.loads(store.get(real_torch_build.provenance)), key.public)
    folder = unpacked(store, real_torch_build, tmp_path)
    if build.runtime.arch == "x86_64":  # whatever this processor has: others must be able to run it
        with zipfile.ZipFile(folder / "model.pt2") as package:
            (facts, *_) = [
                json.loads(package.read(n)) for n in package.namelist() if n.endswith("wrapper_metadata.json")
            ]
        assert facts["AOTI_CPU_ISA"] == "AVX2"
    torch = next(artifact for artifact in build.artifacts if artifact.name.startswith("torch-"))
    with zipfile.ZipFile(store.path(torch.digest)) as archive:
        archive.extractall(
            tmp_path / "site", [name for name in archive.namelist() if "/lib/" in name or ".libs/" in name]
        )
    for check in (["tensor"], ["autograd"], ["training"], ["files"], ["aoti", str(folder / "model.pt2")]):
        shown = subprocess.run([folder / "consumer", *check], capture_output=True, text=True, check=False, env={})
        assert (shown.returncode, shown.stdout.splitlines()[-1:]) == (0, ["agreed"]), (check, shown)
    wrong = subprocess.run([folder / "consumer", "aoti", str(folder / "no.pt2")], capture_output=True, check=False)
    assert wrong.returncode == 1


@pytest.mark.torch
def test_the_real_torch_is_not_built_twice(torch_env: dict[str, str], real_torch_build: MadeBuild) -> None:
    before = asked("query", "select count(*) as n from events where kind = 'build.made'", env=torch_env)
    asked("plan", env=torch_env)
    assert asked("query", "select count(*) as n from events where kind = 'build.made'", env=torch_env) == before


def test_a_build_that_is_cancelled_while_it_compiles_ends_both_programs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing but the progress tells a build that it is cancelled, so it must not be silent for long."""
    running = threading.Barrier(3)
    ended: list[str] = []

    def program(*arguments: object) -> None:
        running.wait(10)
        stop = arguments[-1]
        assert isinstance(stop, threading.Event)
        if stop.wait(10):
            ended.append("ended")

    monkeypatch.setattr("tasks.build.consumer._compile", program)
    monkeypatch.setattr("tasks.build.consumer._export", program)
    said: list[str] = []

    def progress(note: str) -> None:
        said.append(note)
        if len(said) == 3:
            running.wait(10)
            raise BuildError("The build was cancelled.")

    with pytest.raises(BuildError, match="cancelled"):
        build_consumer(tmp_path, [], Bench(tmp_path, tmp_path, tmp_path, progress))

    assert ended == ["ended", "ended"]
