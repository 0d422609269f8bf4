"""Process control: everything that is asked of the kernel stands in this file.

Linux first. Where something is missing (pidfd before 5.3, prctl elsewhere) the functions fall back to less, and the
callers need not know.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import subprocess
import time
from typing import Any, Dict, Iterable, List, Mapping, Optional, Sequence, Set

PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
OPEN_FILES = 65536
_running: Set[int] = set()


def clock() -> float:
    """Seconds that never go back and that go on while the machine sleeps (a lease's deadline does not wait for a
    closed laptop)."""
    boottime = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if boottime is None else time.clock_gettime(boottime)


def _stat(pid: int) -> Optional[List[str]]:
    """The fields of /proc/PID/stat from the state on, or None when there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return None
    # The command's name stands in brackets and may itself hold brackets and spaces.
    return text[text.rfind(")") + 2 :].split()


def boot_id() -> str:
    """Changes with each boot; a process id and start time from another boot mean nothing."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""


def identity(pid: int) -> Optional[Dict[str, Any]]:
    """What tells this process from a later one with the same number: pid, start time (ticks since boot), boot."""
    fields = _stat(pid)
    if fields is None or fields[0] in "ZX":
        return None
    return {"pid": pid, "start_time": int(fields[19]), "boot": boot_id()}


def is_alive(known: Mapping[str, Any]) -> bool:
    """Whether the very process that `identity` described still runs."""
    now = identity(int(known["pid"]))
    return now is not None and all(now[key] == known.get(key) for key in ("start_time", "boot"))


def become_subreaper() -> bool:
    """Orphans of our descendants become our children, so that a unit's daemon cannot slip away."""
    try:
        return bool(ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0)
    except (OSError, AttributeError):
        return False


def set_limits() -> None:
    """No core files, and a stated number of open files, for us and for all that we start."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def spawn(argv: Sequence[str], env: Mapping[str, str], cwd: str, pass_fds: Iterable[int]) -> subprocess.Popen[bytes]:
    """Start a program in a session of its own; stdin is empty, stdout and stderr are pipes."""
    process = subprocess.Popen(
        list(argv),
        env=dict(env),
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        pass_fds=tuple(pass_fds),
        start_new_session=True,
        bufsize=0,
    )
    _running.add(process.pid)
    try:
        # When memory runs out the kernel should take the unit rather than its runner.
        with open(f"/proc/{process.pid}/oom_score_adj", "w", encoding="ascii") as file:
            file.write("500")
    except OSError:
        pass  # It is only a preference, and the process may be gone already.
    return process


def ended(pid: int) -> None:
    """This process was collected; its number may from now on be another's."""
    _running.discard(pid)


def end_running() -> None:
    """Kill what `spawn` started and nobody has collected yet (before we exit)."""
    for pid in list(_running):
        kill_group(pid)


def open_pidfd(pid: int) -> Optional[int]:
    """A file descriptor that becomes readable when the process ends, or None where the kernel has none."""
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):
        return None


def _parents() -> Dict[int, int]:
    """pid -> parent of every process that is not a zombie."""
    found = {}
    for name in os.listdir("/proc"):
        fields = _stat(int(name)) if name.isdigit() else None
        if fields and fields[0] not in "ZX":
            found[int(name)] = int(fields[1])
    return found


def descendants(root: int) -> List[int]:
    """All living processes below `root`."""
    children: Dict[int, List[int]] = {}
    for pid, parent in _parents().items():
        children.setdefault(parent, []).append(pid)
    found: List[int] = []
    waiting = list(children.get(root, ()))
    while waiting:
        pid = waiting.pop()
        found.append(pid)
        waiting.extend(children.get(pid, ()))
    return found


def members_of_session(session: int) -> List[int]:
    """All living processes of a session."""
    found = []
    for name in os.listdir("/proc"):
        fields = _stat(int(name)) if name.isdigit() else None
        if fields and fields[0] not in "ZX" and int(fields[3]) == session:
            found.append(int(name))
    return found


def marked(mark: str) -> List[int]:
    """All living processes whose environment at start held `mark` (`NAME=value`)."""
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        try:
            with open(f"/proc/{name}/environ", "rb") as file:
                if mark.encode() in file.read().split(b"\0"):
                    found.append(int(name))
        except OSError:
            continue  # Ended meanwhile, or of another user and so not ours.
    return found


def kill(pid: int, number: int = signal.SIGKILL) -> None:
    """Send a signal; a process that is gone is what we wanted."""
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        pass


def kill_group(pid: int) -> None:
    """Kill a whole process group."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass


def has_children() -> bool:
    """Whether we have any child at all, ended or not. For a subreaper that is: whether anything is left of a unit."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def end_all_below(root: int, seconds: float = 5.0) -> Set[int]:
    """Kill every process below `root` until none is left, or until `seconds` have passed. Returns those seen.

    Repeated, because a process that forks while it is being listed has a child that the list does not hold.
    """
    seen: Set[int] = set()
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        living = descendants(root)
        if not living:
            reap(root)
            break
        seen.update(living)
        for pid in living:
            kill(pid)
        reap(root)
        time.sleep(0.002)
    return seen


def reap(us: int) -> None:
    """Collect orphans that became our children and have ended. (Each by its own number: `waitpid(-1)` would take
    the status of the unit's main process away from whoever waits for it.)"""
    for name in os.listdir("/proc"):
        fields = _stat(int(name)) if name.isdigit() else None
        if fields and fields[0] == "Z" and int(fields[1]) == us:
            try:
                os.waitpid(int(name), os.WNOHANG)
            except ChildProcessError:
                pass


def memory_of(pids: Iterable[int]) -> int:
    """Bytes that these processes hold for themselves.

    Private pages are summed; of shared memory the largest share is taken once, and mapped files not at all (the
    kernel can drop them): the plain sum of RSS would count a 500 MB library once per worker.
    """
    private, shared = 0, 0
    for pid in pids:
        try:
            with open(f"/proc/{pid}/status", "rb") as file:
                text = file.read()
        except OSError:
            continue
        private += _kilobytes(text, b"RssAnon:")
        shared = max(shared, _kilobytes(text, b"RssShmem:"))
    return (private + shared) * 1024


def _kilobytes(text: bytes, label: bytes) -> int:
    at = text.find(label)
    return int(text[at + len(label) :].split(None, 1)[0]) if at >= 0 else 0
