"""The leases of this machine: one folder each, whose files are the whole truth about it.

order.json    what to do                     in_hand.json  the unit that runs now
lease.json    what of it is asked often      spool/        a record for each finished unit
pid.json      who does it                    parts/        records as they were given out
done.json     why it ended                   acked.json    what the agent has
runner.log    the runner's own words
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
import time
from typing import Any, Dict, List, Optional, Sequence

from . import attempts, claims, execute, folders, parts, posix, spool
from .records import Json

LEASE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
START_SECONDS = 30.0
FRESH_SECONDS = 3.0
COLLECT_TRIES = 5


class LeaseError(Exception):
    """What is asked of a lease cannot be done; the message says why."""


def folder_of(root: str, lease: Any) -> str:
    """The lease's folder. Its name becomes a path, so it may only be what a plain name may be."""
    if not isinstance(lease, str) or not LEASE.fullmatch(lease):
        raise LeaseError(f"{lease!r} is no lease")
    return os.path.join(root, "leases", lease)


def existing(root: str, lease: Any) -> str:
    folder = folder_of(root, lease)
    if not os.path.exists(os.path.join(folder, "order.json")):
        raise LeaseError(f"there is no lease {lease} on this machine")
    return folder


def start(root: str, order: Any, program: Sequence[str]) -> Json:
    """Start the runner of a lease, or find the one that was started before: asking twice starts one. Refused for an
    order of a driver that has lost its run, or of a run that is being stopped."""
    check(order)
    folder = folder_of(root, order["lease"])
    _allow(root, order)  # Asked twice, so that a refusal leaves no folder behind.
    os.makedirs(folder, exist_ok=True)
    with folders.held(folder):
        known = spool.read(os.path.join(folder, "order.json"))
        if known is not None and _without_epoch(known) != _without_epoch(order):
            raise LeaseError("lease {} was started here with another order".format(order["lease"]))
        with claims.hold(root):
            _allow(root, order)
            pid = spool.read(os.path.join(folder, "pid.json"))
            if pid is not None:
                return {"pid": pid["pid"], "start_time": pid["start_time"]}
            spool.write_order(folder, order)
        return _spawn(folder, program)


def _allow(root: str, order: Json) -> None:
    objection = claims.objection(root, order)
    if objection:
        raise LeaseError(objection)


def _without_epoch(order: Json) -> Json:
    """The next driver may ask for the very same lease again."""
    return {key: value for key, value in order.items() if key != "epoch"}


def _spawn(folder: str, program: Sequence[str]) -> Json:
    with open(os.path.join(folder, "runner.log"), "ab") as log:
        process = subprocess.Popen(
            [*program, "run", folder],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            start_new_session=True,
        )
    threading.Thread(target=process.wait, daemon=True).start()  # Collects it when it ends, so that no zombie stays.
    return _wait_for_pid(folder, process)


def check(order: Any) -> None:
    """Whether this has the shape of an order. Raises LeaseError; the runner itself can then rely on it."""
    if not isinstance(order, dict) or order.get("protocol") != parts.PROTOCOL:
        raise LeaseError(f"this is no order of protocol {parts.PROTOCOL}")
    if not isinstance(order.get("run"), str) or not claims.RUN.fullmatch(order["run"]):
        raise LeaseError("{!r} is no run".format(order.get("run")))
    try:
        claims.checked(order.get("epoch", 0))
    except ValueError as error:
        raise LeaseError(str(error)) from error
    units = order.get("units")
    named = isinstance(units, list) and all(isinstance(u, dict) and isinstance(u.get("unit"), str) for u in units)
    if not named or not isinstance(order.get("python"), str):
        raise LeaseError("an order has a list of units, each with its id, and the path of an interpreter")
    seconds = order.get("deadline_seconds")
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
        raise LeaseError(f"deadline_seconds is a number of seconds, not {seconds!r}")


def _wait_for_pid(folder: str, process: subprocess.Popen[bytes]) -> Json:
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until:
        pid = spool.read(os.path.join(folder, "pid.json"))
        if pid is not None:
            return {"pid": pid["pid"], "start_time": pid["start_time"]}
        if process.returncode not in (None, execute.TAKEN):
            break  # One that found another at work here leaves it to that one to sign in.
        time.sleep(0.005)
    raise LeaseError(f"the runner did not start: {_log_tail(folder)}")


def _log_tail(folder: str) -> str:
    try:
        with open(os.path.join(folder, "runner.log"), "rb") as file:
            return file.read()[-1000:].decode("utf-8", "replace").strip() or "it said nothing"
    except OSError as error:
        return str(error)


def state(folder: str) -> Json:
    """Where a lease stands. What can only grow is read last, so that `done` never comes with a record missing.

    Raises FileNotFoundError for a lease that is being forgotten at this moment.
    """
    pid = spool.read(os.path.join(folder, "pid.json"))
    alive = pid is not None and posix.is_alive(pid)
    done = spool.read(os.path.join(folder, "done.json"))
    hand = spool.read(os.path.join(folder, "in_hand.json")) or {"unit": None, "seq": 0}
    acked = parts.delivered(folder)
    spooled = max([acked["seq"], *spool.numbers(os.path.join(folder, "spool"))])
    in_hand: Optional[str] = hand["unit"] if hand["seq"] > spooled else None
    asked = spool.read(os.path.join(folder, "lease.json"))
    if asked is None:
        raise FileNotFoundError(folder)
    return {
        "run": asked["run"],
        "acked": acked["part"],
        "pid": pid["pid"] if pid else None,
        "start_time": pid["start_time"] if pid else None,
        "alive": alive,
        "done": done is not None,
        "reason": done["reason"] if done else "" if alive or pid is None else "died",
        "in_hand": in_hand,
        "spooled": spooled,
        "not_started": done["not_started"] if done else asked["units"][max(spooled, hand["seq"]) :],
    }


def status(root: str) -> List[Json]:
    """All leases of this machine."""
    shown = ("run", "pid", "start_time", "alive", "done", "in_hand", "spooled", "acked")
    found = []
    for lease in sorted(os.listdir(os.path.join(root, "leases"))):
        folder = os.path.join(root, "leases", lease)
        if LEASE.fullmatch(lease) and os.path.exists(os.path.join(folder, "order.json")):
            try:
                now = state(folder)
            except FileNotFoundError:
                continue  # Another pipe of this machine has just forgotten it.
            found.append({"lease": lease, **{key: now[key] for key in shown}})
    return found


def collect(root: str, lease: str, acked: Any) -> Json:
    """The next part and where the lease stands."""
    folder = existing(root, lease)
    if isinstance(acked, bool) or not isinstance(acked, int) or acked < 0:
        raise LeaseError(f"acked is the number of a part, not {acked!r}")
    for _ in range(COLLECT_TRIES):
        try:
            with folders.held(folder) as own:
                found = _collect(own, folder, lease, acked)
        except FileNotFoundError as error:
            raise LeaseError(f"lease {lease} is gone from this machine: {error}") from error
        if found is not None:
            return found
    raise LeaseError(f"lease {lease} is removed and made anew all the time")


def _collect(own: str, folder: str, lease: str, acked: int) -> Optional[Json]:
    """The answer, from the folder held as `own`. None when another took its place meanwhile (an unsandboxed unit can
    remove it, and its runner makes it anew): then the numbers of the one must not be given to records of the other."""
    try:
        now = state(own)
        part = parts.collect(own, lease, acked)
    except (OSError, parts.BadAcknowledgement):
        if folders.is_still(own, folder):
            raise
        return None
    keys = ("done", "alive", "in_hand", "not_started", "reason", "spooled")
    answer = {"part": part, **{key: now[key] for key in keys}}
    return answer if folders.is_still(own, folder) else None


def stop(root: str, lease: str, grace_seconds: Any) -> Json:
    """End the runner and every process of its unit: asked first, killed when `grace_seconds` are over."""
    folder = existing(root, lease)
    with folders.held(folder):  # So that one who is starting it has done so.
        pid = _pid_soon(folder)
    if pid is not None and posix.is_alive(pid):
        posix.kill(pid["pid"], signal.SIGTERM)
        if not _gone_within(pid, float(grace_seconds)):
            posix.kill_group(pid["pid"])
            posix.kill(pid["pid"])
            if not _gone_within(pid, 5.0):
                raise LeaseError(f"the runner of lease {lease} cannot be killed")
    return {"ended": end_orphans(folder)}


def _pid_soon(folder: str) -> Optional[Json]:
    """Who runs the lease. Where the order has just come and nobody is known yet, somebody may be starting it."""
    fresh_until = os.path.getmtime(os.path.join(folder, "order.json")) + FRESH_SECONDS
    while True:
        pid: Optional[Json] = spool.read(os.path.join(folder, "pid.json"))
        if pid is not None or time.time() > fresh_until:
            return pid
        time.sleep(0.02)


def _gone_within(pid: Json, seconds: float) -> bool:
    until = time.monotonic() + seconds
    while posix.is_alive(pid):
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True


def end_orphans(folder: str) -> int:
    """Kill what a dead runner's unit left behind; returns how many. (In a sandbox nothing is.)"""
    hand: Dict[str, Any] = spool.read(os.path.join(folder, "in_hand.json")) or {}
    known = hand.get("process")
    left = set(posix.marked(attempts.mark(folder)))
    if known and posix.is_alive(known):
        left.update(posix.members_of_session(known["pid"]))
    for pid in left:
        posix.kill(pid)
    return len(left)


def forget(root: str, lease: str) -> None:
    """Remove the lease's folder, if it is there. Refused while its runner lives; one that has said `done` is about
    to go."""
    folder = folder_of(root, lease)
    try:
        with folders.held(folder):
            _forget(folder, lease)
    except FileNotFoundError:
        return  # It was forgotten before, perhaps by a driver that did not live to hear so.


def _forget(folder: str, lease: str) -> None:
    pid = spool.read(os.path.join(folder, "pid.json"))
    ended = os.path.exists(os.path.join(folder, "done.json"))
    if pid is not None and posix.is_alive(pid) and not (ended and _gone_within(pid, START_SECONDS)):
        raise LeaseError(f"the runner of lease {lease} is alive: stop it first")
    end_orphans(folder)
    with folders.temporary(os.path.dirname(folder)) as gone:
        os.rename(folder, os.path.join(gone, lease))  # A folder that is half removed would be taken for a lease.
