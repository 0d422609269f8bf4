"""The sandbox: bubblewrap with an allow-list.

Nothing of the host is there unless it is named here: `/usr` and the loader's files, the build, the interpreter, the
unit's sources (all read-only), its own work folder, its device nodes. Never `/`: with a read-only root a unit could
still open the host's sockets and read its keys. The network is a loopback of its own.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from typing import Dict, List, Mapping, Optional, Sequence, Tuple

HOST_NAME = "commonfleet"
BASE_FOLDERS = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
LOADER_FILES = ("/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/alternatives", "/etc/localtime")
# How many cores and memory nodes there are: without it libraries that ask fall back to one core or fail.
SYSTEM_FACTS = ("/sys/devices/system/cpu", "/sys/devices/system/node")
UNSHARE = (
    "--unshare-user-try", "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try",
    "--die-with-parent", "--new-session",
    # Run by root, bubblewrap would leave every capability in place.
    "--cap-drop", "ALL",
)  # fmt: skip
# Of the folders that bubblewrap makes. For /proc it is vital: started by root, the unit is still user 0 without any
# capability, and files like /proc/sys/kernel/core_pattern ask for no more than that (a program named there is run by
# the kernel, outside).
READ_ONLY = ("--remount-ro", "/proc", "--remount-ro", "/dev", "--remount-ro", "/")
# The unit's exit status is kept; what it left running is counted (all but the first process and this shell).
COUNT_SURVIVORS = (
    '"$@" {fd}>&-; c=$?; set -- /proc/[0-9]*; [ $# -gt 2 ] && {{ sleep 0.1; set -- /proc/[0-9]*; }};'
    " echo $(($# - 2)) >&{fd}; exit $c"
)


@dataclass(frozen=True)
class Sandbox:
    """What isolation this host can give. `kind` is "bubblewrap" or "none", with the reason in `why`."""

    kind: str
    version: str = ""
    why: str = ""
    program: str = ""

    def isolation(self) -> str:
        """As attempts record it."""
        return "bubblewrap" if self.kind == "bubblewrap" else f"none ({self.why})"

    def to_json(self) -> Dict[str, str]:
        if self.kind == "bubblewrap":
            return {"kind": self.kind, "version": self.version}
        return {"kind": self.kind, "why": self.why}


@dataclass(frozen=True)
class Bounds:
    """What one unit may see and use, besides the base system."""

    work: str
    etc: str
    read_only: Tuple[str, ...] = ()
    nodes: Tuple[str, ...] = ()
    memory_bytes: Optional[int] = None


def probe() -> Sandbox:
    """What this host can really do: bubblewrap may be installed and yet forbidden (in containers, by AppArmor)."""
    program = shutil.which("bwrap", path="/usr/local/bin:/usr/bin:/bin")
    if program is None:
        return Sandbox("none", why="bubblewrap is not installed")
    try:
        told = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=20, check=True).stdout
        version = told.split()[-1]
        argv = [program, *UNSHARE, *_base(), *_private(_sized(version), None), *READ_ONLY, "/bin/true"]
        tried = subprocess.run(argv, capture_output=True, text=True, timeout=20, check=False, env={})
    except (OSError, subprocess.SubprocessError, IndexError) as error:
        return Sandbox("none", why=f"bubblewrap does not run here: {error}")
    if tried.returncode != 0:
        lines = tried.stderr.strip().splitlines() or [f"exit code {tried.returncode}"]
        return Sandbox("none", why=f"bubblewrap may not be used here: {lines[-1][:200]}")
    return Sandbox("bubblewrap", version=version, program=program)


def write_etc(folder: str) -> None:
    """The few files of /etc that programs expect, made by us and naming nobody of this host."""
    os.makedirs(folder, exist_ok=True)
    uid, gid = os.getuid(), os.getgid()
    user = "" if uid == 0 else f"unit:x:{uid}:{gid}::/:/bin/sh\n"
    group = "" if gid == 0 else f"unit:x:{gid}:\n"
    files = {
        "passwd": "root:x:0:0::/:/bin/sh\n" + user,
        "group": "root:x:0:\n" + group,
        "hosts": f"127.0.0.1 localhost {HOST_NAME}\n::1 localhost\n",
        "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
    }
    for name, text in files.items():
        with open(os.path.join(folder, name), "w", encoding="ascii") as file:
            file.write(text)


def wrap(
    sandbox: Sandbox, argv: Sequence[str], env: Mapping[str, str], bounds: Bounds, survivors_fd: Optional[int]
) -> List[str]:
    """The command line that runs `argv` inside. To be started with an empty environment: the unit's own reaches it
    by `--setenv`, since an LD_LIBRARY_PATH of the unit's must not apply to bubblewrap itself."""
    inner = list(argv)
    if survivors_fd is not None and survivors_fd <= 9:  # A POSIX shell redirects one-digit descriptors only.
        inner = ["/bin/sh", "-c", COUNT_SURVIVORS.format(fd=survivors_fd), "unit", *inner]
    variables = [word for name, value in sorted(env.items()) for word in ("--setenv", name, value)]
    return [
        sandbox.program,
        *UNSHARE,
        "--hostname",
        HOST_NAME,
        *_base(),
        *_private(_sized(sandbox.version), bounds.memory_bytes),
        *_etc(bounds.etc),
        *[word for path in _outermost(bounds.read_only) for word in ("--ro-bind", path, path)],
        *[word for node in bounds.nodes for word in ("--dev-bind-try", node, node)],
        "--bind",
        bounds.work,
        bounds.work,
        *READ_ONLY,
        "--chdir",
        bounds.work,
        *variables,
        "--",
        *inner,
    ]


def _base() -> List[str]:
    words = ["--ro-bind", "/usr", "/usr"]
    for folder in BASE_FOLDERS:
        if os.path.islink(folder):
            words += ["--symlink", os.readlink(folder), folder]
        elif os.path.isdir(folder):
            words += ["--ro-bind", folder, folder]
    for path in LOADER_FILES + SYSTEM_FACTS:
        words += ["--ro-bind-try", path, path]
    return [*words, "--proc", "/proc", "--dev", "/dev"]


def _private(sized: bool, memory_bytes: Optional[int]) -> List[str]:
    """Folders in memory that end with the unit; they may not hold more than the unit's memory."""
    size = ["--size", str(memory_bytes)] if sized and memory_bytes else []
    return [*size, "--tmpfs", "/tmp", *size, "--tmpfs", "/dev/shm"]


def _etc(folder: str) -> List[str]:
    names = ("passwd", "group", "hosts", "nsswitch.conf")
    return [word for name in names for word in ("--ro-bind", os.path.join(folder, name), "/etc/" + name)]


def _outermost(paths: Sequence[str]) -> List[str]:
    """Without what `/usr` already shows and without what lies inside another one, outer ones first."""
    kept: List[str] = []
    for path in sorted({os.path.abspath(path) for path in paths}):
        if not any(path == outer or path.startswith(outer + "/") for outer in ["/usr", *kept]):
            kept.append(path)
    return kept


def _sized(version: str) -> bool:
    """`--size` came with bubblewrap 0.7."""
    found = re.match(r"(\d+)\.(\d+)", version)
    return found is not None and (int(found.group(1)), int(found.group(2))) >= (0, 7)
