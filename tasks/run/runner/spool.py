"""Writing so that it is still there after a crash, and the spool of finished units.

A file is written under another name, synced, renamed, and its folder synced: at any instant it is there whole or not
at all. A full disk is waited out.
"""

from __future__ import annotations

import errno
import json
import os
import time
from typing import Any, Callable, List, Mapping

FULL = (errno.ENOSPC, errno.EDQUOT)
RETRY_SECONDS = 1.0


def encode(body: Any) -> bytes:
    """One line of JSON; what has no JSON form (NaN) raises ValueError."""
    return json.dumps(body, separators=(",", ":"), allow_nan=False).encode()


def write(path: str, data: bytes, *, durable: bool = True) -> None:
    """Put `data` at `path`, whole or not at all; with `durable`, it survives a crash of the machine from here on."""
    temporary = f"{path}.{os.getpid()}.tmp"
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        try:
            os.unlink(temporary)  # Half a file on a full disk only makes it fuller.
        except OSError:
            pass
        raise
    if durable:
        sync_folder(os.path.dirname(path))


def sync_folder(folder: str) -> None:
    """Make renames and removals in a folder durable."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_when_there_is_room(path: str, data: bytes, *, durable: bool, give_up: Callable[[], bool]) -> bool:
    """`write`, tried every second while the disk is full. False when `give_up` said so before it was written."""
    while True:
        try:
            write(path, data, durable=durable)
            return True
        except OSError as error:
            if error.errno not in FULL or give_up():
                if error.errno in FULL:
                    return False
                raise
        time.sleep(RETRY_SECONDS)


def read(path: str) -> Any:
    """The JSON at `path`, or None where there is no such file."""
    try:
        with open(path, "rb") as file:
            return json.loads(file.read())
    except FileNotFoundError:
        return None


def write_order(lease: str, order: Mapping[str, Any]) -> None:
    """Put an order into its lease's folder. An order may be large; what is asked of it often stands beside it."""
    often = {"run": order["run"], "units": [unit["unit"] for unit in order["units"]]}
    write(os.path.join(lease, "lease.json"), encode(often))
    write(os.path.join(lease, "order.json"), encode(order))


def record_path(lease: str, seq: int) -> str:
    return os.path.join(lease, "spool", f"{seq:08d}.json")


def numbers(folder: str) -> List[int]:
    """The numbers of the files `NNN.json` in a folder, ascending."""
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return []
    return sorted(int(name[:-5]) for name in names if name.endswith(".json") and name[:-5].isdigit())
