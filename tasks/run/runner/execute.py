"""`run LEASE_DIR`: the process that works off one lease, and outlives whoever started it.

It holds none of its starter's pipes and reads nothing but its order. After each unit there is a record in the spool;
at the end `done.json` says why it ended and what was never started.
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import sys
from typing import Any, List, Optional, Tuple

from . import attempts, company, parts, posix, process, sandbox, spool, workplace
from .records import Json

GRACE_SECONDS = 3600.0
"""How long after the lease's deadline a finished unit still waits for room on a full disk."""

TAKEN = 3


def run(folder: str) -> int:
    """Work off the lease in `folder`. Exit code 0 when it came to an end it could write down, TAKEN when another
    runner has this lease already."""
    folder = os.path.abspath(folder)
    began = posix.clock()
    if not _lock(folder):
        print("another runner works on this lease", file=sys.stderr)
        return TAKEN
    posix.set_limits()
    posix.become_subreaper()
    stop = _Stop()
    order = spool.read(os.path.join(folder, "order.json"))
    for name in ("spool", "work"):
        os.makedirs(os.path.join(folder, name), exist_ok=True)
    _sign_in(folder)
    deadline = began + float(order["deadline_seconds"])
    lease = _Lease(folder, order, stop, deadline)
    reason, not_started = lease.work_off()
    body = {"reason": reason, "not_started": not_started, "in_hand": lease.in_hand}
    done = os.path.join(folder, "done.json")
    return 0 if lease.write(done, body, durable=True) else 1


def _lock(folder: str) -> bool:
    """Two runners must never work on one lease; the lock goes with the process, however it ends."""
    fd = os.open(os.path.join(folder, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
            raise
        return False
    return True


def _sign_in(folder: str) -> None:
    spool.write(os.path.join(folder, "pid.json"), spool.encode(posix.identity(os.getpid())))


class _Stop:
    """SIGTERM and SIGINT: seen at once by whoever waits in a selector, and by whoever asks."""

    def __init__(self) -> None:
        self.wanted = False
        self.read, self.write = os.pipe()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self.take)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    def take(self, number: int, frame: Any) -> None:
        if not self.wanted:
            self.wanted = True
            os.write(self.write, b"x")


class _Lease:
    def __init__(self, folder: str, order: Json, stop: _Stop, deadline: float) -> None:
        self.folder, self.order, self.stop, self.deadline = folder, order, stop, deadline
        self.in_hand: Optional[str] = None
        self.seq = 0
        self.recorded = 0
        wanted = str(order.get("sandbox", "auto"))
        self.ground = attempts.Ground(
            order=order,
            folder=folder,
            sandbox=sandbox.Sandbox("none", why="the order asks for none") if wanted == "none" else sandbox.probe(),
            prefixes=workplace.prefixes(str(order["python"])),
            around=process.Surroundings(stop.read, sole=True, started=self.process_started),
            deadline=deadline,
            give_up=self.give_up,
        )
        sandbox.write_etc(os.path.join(folder, "etc"))

    def work_off(self) -> Tuple[str, List[str]]:
        """(reason, units never started)."""
        units = self.order["units"]
        for nth, unit in enumerate(units):
            left = [str(one["unit"]) for one in units[nth:]]
            if self.stop.wanted:
                return "stopped", left
            if posix.clock() >= self.deadline:
                return "deadline", left
            self.take_in_hand(str(unit["unit"]), nth + 1)
            try:
                tried = attempts.run_unit(self.ground, unit, nth + 1)
            except company.Stopped:
                return "stopped", left[1:]
            record = {"unit": unit["unit"], "seq": nth + 1, "attempts": tried}
            if not self.write(spool.record_path(self.folder, nth + 1), record, durable=True):
                return "disk_full", left[1:]
            self.in_hand, self.recorded = None, nth + 1
        return "finished", []

    def take_in_hand(self, unit: str, seq: int) -> None:
        self.in_hand, self.seq = unit, seq
        # Not synced: it tells a living agent what runs, and after a crash of the machine nothing runs.
        self.write(self.in_hand_path, self.hand(None), durable=False)

    @property
    def in_hand_path(self) -> str:
        return os.path.join(self.folder, "in_hand.json")

    def hand(self, pid: Optional[int]) -> Json:
        return {"unit": self.in_hand, "seq": self.seq, "process": posix.identity(pid) if pid else None}

    def process_started(self, pid: int) -> None:
        """Others must be able to find a process that does not die with us, as one in a sandbox does."""
        if self.ground.sandbox.kind != "none":
            return
        try:
            spool.write(self.in_hand_path, spool.encode(self.hand(pid)), durable=False)
        except OSError:
            # The unit may be removing this very folder. It is put back when no process of the unit is left: of what
            # is put back under its hands, it would remove a part.
            pass

    def give_up(self) -> bool:
        return self.stop.wanted or posix.clock() > self.deadline + GRACE_SECONDS

    def write(self, path: str, body: Any, *, durable: bool) -> bool:
        self.restore()
        return spool.write_when_there_is_room(path, spool.encode(body), durable=durable, give_up=self.give_up)

    def restore(self) -> None:
        """Put back what we need: an unsandboxed unit may have removed what it can reach, this lease's folder too.

        Records that had not been collected by then are lost, and their units with them: they are told as never
        finished. Raises SystemExit when another runner was started meanwhile.
        """
        names = ("order.json", "lease.json", "pid.json", "lock", "spool")
        if all(os.path.exists(os.path.join(self.folder, name)) for name in names):
            return
        os.makedirs(self.folder, exist_ok=True)
        if not os.path.exists(os.path.join(self.folder, "lock")) and not _lock(self.folder):
            raise SystemExit(3)
        if not os.path.isdir(os.path.join(self.folder, "spool")):
            if self.recorded:
                parts.leap(self.folder, self.recorded)
            os.mkdir(os.path.join(self.folder, "spool"))
        spool.write_order(self.folder, self.order)
        _sign_in(self.folder)
