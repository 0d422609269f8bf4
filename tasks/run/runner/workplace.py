"""Where a unit runs: its folder, its environment variables, what it may see.

A unit gets nothing that is not said here: the environment is built from nothing, not cut down from ours.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from dataclasses import dataclass
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple

from . import accelerators
from . import sandbox as isolation
from .process import Command, Pipe, open_pipe

BASE_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "TORCHINDUCTOR_COMPILE_THREADS",
)


class NoIsolation(Exception):
    """The sandbox was demanded and this host cannot give it."""


@dataclass(frozen=True)
class Place:
    """Everything fixed about where the processes of one attempt run."""

    work: str
    build: Optional[str]
    sources: Optional[str]
    python: str
    env: Mapping[str, str]
    sandbox: isolation.Sandbox
    bounds: isolation.Bounds
    mark: str = ""

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
            return Command(argv, variables, self.work, shown=argv, pipes=tuple(pipes))
        counted = [] if survivors is None else [open_pipe(survivors)]
        wrapped = isolation.wrap(self.sandbox, argv, variables, self.bounds, counted[0].write if counted else None)
        return Command(wrapped, {}, "/", shown=argv, pipes=(*pipes, *counted), wrapped=True)


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
    env = _environment(work, build, python, threads)
    env.update(accelerators.visibility(klass, devices))
    env.update({str(name): str(value) for name, value in (accelerator.get("env") or {}).items()})
    env.update({str(name): str(value) for name, value in extra_env.items()})
    nodes = list(accelerator.get("nodes") or accelerators.nodes(klass, devices))
    read_only = [path for path in (build, sources) if path]
    read_only += [prefix for prefix in python_prefixes if _may_be_shown(prefix, work)]
    read_only += accelerators.system_paths(klass)
    bounds = isolation.Bounds(work, etc, tuple(read_only), tuple(nodes), memory_bytes)
    return Place(work, build, sources, python, env, chosen, bounds, mark)


def _choose(found: isolation.Sandbox, wanted: str) -> isolation.Sandbox:
    if wanted == "none":
        return isolation.Sandbox("none", why="the order asks for none")
    if wanted == "bubblewrap" and found.kind != "bubblewrap":
        raise NoIsolation(f"the sandbox bubblewrap is demanded and cannot be had here: {found.why}")
    return found


def _environment(work: str, build: Optional[str], python: str, threads: int) -> Dict[str, str]:
    env = {
        "PATH": os.path.dirname(python) + ":" + BASE_PATH,
        "HOME": work,
        "TMPDIR": work,
        "LANG": "C.UTF-8",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONNOUSERSITE": "1",
        "TORCHINDUCTOR_CACHE_DIR": os.path.join(work, "inductor"),
    }
    for name in THREAD_VARIABLES:
        env[name] = str(threads)
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
    """Remove a work folder whatever its unit made of it (folders without permissions included)."""
    shutil.rmtree(folder, ignore_errors=True)
    if not os.path.lexists(folder):
        return
    for path, names, _ in os.walk(folder):
        for one in [path] + [os.path.join(path, name) for name in names]:
            _open_up(one)
    shutil.rmtree(folder, ignore_errors=True)


def _open_up(folder: str) -> None:
    try:
        if not os.path.islink(folder):
            os.chmod(folder, stat.S_IRWXU)
    except OSError:
        pass  # What cannot be opened stays; the lease's folder goes as a whole later.


def program(place: Place, path: str) -> List[str]:
    """A program of the build by its path inside it. Raises ValueError when the path leaves the build."""
    root = os.path.abspath(place.build or "/nonexistent")
    full = os.path.normpath(os.path.join(root, path))
    if not full.startswith(root + os.sep):
        raise ValueError(f"{path!r} is not inside the build")
    return [full]
