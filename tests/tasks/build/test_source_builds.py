"""What the source kind promises, on a real repository with a real C++ extension."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest

from blocks.catalog.models import SourceBuild
from blocks.errors import BuildError
from tasks.build.checkout import check_out, resolve_ref
from tests.tasks.build.place import Place, runs, wheel

EXTENSION = """
#include <Python.h>
#include <cstdlib>
#include <numeric>
#include <vector>
static PyObject* total(PyObject*, PyObject* args) {
  int n;
  if (!PyArg_ParseTuple(args, "i", &n)) return nullptr;
  if (std::getenv("SUMMING_REFUSES")) return nullptr;
  std::vector<long> numbers(n);
  std::iota(numbers.begin(), numbers.end(), 1);
  return PyLong_FromLong(std::accumulate(numbers.begin(), numbers.end(), 0L));
}
static PyMethodDef methods[] = {{"total", total, METH_VARARGS, "1 + 2 + ... + n"}, {nullptr, nullptr, 0, nullptr}};
static PyModuleDef module = {PyModuleDef_HEAD_INIT, "summing", nullptr, -1, methods};
PyMODINIT_FUNC PyInit_summing() { return PyModule_Create(&module); }
"""

# A build script as a project without any build tool would have it: compile, and put the result into a wheel.
SCRIPT = """
import os, subprocess, sys, sysconfig, zipfile
suffix = sysconfig.get_config_var("EXT_SUFFIX")
tag = f"cp{sys.version_info[0]}{sys.version_info[1]}"
include = sysconfig.get_path("include")
print("compiling", flush=True)
subprocess.run(["c++", "-shared", "-fPIC", "-I", include, "summing.cpp", "-o", "summing" + suffix], check=True)
info = "summing-0.3.dist-info"
stamp = int(os.environ["SOURCE_DATE_EPOCH"])
with zipfile.ZipFile(os.path.join(sys.argv[1], f"summing-0.3-{tag}-{tag}-linux_x86_64.whl"), "w") as archive:
    archive.write("summing" + suffix)
    archive.writestr(info + "/METADATA", "Metadata-Version: 2.1\\nName: summing\\nVersion: 0.3\\n")
    archive.writestr(info + "/WHEEL", f"Wheel-Version: 1.0\\nTag: {tag}-{tag}-linux_x86_64\\n")
    archive.writestr(info + "/RECORD", "")
    archive.writestr("environment.txt", "\\n".join(f"{k}={v}" for k, v in sorted(os.environ.items())))
"""


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@t", "-c", "init.defaultBranch=main"]
    done = subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with one commit, on `main`, tagged `v1`."""
    folder = tmp_path / "summing"
    folder.mkdir()
    (folder / "summing.cpp").write_text(EXTENSION)
    (folder / "make.py").write_text(SCRIPT)
    git(folder, "init", "--quiet")
    commit(folder)
    git(folder, "tag", "-a", "v1", "-m", "one")
    return folder


def commit(folder: Path) -> str:
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "-m", "x", "--date", "2026-01-02T03:04:05Z")
    return git(folder, "rev-parse", "HEAD")


def spec(repository: Path | str, ref: str = "main", **more: Any) -> SourceBuild:
    body = {
        "kind": "source",
        "repository": str(repository),
        "ref": ref,
        "command": ["{python}", "make.py", "{out}"],
        "outputs": ["{out}/*.whl"],
        **more,
    }
    return SourceBuild.model_validate(body)


def test_a_real_extension_is_built_from_its_commit_and_works(
    place: Place, repository: Path, links: Path, tmp_path: Path
) -> None:
    wheel(links, "apple", "1.2")
    made = place.make(spec(repository, requirements=["apple==1.2"], toolchain=["c++"]))
    own, beside = sorted(made.build.artifacts, key=lambda artifact: artifact.name, reverse=True)
    assert beside.name == "apple-1.2-py3-none-any.whl"
    with zipfile.ZipFile(place.store.path(own.digest)) as archive:
        archive.extractall(tmp_path / "site")
    code = "import summing; print(summing.total(100))"
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(tmp_path / "site")}
    shown = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert shown.stdout == "5050\n"
    assert made.build.version == "0.3"
    assert made.build.runtime.python == f"cp{sys.version_info[0]}{sys.version_info[1]}"
    assert made.build.runtime.libc.startswith("glibc 2.")  # read from the compiled library: no tag says it
    assert made.build.runtime.toolchain == ("c++",)


def test_provenance_names_the_commit_that_the_ref_was(place: Place, repository: Path) -> None:
    made = place.make(spec(repository, "v1"))
    statement = json.loads(base64.b64decode(json.loads(place.store.get(made.provenance))["payload"]))
    source = statement["predicate"]["buildDefinition"]["resolvedDependencies"][0]
    assert source["digest"] == {"gitCommit": git(repository, "rev-parse", "HEAD")}
    assert source["uri"] == f"git+{repository}@v1"


def test_an_unchanged_commit_is_not_built_twice_and_a_new_one_is(place: Place, repository: Path) -> None:
    first = place.make(spec(repository))
    assert place.make(spec(repository)).reused
    (repository / "readme").write_text("changed")
    commit(repository)
    third = place.make(spec(repository))
    assert not third.reused
    assert third.build.key != first.build.key


@pytest.mark.parametrize("kind", ["branch", "annotated tag", "commit", "file URL", "full ref", "older commit"])
def test_a_ref_may_be_anything_that_names_a_commit(kind: str, place: Place, repository: Path) -> None:
    expected = git(repository, "rev-parse", "HEAD")
    if kind == "older commit":  # which no branch points at any more
        (repository / "more").write_text("")
        commit(repository)
    ref = {"branch": "main", "annotated tag": "v1", "full ref": "refs/heads/main", "file URL": "main"}.get(
        kind, expected
    )
    where = repository.as_uri() if kind == "file URL" else str(repository)
    bench = place.bench()
    resolved = resolve_ref(where, ref, bench)
    assert resolved == expected
    folder = check_out(where, resolved, bench)
    assert git(folder, "rev-parse", "HEAD") == expected
    assert git(folder, "rev-list", "--count", "HEAD") == "1"


def test_submodules_are_checked_out_too(place: Place, repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outer = repository.parent / "outer"
    outer.mkdir()
    git(outer, "init", "--quiet")
    git(outer, "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", "../summing", "part")
    revision = commit(outer)
    # Git refuses submodules from local folders unless told; the catalogs of this world name https.
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", "protocol.file.allow")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", "always")
    folder = check_out(str(outer), revision, place.bench())
    assert (folder / "part" / "summing.cpp").exists()


def test_the_command_sees_a_clean_environment(
    place: Place, repository: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    monkeypatch.setenv("PYTHONPATH", "/nowhere")
    made = place.make(spec(repository, env={"MY_FLAG": "yes", "WHERE": "{out}/x"}))
    with zipfile.ZipFile(place.store.path(made.build.artifacts[0].digest)) as archive:
        lines = archive.read("environment.txt").decode().splitlines()
    seen = dict(line.partition("=")[::2] for line in lines)
    assert "AWS_SECRET_ACCESS_KEY" not in seen
    assert "PYTHONPATH" not in seen
    assert seen["HOME"] != os.environ["HOME"]
    assert str(place.root / "workshop") in seen["HOME"]
    assert seen["SOURCE_DATE_EPOCH"] == git(repository, "show", "-s", "--format=%ct")
    assert seen["MY_FLAG"] == "yes"
    assert seen["WHERE"].endswith("/out/x")


def test_build_requirements_are_there_for_the_command_and_nowhere_else(
    place: Place, repository: Path, links: Path
) -> None:
    wheel(links, "apple", "1.2")
    script = 'import apple, sys; open(sys.argv[1] + "/apple-" + apple.version + ".tar.gz", "w").close()'
    command = ["{python}", "-c", script, "{out}"]
    made = place.make(spec(repository, command=command, outputs=["{out}/*.tar.gz"], build_requirements=["apple==1.2"]))
    assert [(artifact.role, artifact.name) for artifact in made.build.artifacts] == [("tree", "apple-1.2.tar.gz")]


def test_the_first_compiler_error_is_in_the_message_and_the_log_is_kept(place: Place, repository: Path) -> None:
    (repository / "summing.cpp").write_text(EXTENSION.replace("0L)", "0L, nonsense)"))
    commit(repository)
    with pytest.raises(BuildError) as caught:
        place.make(spec(repository))
    assert re.search(r"summing.cpp:\d+:\d+: error: .nonsense. was not declared in this scope", caught.value.what)
    log = Path(caught.value.kept.removeprefix("The whole log: ").rstrip("."))
    assert "CalledProcessError" in log.read_text()
    assert place.leftovers() == []
    assert place.events() == []


def test_a_command_that_takes_too_long_is_ended_with_all_its_children(place: Place, repository: Path) -> None:
    mark = place.root / "children"
    script = f"sleep 300 & echo $! > {mark}; sleep 300"
    began = time.monotonic()
    with pytest.raises(BuildError, match="ran out of time"):
        place.make(spec(repository, command=["sh", "-c", script], timeout_minutes=0.01))
    assert time.monotonic() - began < 30
    assert not runs(int(mark.read_text()))


def test_what_a_build_leaves_running_is_ended_and_not_waited_for(place: Place, repository: Path) -> None:
    mark = place.root / "children"
    script = f"sleep 300 & echo $! > {mark}; : > $1/x.tar.gz"
    began = time.monotonic()
    place.make(spec(repository, command=["sh", "-c", script, "sh", "{out}"], outputs=["{out}/x.tar.gz"]))
    assert time.monotonic() - began < 30
    assert not runs(int(mark.read_text()))


def test_the_last_lines_of_a_long_build_are_said(place: Place, repository: Path) -> None:
    script = "for i in 1 2 3; do echo step $i; sleep 0.6; done; : > $1/x.tar.gz"
    place.make(spec(repository, command=["sh", "-c", script, "sh", "{out}"], outputs=["{out}/x.tar.gz"]))
    assert {"step 1", "step 2", "step 3"} <= set(place.said)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"outputs": ["dist/*.whl"]}, r"left nothing that fits 'dist/\*\.whl'"),
        ({"outputs": ["*.py"]}, r"make\.py is no artifact"),
        ({"ref": "nope"}, "has no branch or tag 'nope'"),
        ({"ref": "0" * 40}, "0000000"),
        ({"repository": "/no/such/repository"}, "does not appear to be a git repository|does not exist"),
        ({"repository": "--upload-pack=touch /tmp/x"}, "is no repository"),
        ({"command": ["frobnicate"]}, "frobnicate cannot be started"),
    ],
)
def test_each_mistake_gets_its_own_error(change: dict[str, Any], message: str, place: Place, repository: Path) -> None:
    with pytest.raises(BuildError, match=message) as caught:
        place.make(spec(**{"repository": repository, **change}))
    assert caught.value.do
    assert place.leftovers() == []
