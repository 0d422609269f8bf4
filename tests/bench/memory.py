"""The orchestrator's memory: peak resident size of `commonfleet run` over plans of 100 to 100,000 no-op units.

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
        _, status, usage = os.wait4(driver.pid, 0)
        seconds = time.monotonic() - began
        assert os.waitstatus_to_exitcode(status) == 0, f"a run of {size} no-op units failed"
        units = asked("show", "latest", env=env)["units"]
        assert units["ran"] == size, units
        # ru_maxrss is in kilobytes on Linux; children (the pipe's far end) have their own.
        return {"units": size, "peak_mb": round(usage.ru_maxrss / 1024, 1), "seconds": round(seconds, 1)}
