"""The orchestrator's memory: peak resident size of `commonfleet run` over plans of 100 to 100,000 no-op units.

Everything is real (pipe, runner, ledger); the units are `true`, unsandboxed. BENCH_UNITS names other sizes.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.small import asked, small_catalog, surroundings

LIMIT_MB = 400


def bench() -> dict[str, Any]:
    """Peak resident memory by number of units, and how much the largest plan needs over the smallest."""
    sizes = [int(size) for size in os.environ.get("BENCH_UNITS", "100,1000,10000,100000").split(",")]
    rows = [_run(size) for size in sizes]
    peaks = [row["peak_mb"] for row in rows]
    return {
        "bench": "memory",
        "rows": rows,
        "largest_over_smallest": round(peaks[-1] / peaks[0], 2),
        "under_400_mb": max(peaks) < LIMIT_MB,
    }


def _run(size: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        commands = {f"unit{n}": ["true"] for n in range(size)}
        env = surroundings(root, small_catalog(root, commands, sandbox="none", default_seconds_per_test=0.01))
        began = time.monotonic()
        program = Path(sys.executable).with_name("commonfleet")
        arguments = [str(program), "run", "--profile", "small"]
        driver = subprocess.Popen(arguments, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(driver.pid, 0)
        seconds = time.monotonic() - began
        assert os.waitstatus_to_exitcode(status) == 0, f"a run of {size} no-op units failed"
        units = asked("show", "latest", env=env)["units"]
        assert units["ran"] == size, units
        # ru_maxrss is in kilobytes on Linux; children (the pipe's far end) have their own.
        return {"units": size, "peak_mb": round(usage.ru_maxrss / 1024, 1), "seconds": round(seconds, 1)}
