"""The shapes that the runner writes: results, attempts, unit records.

They are plain dictionaries (the contract is JSON). Every text passes `clean`, because what a test prints may be
anything, and what reads the records later accepts neither NUL nor half a surrogate pair.
"""

from __future__ import annotations

import hashlib
import math
from typing import Any, Dict, Iterable, List, Optional, Sequence

MESSAGE_CAP = 16 * 1024
NAME_CAP = 4000
"""Longest name that is believed by whoever takes the records in. A longer one would cost its whole lease."""
BAD = ("failed", "error", "crashed", "timed_out")
SEVERITY = ("crashed", "timed_out", "error", "failed", "xpassed", "passed", "xfailed", "skipped")

Json = Dict[str, Any]


def clean(text: str, cap: Optional[int] = None) -> str:
    """`text` as every later reader can hold it; with `cap`, its first and last part within so many characters."""
    text = text.encode("utf-8", "replace").decode("utf-8").replace("\0", "\ufffd")
    if cap is not None and len(text) > cap:
        half = cap // 2
        text = f"{text[:half]}\n[... {len(text) - 2 * half} characters left out ...]\n{text[-half:]}"
    return text


def named(text: str) -> str:
    """`text` as a name. One that is too long loses its middle, and gains what tells it from others like it.

    No plan holds such a name: it turns up where nothing could be planned.
    """
    text = clean(text)
    if len(text) <= NAME_CAP:
        return text
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    half = NAME_CAP // 2 - 100
    return f"{text[:half]}[... {len(text) - 2 * half} characters left out, sha256 {digest} ...]{text[-half:]}"


def result(
    file: str, cls: str, name: str, outcome: str, seconds: Optional[float] = None, message: Optional[str] = None
) -> Json:
    """One test case. `seconds` that are no finite number are left unknown."""
    if seconds is not None and not math.isfinite(seconds):
        seconds = None
    body: Json = {
        "file": named(file),
        "cls": named(cls),
        "name": named(name) or "(unnamed)",
        "outcome": outcome,
        "seconds": seconds,
    }
    if message:
        body["message"] = clean(message, MESSAGE_CAP)
    return body


def worst(outcomes: Iterable[str]) -> str:
    """The most serious outcome; `error` where there is none at all."""
    present = set(outcomes)
    return next((outcome for outcome in SEVERITY if outcome in present), "error")


def attempt(
    *,
    ordinal: int,
    mode: str,
    test: Optional[str],
    started: float,
    seconds: float,
    results: Sequence[Json],
    isolation: str,
    outcome: Optional[str] = None,
    metrics: Sequence[Json] = (),
    processes: Sequence[Json] = (),
    output: str = "",
    output_bytes: int = 0,
    peak_memory_bytes: Optional[int] = None,
    survivors: int = 0,
    note: str = "",
) -> Json:
    """One try at a unit; `outcome` is the worst of its results unless something worse befell its process."""
    outcomes: List[str] = [str(one["outcome"]) for one in results]
    if outcome is not None:
        outcomes.append(outcome)
    return {
        "ordinal": ordinal,
        "mode": mode,
        "test": None if test is None else named(test),
        "started": started,
        "seconds": round(seconds, 6),
        "outcome": worst(outcomes),
        "results": list(results),
        "metrics": list(metrics),
        "processes": list(processes),
        "output": clean(output),
        "output_bytes": output_bytes,
        "isolation": isolation,
        "peak_memory_bytes": peak_memory_bytes,
        "survivors": survivors,
        "note": clean(note, MESSAGE_CAP),
    }
