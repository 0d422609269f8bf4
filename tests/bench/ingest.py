"""Ingest: 40 JUnit files of 50,000 cases, from XML to committed Parquet, against junitparser that only parses them.

Ours is all that `commonfleet ingest` does: the raw files kept (compressed) in the store and the signed manifest beside
them, the rows' roots, sorted segments, all of it fsynced, and the records' transactions. junitparser is the peer
and no dependency: `pip install junitparser` somewhere and name that interpreter in BENCH_JUNITPARSER. It reads what we
keep (class, name, time, outcome with its text, output), one file after another; both read the same files in this run.
"""

from __future__ import annotations

import os
import random
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from sqlalchemy import func, select

from blocks.ledger import open_ledger
from blocks.ledger.schema import bundles, segments
from blocks.signing import load_or_make_key
from blocks.store import Store
from tasks.collect.ingest import ingest

WORKERS = 2
SEED = 20_260_731

PEER = """
import sys, time
from junitparser import JUnitXml
began, cases = time.monotonic(), 0
for path in sys.argv[1:]:
    for suite in JUnitXml.fromfile(path):
        for case in suite:
            results = [(type(one), one.message, one.text) for one in case.result]
            values = (case.classname, case.name, case.time, results, case.system_out)
            cases += 1
print(cases, time.monotonic() - began)
"""


def bench() -> dict[str, Any]:
    """Rates, their ratio and the memory of all our processes together. BENCH_FILES and BENCH_CASES name other sizes."""
    files, cases = int(os.environ.get("BENCH_FILES", "40")), int(os.environ.get("BENCH_CASES", "50000"))
    with tempfile.TemporaryDirectory(prefix="commonfleet-bench-") as folder:
        paths = _corpus(Path(folder) / "xml", files, cases)
        size = sum(path.stat().st_size for path in paths)
        (Path(folder) / "home").mkdir()
        before = _cpu()
        peer = _peer(paths)
        between = _cpu()
        ours = _ours(paths, Path(folder) / "home")
        after = _cpu()
    assert ours["rows"] == files * cases, ours
    peer_rate = round(files * cases / peer) if peer else None
    return {
        "bench": "ingest",
        "files": files,
        "cases": files * cases,
        "xml_mb": round(size / 1e6, 1),
        "cores": len(os.sched_getaffinity(0)),
        "load": os.getloadavg()[0],
        "ours_cases_per_second": round(ours["rows"] / ours["seconds"]),
        "ours_seconds": round(ours["seconds"], 2),
        "cpu_seconds": {"ours": round(after - between, 2), "junitparser": round(between - before, 2)},
        "parquet_mb": round(ours["parquet"] / 1e6, 1),
        "kept_mb": round(ours["kept"] / 1e6, 1),
        "peak_mb": ours["peak_mb"],
        "under_500_mb": ours["peak_mb"]["together"] < 500,
        "junitparser_cases_per_second": peer_rate,
        "ratio": round(peer / ours["seconds"], 2) if peer else "not measured: see BENCH_JUNITPARSER in this file",
        "at_least_3": bool(peer and peer / ours["seconds"] >= 3),
    }


def _corpus(folder: Path, files: int, cases: int) -> list[Path]:
    """Reports like PyTorch's, 17.7 MB per 50,000 cases: 1 % failures with a traceback, 6 % with output."""
    folder.mkdir()
    chosen = random.Random(SEED)
    trace = "".join(
        f'  File "/opt/conda/lib/python3.12/a_{n}.py", line {n}, in f{n}\n    return g(x)\n' for n in range(50)
    )
    output = "".join(f"W0731 {n:06} torch/_inductor/utils.py:1234] [0/{n}] not enough SMs\n" for n in range(26))
    paths = []
    for number in range(files):
        where = f'file="test/inductor/test_opinfo_{number}.py"'
        lines = [f'<?xml version="1.0"?><testsuites><testsuite name="pytest" tests="{cases}" time="9.5">']
        for case in range(cases):
            kind, cls = chosen.random(), f"test.inductor.test_opinfo_{number}.TestInductorOpInfo{case // 500}CUDA"
            name = f"test_comprehensive_nn_functional_interpolate_bilinear_{case}_cuda_float32"
            head = f'<testcase classname="{cls}" name="{name}" time="{chosen.random():.3f}" {where}'
            if kind < 0.01:
                lines.append(f'{head}><failure message="AssertionError: {case}">{trace}</failure></testcase>')
            elif kind < 0.07:
                lines.append(f"{head}><system-out>{output}</system-out></testcase>")
            else:
                lines.append(f"{head} />")
        path = folder / f"report-{number:02}.xml"
        path.write_text("\n".join([*lines, "</testsuite></testsuites>"]))
        paths.append(path)
    return paths


def _cpu() -> float:
    """Processor seconds that this process and its ended children have used: what a busy machine does not change."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def _peer(paths: list[Path]) -> float | None:
    """Seconds that junitparser takes, in a process of its own; None where there is no junitparser."""
    python = os.environ.get("BENCH_JUNITPARSER", sys.executable)
    if subprocess.run([python, "-c", "import junitparser"], capture_output=True, check=False).returncode:
        return None
    done = subprocess.run([python, "-c", PEER, *map(str, paths)], capture_output=True, text=True, check=True)
    return float(done.stdout.split()[1])


def _ours(paths: list[Path], home: Path) -> dict[str, Any]:
    ledger = open_ledger(f"sqlite:///{home}/ledger.db", home / "results", Store(home / "store"))
    key = load_or_make_key(home / "agent.key")
    stop, peaks = threading.Event(), {}
    watch = threading.Thread(target=_watch, args=(stop, peaks))
    watch.start()
    began = time.monotonic()
    for outcome in ingest(ledger, key, paths, run="bench", environment="bench", suite="bench", workers=WORKERS):
        assert outcome.word == "ingested", outcome
    seconds = time.monotonic() - began
    stop.set()
    watch.join()
    with ledger.read() as connection:
        rows, parquet = connection.execute(select(func.sum(segments.c.rows), func.sum(segments.c.bytes))).one()
        kept = connection.scalar(select(func.sum(bundles.c.bytes)))
    ledger.close()
    return {"rows": rows, "seconds": seconds, "parquet": parquet, "kept": kept, "peak_mb": peaks}


def _watch(stop: threading.Event, peaks: dict[str, float]) -> None:
    """The peak of the resident sizes, added up (pages that processes share are counted in each)."""
    peaks |= {"together": 0.0, "parent": 0.0, "children": 0.0}
    while not stop.wait(0.2):
        children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
        threads = [path.read_text().split() for path in Path("/proc/self/task").glob("*/children")]
        children = sorted({pid for some in [children, *threads] for pid in some})
        own, theirs = _resident("self"), sum(map(_resident, children))
        peaks["parent"], peaks["children"] = max(peaks["parent"], own), max(peaks["children"], theirs)
        peaks["together"] = max(peaks["together"], round(own + theirs, 1))


def _resident(pid: str) -> float:
    try:
        return round(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 1e6, 1)
    except (OSError, IndexError):
        return 0.0
