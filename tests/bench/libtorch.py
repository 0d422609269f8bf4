"""Overhead on the libtorch suite: its wall time under commonfleet over that of a bare loop, in one run.

The peer is a loop over the very same units (binary and filter) in the same order, with as many at once and the same
thread counts, that only starts processes. Ours is measured from the first grant to the end of the last lease, without
isolation and retries; then once more as it ships, and what discovery, isolation and retries cost is printed beside.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import shutil
import statistics
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from blocks.catalog.load import default_root
from tests.small import asked, commonfleet

SLOTS = 2
ROUNDS = 3


def bench() -> dict[str, Any]:
    """The ratio of medians over a few interleaved rounds, and the costs beside it."""
    home = Path(os.environ.get("BENCH_HOME") or tempfile.mkdtemp(prefix="commonfleet-bench-"))
    env = {**os.environ, "COMMONFLEET_HOME": str(home)}
    began = time.monotonic()
    asked("plan", env=env)  # makes the build and lists the tests; the second time it is all there
    cold = time.monotonic() - began
    began = time.monotonic()
    asked("plan", env=env)
    warm = time.monotonic() - began
    bare, ours = [], []
    with _catalog(sandbox="none") as plain:
        run = _ours({**env, "COMMONFLEET_CATALOG": str(plain)}, retry_alone=0)
        for _ in range(ROUNDS):
            bare.append(_bare(home, env, run["id"]))
            ours.append(_ours({**env, "COMMONFLEET_CATALOG": str(plain)}, retry_alone=0)["wall"])
    shipped = _ours(env, retry_alone=50)
    ratio = statistics.median(ours) / statistics.median(bare)
    return {
        "bench": "libtorch",
        "slots": SLOTS,
        "units": run["units"],
        "tests": run["tests"],
        "missing": shipped["missing"],
        "bare_seconds": [round(s, 2) for s in bare],
        "ours_seconds": [round(s, 2) for s in ours],
        "ratio": round(ratio, 3),
        "under_1_10": ratio <= 1.10,
        "as_shipped_seconds": round(shipped["wall"], 2),
        "isolated_retries": {"attempts": shipped["alone"], "seconds": round(shipped["alone_seconds"], 2)},
        "build_and_discovery_seconds": {"first": round(cold, 1), "again": round(warm, 1)},
    }


@contextlib.contextmanager
def _catalog(sandbox: str) -> Any:
    """The shipped catalog, with another sandbox setting for this machine."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "catalog"
        shutil.copytree(default_root(), copy)
        pools = copy / "pools.yaml"
        text = pools.read_text()
        assert "kind: local\n" in text
        pools.write_text(text.replace("kind: local\n", f"kind: local\n    sandbox: {sandbox}\n    slots: {SLOTS}\n"))
        yield copy


def _ours(env: dict[str, str], retry_alone: int) -> dict[str, Any]:
    done = commonfleet("run", "--suite", "libtorch", "--retry-alone", str(retry_alone), env=env)
    assert done.returncode in (0, 1), done.stderr
    shown = asked("show", "latest", env=env)
    run = shown["id"]
    span = "select epoch(max(ended)) - epoch(min(granted)) as wall from leases"
    alone = "select count(*) as n, coalesce(sum(seconds), 0) as s from attempts"
    (spanned,) = asked("query", f"{span} where run = '{run}'", env=env)
    (retried,) = asked("query", f"{alone} where run = '{run}' and mode = 'alone'", env=env)
    return {
        "id": run,
        "wall": spanned["wall"],
        "alone": retried["n"],
        "alone_seconds": retried["s"],
        "units": shown["units"]["planned"],
        "tests": sum(shown["results"]["libtorch"].values()),
        "missing": shown["missing"],
    }


def _bare(home: Path, env: dict[str, str], run: str) -> float:
    """The same processes in the same order, two at once, and nothing else."""
    sql = f"select a.detail, u.position from attempts a join units u on u.run = a.run and u.unit = a.unit \
            where a.run = '{run}' and a.mode = 'company' order by u.position"
    work: queue.SimpleQueue[list[list[str]]] = queue.SimpleQueue()
    for row in asked("query", sql, env=env):
        detail = json.loads(row["detail"])
        work.put([process["argv"] for process in detail["processes"]])
    lib = next((home / "machine" / "builds").glob("*/site/torch/lib"))
    began = time.monotonic()
    loops = [threading.Thread(target=_loop, args=(work, str(lib))) for _ in range(SLOTS)]
    for loop in loops:
        loop.start()
    for loop in loops:
        loop.join()
    return time.monotonic() - began


def _loop(work: queue.SimpleQueue[list[list[str]]], lib: str) -> None:
    while True:
        try:
            unit = work.get_nowait()
        except queue.Empty:
            return
        with tempfile.TemporaryDirectory() as folder:
            env = {"PATH": "/usr/bin:/bin", "HOME": folder, "TMPDIR": folder, "LANG": "C.UTF-8", "LD_LIBRARY_PATH": lib}
            env |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
            for argv in unit:
                words = [word for word in argv if not word.startswith("--gtest_output")]
                quiet = subprocess.DEVNULL
                subprocess.run(words, cwd=folder, env=env, stdin=quiet, stdout=quiet, stderr=quiet, check=False)
