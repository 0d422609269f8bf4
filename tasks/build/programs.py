"""Running the programs of a build: in a process group of their own, with a log, a time limit and a clean environment.

Nothing here is a sandbox: builds are made on the project's own machines, from sources that the catalog names.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import selectors
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from blocks.errors import BuildError
from tasks.build.base import Bench
from tasks.build.first_error import first_error

LOG_BYTES = 64 << 20
"""A log beyond this is cut: a build that prints a gigabyte must not fill the disk."""

GRACE_SECONDS = 5.0

_LANGUAGE = {"LANG": "C.UTF-8", "LC_ALL": "C.UTF-8"}
"""Always English: the first error of a log is found by what it says."""
_NETWORK = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY")
_CERTIFICATES = (
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "PIP_CERT",
)


@dataclass(frozen=True)
class Finished:
    """How a program ended. `code` is negative for a signal, as subprocess says it."""

    code: int
    log: Path
    timed_out: bool

    def lines(self) -> Iterator[str]:
        """The log, line by line."""
        with self.log.open(encoding="utf-8", errors="replace") as file:
            yield from file


def clean_environment(folder: Path, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """What a build command sees: our path, proxies and certificates, and a language, HOME and TMPDIR of its own."""
    names = {"PATH", *_CERTIFICATES, *_NETWORK, *(name.lower() for name in _NETWORK)}
    kept = {name: value for name, value in os.environ.items() if name in names}
    home, temporary = folder / "home", folder / "tmp"
    home.mkdir(exist_ok=True)
    temporary.mkdir(exist_ok=True)
    own = {"HOME": str(home), "TMPDIR": str(temporary), **_LANGUAGE}
    return {"PATH": os.defpath, **kept, **own, **(extra or {})}


def run_program(
    argv: Sequence[str],
    bench: Bench,
    *,
    step: str,
    env: Mapping[str, str],
    cwd: Path | None = None,
    timeout_seconds: float = 3600.0,
    each_line: Callable[[str], None] | None = None,
    stop: threading.Event | None = None,
) -> Finished:
    """Run to the end; output goes to `<bench>/<step>.log` and line by line to `each_line`.

    Whatever the program left running in its group is killed, and the program itself when `stop` is set (by another
    thread that has failed). Raises BuildError when it cannot be started.
    """
    log = bench.folder / f"{step}.log"
    try:
        process = subprocess.Popen(
            list(argv),
            cwd=cwd or bench.folder,
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    except OSError as error:
        raise BuildError(
            f"{argv[0]} cannot be started: {error.strerror or error}.",
            do=f"Install it, or correct the command of the step `{step}` in the catalog.",
        ) from error
    mark = _mark(bench.folder, process.pid)
    _running.add(process.pid)
    try:
        timed_out = _pump(process, log, time.monotonic() + timeout_seconds, each_line, stop)
    finally:
        _end_group(process)
        _running.discard(process.pid)
        mark.unlink(missing_ok=True)
    return Finished(process.returncode, log, timed_out)


def check(finished: Finished, bench: Bench, what: str, do: str) -> None:
    """Raise BuildError with the first error in the log, and keep the log, unless the program succeeded."""
    if finished.code == 0 and not finished.timed_out:
        return
    how = "ran out of time" if finished.timed_out else f"ended with {_exit(finished.code)}"
    error = first_error(finished.lines())
    raise BuildError(
        f"{what} {how}." + (f" Its first error: {error}" if error else " It printed nothing."),
        kept=f"The whole log: {keep_log(finished.log, bench)}.",
        do=do,
    )


def keep_log(log: Path, bench: Bench) -> Path:
    """Copy a log to where it stays; the last one of each step is kept."""
    bench.logs.mkdir(parents=True, exist_ok=True)
    kept = bench.logs / log.name
    shutil.copyfile(log, kept)
    return kept


def _exit(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    with contextlib.suppress(ValueError):
        return signal.Signals(-code).name
    return f"signal {-code}"


def _pump(
    process: subprocess.Popen[bytes],
    log: Path,
    deadline: float,
    each_line: Callable[[str], None] | None,
    stop: threading.Event | None,
) -> bool:
    """Move output into the log until the program ends or shall stop. True when the deadline came first."""
    assert process.stdout is not None
    descriptor = process.stdout.fileno()
    os.set_blocking(descriptor, False)
    written, rest = 0, b""
    with selectors.DefaultSelector() as selector, log.open("wb") as file:
        selector.register(descriptor, selectors.EVENT_READ)
        while True:
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                return True
            if stop and stop.is_set():
                return False
            if not selector.select(min(remaining, 0.2)):
                if process.poll() is not None:
                    return False  # something that it left behind holds the pipe: not waited for
                continue
            chunk = os.read(descriptor, 1 << 16)
            if not chunk:
                return _outlasts(process, deadline)
            if written < LOG_BYTES:
                file.write(chunk)
                written += len(chunk)
                if written >= LOG_BYTES:
                    file.write(f"\n[cut here: over {LOG_BYTES >> 20} MiB of output]\n".encode())
            if each_line:
                *lines, rest = (rest + chunk).split(b"\n")
                rest = rest[-4096:]
                for line in lines:
                    each_line(line.decode("utf-8", "replace").rstrip())


def _outlasts(process: subprocess.Popen[bytes], deadline: float) -> bool:
    """Wait for a program that has closed its output. True when it outlasts the deadline."""
    try:
        process.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        return True
    return False


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """End the program if it still runs, and everything in its group."""
    if process.poll() is None:
        _signal_group(process.pid, signal.SIGTERM)
        try:
            process.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            pass  # it does not listen: SIGKILL below
    # The group's id stays taken as long as it has a member, so this can hit nobody else's.
    _signal_group(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdout:
        process.stdout.close()


def _signal_group(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


_running: set[int] = set()


@atexit.register
def _end_running() -> None:
    """A cancelled run leaves its build's thread behind, which ends with us; what it runs would go on without us."""
    for group in list(_running):
        _signal_group(group, signal.SIGKILL)


def _mark(folder: Path, pid: int) -> Path:
    """Write down who runs for us, so that `workshop.sweep` can end what a killed builder left."""
    mark = folder / f"running-{pid}"
    mark.write_text(start_time(pid))
    return mark


def start_time(pid: int) -> str:
    """When a process began, in the kernel's ticks since boot; empty when there is no such process (or no /proc)."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    return text.rpartition(")")[2].split()[19]  # the name in parentheses may hold anything
