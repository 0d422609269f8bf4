"""The orchestrator's memory: peak resident size of the driver over plans of 100 to 100,000 no-op units.

Everything is real (discovery, pipe, runner, ledger); a unit is one test of a shell script that speaks gtest's
protocol and does nothing, unsandboxed. BENCH_UNITS names other sizes.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

from tests.small import asked, small_catalog, surroundings

LIMIT_MB = 400
LOOK_SECONDS = 0.1


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


NOOP = """#!/bin/sh
case "$1" in
--gtest_list_tests) echo T.; seq -f '  t%.0f' {size} ;;
*)  for word in "$@"; do case "$word" in --gtest_filter=*) name=${{word#*=}} ;; esac; done
    printf '[ RUN      ] %s\\n[       OK ] %s (0 ms)\\n' "$name" "$name" ;;
esac
"""


def _catalog(root: Path, size: int) -> Path:
    """The small catalog, with a suite of one script that lists `size` tests, a unit each."""
    catalog = small_catalog(root, {"true": ["true"]}, sandbox="none")
    script = root / "project" / "noop"
    script.write_text(NOOP.format(size=size))
    script.chmod(0o755)
    git = ["git", "-C", str(root / "project"), "-c", "user.name=t", "-c", "user.email=t@example.org"]
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "-qm", "a script that does nothing"], check=True)
    file = catalog / "catalog.yaml"
    document = yaml.safe_load(file.read_text())
    document["builds"]["project"]["command"] = ["tar", "czf", "project.tar.gz", "noop"]
    document["suites"]["commands"] = {
        "kind": "gtest",
        "files": ["project/noop"],
        "start_seconds": 0,
        "default_seconds_per_test": 0.01,
        "target_seconds": 0.01,
        "memory_gib": 0.5,
    }
    file.write_text(yaml.safe_dump(document))
    return catalog


def _run(size: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        env = surroundings(root, _catalog(root, size))
        began = time.monotonic()
        program = Path(sys.executable).with_name("commonfleet")
        arguments = [str(program), "run", "--profile", "small"]
        driver = subprocess.Popen(arguments, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        peak = 0
        while not (ended := os.wait4(driver.pid, os.WNOHANG))[0]:
            peak = max(peak, _peak_kb(driver.pid))
            time.sleep(LOOK_SECONDS)
        seconds = time.monotonic() - began
        _, status, usage = ended
        assert os.waitstatus_to_exitcode(status) == 0, f"a run of {size} no-op units failed"
        units = asked("show", "latest", env=env)["units"]
        assert units["ran"] == size, units
        return {
            "units": size,
            "peak_mb": round(peak / 1024, 1),
            # wait4 tells of the largest of the driver and the processes that it has waited for.
            "largest_process_mb": round(usage.ru_maxrss / 1024, 1),
            "seconds": round(seconds, 1),
        }


def _peak_kb(pid: int) -> int:
    """The peak resident size of one process so far; 0 when it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return max((int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), default=0)
