"""Where a unit runs: its folder, its environment variables, what it may see.

A unit gets nothing that is not said here: the environment is built from nothing, not cut down from ours.
"""

from __future__ import annotations

import itertools
import os
import re
import shutil
import stat
import subprocess
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

from . import accelerators
from . import sandbox as isolation
from .process import Command, Pipe, open_pipe
from .records import clean

BASE_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "TORCHINDUCTOR_COMPILE_THREADS",
)
# A unit gets no secret of ours; what a catalog may call one by mistake is at least not written down.
SECRET = re.compile(
    r"TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIAL|(API|ACCESS|PRIVATE)_?KEY"
    r"|(^|_)(KEY|PAT|PASS|AUTH|COOKIE|DSN)(_|$)",
    re.IGNORECASE,
)
SECRET_VALUE = re.compile(r"://[^/\s@]*:[^/\s@]*@")  # a URL with a password in it
STATED_NAMES, NAME_CHARACTERS, VALUE_CHARACTERS = 200, 200, 4000
"""So many variables go on record, of names and values of so many characters."""


class NoIsolation(Exception):
    """The sandbox was demanded and this host cannot give it."""


@dataclass(frozen=True)
class Place:
    """Everything fixed about where the processes of one attempt run. `stated` are those of the variables that somebody
    asked for (threads, devices, suite, environment): not the paths of this machine."""

    work: str
    build: Optional[str]
    sources: Optional[str]
    python: str
    env: Mapping[str, str]
    sandbox: isolation.Sandbox
    bounds: isolation.Bounds
    mark: str = ""
    stated: Mapping[str, str] = field(default_factory=dict)

    @property
    def isolation(self) -> str:
        return self.sandbox.isolation()

    def path(self, name: str) -> str:
        """A file in the work folder."""
        return os.path.join(self.work, name)

    def command(
        self,
        argv: Sequence[str],
        env: Optional[Mapping[str, str]] = None,
        pipes: Sequence[Pipe] = (),
        survivors: Optional[Callable[[bytes], None]] = None,
    ) -> Command:
        """The command that runs `argv` here, inside the sandbox when there is one."""
        variables = {**self.env, **(env or {})}
        if self.sandbox.kind == "none":
            if self.mark:
                name, value = self.mark.split("=", 1)
                variables[name] = value
            return Command(argv, variables, self.work, shown=argv, pipes=tuple(pipes), stated=self.stated)
        counted = [] if survivors is None else [open_pipe(survivors)]
        wrapped = isolation.wrap(self.sandbox, argv, variables, self.bounds, counted[0].write if counted else None)
        return Command(wrapped, {}, "/", shown=argv, pipes=(*pipes, *counted), wrapped=True, stated=self.stated)


def prefixes(python: str) -> Tuple[str, ...]:
    """The folders that an interpreter needs: its own prefix and, for a virtual environment, the one behind it."""
    code = "import sys; print(sys.prefix); print(sys.base_prefix); print(sys.base_exec_prefix)"
    try:
        told = subprocess.run([python, "-I", "-S", "-c", code], capture_output=True, text=True, timeout=60, check=True)
        lines = told.stdout.splitlines()
    except (OSError, subprocess.SubprocessError):
        return ()  # The unit itself will say that its interpreter cannot be started.
    # With -S a virtual environment's site is not set up and its prefix may read as the base's: take it from the path.
    if os.path.exists(os.path.join(os.path.dirname(python), os.pardir, "pyvenv.cfg")):
        lines.append(os.path.dirname(os.path.dirname(os.path.abspath(python))))
    return tuple(dict.fromkeys(os.path.abspath(line) for line in lines))


def make(
    *,
    work: str,
    etc: str,
    found: isolation.Sandbox,
    wanted: str,
    build: Optional[str],
    sources: Optional[str],
    python: str,
    python_prefixes: Sequence[str],
    accelerator: Mapping[str, Any],
    threads: int,
    extra_env: Mapping[str, str],
    memory_bytes: Optional[int],
    mark: str = "",
) -> Place:
    """Make the work folder and say what runs in it. Raises OSError (a full disk), NoIsolation."""
    chosen = _choose(found, wanted)
    os.makedirs(work)
    klass = str(accelerator.get("class", "cpu"))
    devices = [int(index) for index in accelerator.get("devices") or ()]
    asked = {
        **dict.fromkeys(THREAD_VARIABLES, threads),
        **accelerators.visibility(klass, devices),
        **(accelerator.get("env") or {}),
        **extra_env,
    }
    chosen_env = {str(name): str(value) for name, value in asked.items()}
    env = {**_environment(work, build, python), **chosen_env}
    nodes = list(accelerator.get("nodes") or accelerators.nodes(klass, devices))
    read_only = [path for path in (build, sources) if path]
    read_only += [prefix for prefix in python_prefixes if _may_be_shown(prefix, work)]
    read_only += accelerators.system_paths(klass)
    bounds = isolation.Bounds(work, etc, tuple(read_only), tuple(nodes), memory_bytes)
    return Place(work, build, sources, python, env, chosen, bounds, mark, _on_record(chosen_env))


def _on_record(env: Mapping[str, str]) -> Dict[str, str]:
    """Of these variables those that may be written down whole. A value is never cut: it would be another one."""
    kept = {
        name: value
        for name, value in sorted(env.items())
        if len(name) <= NAME_CHARACTERS
        and len(value) <= VALUE_CHARACTERS
        and not (SECRET.search(name) or SECRET_VALUE.search(value))
    }
    return {clean(name): clean(value) for name, value in list(kept.items())[:STATED_NAMES]}


def _choose(found: isolation.Sandbox, wanted: str) -> isolation.Sandbox:
    if wanted == "none":
        return isolation.Sandbox("none", why="the order asks for none")
    if wanted == "bubblewrap" and found.kind != "bubblewrap":
        raise NoIsolation(f"the sandbox bubblewrap is demanded and cannot be had here: {found.why}")
    return found


def _environment(work: str, build: Optional[str], python: str) -> Dict[str, str]:
    """What every unit gets: where things are here."""
    env = {
        "PATH": os.path.dirname(python) + ":" + BASE_PATH,
        "HOME": work,
        "TMPDIR": work,
        "LANG": "C.UTF-8",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONNOUSERSITE": "1",
        "TORCHINDUCTOR_CACHE_DIR": os.path.join(work, ".inductor"),
    }
    if build:
        env["PYTHONPATH"] = os.path.join(build, "site")
        libraries = os.path.join(build, "site", "torch", "lib")
        if os.path.isdir(libraries):
            env["LD_LIBRARY_PATH"] = libraries
    return env


def _may_be_shown(prefix: str, work: str) -> bool:
    """A prefix that holds our own folders, or the whole host, is not shown for the sake of an interpreter."""
    return prefix != "/" and not work.startswith(prefix.rstrip("/") + "/")


def remove(folder: str) -> None:
    """Remove a work folder whatever its unit made of it (folders without permissions, or thousands deep)."""
    try:
        shutil.rmtree(folder, ignore_errors=True)
    except RecursionError:
        pass  # Before Python 3.13 it calls itself for each level.
    if os.path.isdir(folder) and not os.path.islink(folder):
        _flatten(folder)


def _flatten(folder: str) -> None:
    """Each folder below is moved up, right into `folder`, before it is emptied, so that no path becomes too long."""
    fresh = (os.path.join(folder, f".gone-{os.getpid()}-{number}") for number in itertools.count())
    waiting = [folder]
    while waiting:
        one = waiting.pop()
        try:
            os.chmod(one, stat.S_IRWXU)
            waiting += [moved for name in os.listdir(one) for moved in _taken(os.path.join(one, name), fresh)]
            if one != folder:
                os.rmdir(one)
        except OSError:
            pass  # What cannot be opened stays; the lease's folder goes as a whole later.
    shutil.rmtree(folder, ignore_errors=True)


def _taken(path: str, fresh: Iterator[str]) -> List[str]:
    """Remove a file, or give a folder the next fresh name, which is returned."""
    try:
        if not os.path.isdir(path) or os.path.islink(path):
            os.unlink(path)
            return []
        os.chmod(path, stat.S_IRWXU)  # A folder that is moved is written to: it says which one is above it.
        moved = next(fresh)
        os.rename(path, moved)
    except OSError:
        return []
    return [moved]


def program(place: Place, path: str) -> List[str]:
    """A program of the build by its path inside it. Raises ValueError when the path leaves the build."""
    root = os.path.abspath(place.build or "/nonexistent")
    full = os.path.normpath(os.path.join(root, path))
    if not full.startswith(root + os.sep):
        raise ValueError(f"{path!r} is not inside the build")
    return [full]
