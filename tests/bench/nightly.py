"""The embedded nightly: wall time cold (after the downloads) and warm, from an empty state folder."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.small import asked, commonfleet


def bench() -> dict[str, Any]:
    """Seconds of a first and of a second nightly. Downloads are in the first: pip's cache decides what they cost."""
    with tempfile.TemporaryDirectory(prefix="commonfleet-bench-") as folder:
        env = {**os.environ, "COMMONFLEET_HOME": str(Path(folder) / "home")}
        cold, warm = _nightly(env), _nightly(env)
    return {
        "bench": "nightly",
        "cores": len(os.sched_getaffinity(0)),
        "cold": cold,
        "warm": warm,
        "cold_under_600_s": cold["seconds"] <= 600,
        "warm_under_300_s": warm["seconds"] <= 300,
    }


def _nightly(env: dict[str, str]) -> dict[str, Any]:
    began = time.monotonic()
    done = commonfleet("nightly", env=env, timeout=1800)
    seconds = time.monotonic() - began
    assert done.returncode in (0, 1), done.stderr
    shown = asked("show", "latest", env=env)
    return {"seconds": round(seconds, 1), "exit": done.returncode, "units": shown["units"], "says": shown["sentence"]}
