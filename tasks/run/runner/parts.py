"""Numbered parts of a lease's bundle: what a part holds is decided once and written down before it is given out.

Part k therefore never changes, however often it is asked for and whoever dies in between. A part is forgotten, with
its spool records, when the agent says that it has it.
"""

from __future__ import annotations

import os
from typing import Any, Dict, List, Optional

from . import spool
from .records import Json

PROTOCOL = 1
PART_BYTES = 8 << 20


class BadAcknowledgement(Exception):
    """The agent and this machine disagree on which parts were delivered."""


def collect(folder: str, lease: str, acked: int) -> Optional[Json]:
    """Forget the parts up to `acked` and give the next one, or None while there is nothing new.

    Raises BadAcknowledgement for a number that this lease never gave out or already has behind it.
    """
    acked = _acknowledge(folder, acked)
    given = spool.read(_path(folder, acked + 1))
    return given if given is not None else _cut(folder, lease, acked + 1)


def delivered(folder: str) -> Dict[str, int]:
    """The last acknowledged part and the last record in it: {"part", "seq"}."""
    return spool.read(os.path.join(folder, "acked.json")) or {"part": 0, "seq": 0}


def leap(folder: str, seq: int) -> None:
    """Go on after a loss of the whole spool, of which `seq` was the last record.

    What was given out of it nobody here knows any more. A part holds a record at least, so no part has had a number
    above `seq`: the next part takes the one after that, and no number has two contents.
    """
    spool.write(os.path.join(folder, "acked.json"), spool.encode({"part": seq, "seq": seq, "leapt": True}))


def _path(folder: str, part: int) -> str:
    return os.path.join(folder, "parts", f"{part:08d}.json")


def _acknowledge(folder: str, acked: int) -> int:
    """The last part that is behind us, as the agent says it or by a leap that it cannot know of."""
    before = delivered(folder)
    if before.get("leapt"):
        acked = max(acked, before["part"])
    if acked < before["part"]:
        raise BadAcknowledgement(f"parts up to {before['part']} were acknowledged before, now only {acked}")
    if acked > before["part"]:
        last = spool.read(_path(folder, acked))
        if last is None:
            raise BadAcknowledgement(f"part {acked} was never given out")
        # Remembered first, removed after: a crash in between leaves files that the next call removes.
        now = {"part": acked, "seq": last["records"][-1]["seq"]}
        spool.write(os.path.join(folder, "acked.json"), spool.encode(now))
        before = now
    for part in spool.numbers(os.path.join(folder, "parts")):
        if part <= before["part"]:
            os.unlink(_path(folder, part))
    for seq in spool.numbers(os.path.join(folder, "spool")):
        if seq <= before["seq"]:
            os.unlink(spool.record_path(folder, seq))
    return acked


def _cut(folder: str, lease: str, number: int) -> Optional[Json]:
    """The next part, from the records that are in none yet; large ones are left for the part after."""
    records: List[Any] = []
    size = 0
    for seq in spool.numbers(os.path.join(folder, "spool")):
        path = spool.record_path(folder, seq)
        size += os.path.getsize(path)
        if records and size > PART_BYTES:
            break
        records.append(spool.read(path))
    if not records:
        return None
    part = {"protocol": PROTOCOL, "lease": lease, "part": number, "records": records}
    os.makedirs(os.path.join(folder, "parts"), exist_ok=True)
    spool.write(_path(folder, number), spool.encode(part))
    return part
