"""`commonfleet verify` over 5 million results (BENCH_ROWS for another number) and a fifth of them: time, memory.

The ledger has what a real one has: a signed log with an admission for each bundle (833 rows each) and each file, raw
bundles of 40 kB, all but the last six days compacted by the product's compactor. Checked is everything: events against
leaves, files against digests, every bundle's rows against its root, in a process of its own whose memory at its peak is
told. The peer is the plain way to the roots alone: the same files row by row in Python, as the form is defined.
"""

from __future__ import annotations

import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import duckdb
from sqlalchemy import insert

from blocks.ledger import Ledger, record
from blocks.ledger.file_roots import bundles_in, joined_leaves, leaves_in
from blocks.ledger.files import Segment, counting
from blocks.ledger.roots import root_of, root_of_sorted
from blocks.ledger.schema import bundles, segments
from blocks.signing import load_or_make_key
from tasks.keep.compact import Limits, compact
from tasks.publish.log.sequence import sequence_all, signer_of
from tasks.publish.log.verify_events import verify_events
from tasks.publish.log.verify_files import verify_files
from tests.bench.made_rows import DAY, END, LEASES, TESTS, created, maker, write
from tests.ledger_rows import open_made

RAW_BYTES = 40_000
FRESH_DAYS = 6


def bench() -> dict[str, Any]:
    """Both sizes, each with the peer's time on the same files."""
    rows = int(os.environ.get("BENCH_ROWS", "5000000"))
    told = [_one(size) for size in (rows // 5, rows)]
    return {
        "bench": "verify",
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "small": told[0],
        "whole": told[1],
        "memory_growth": round(told[1]["peak_megabytes"] / told[0]["peak_megabytes"], 2),
        "wanted_seconds": 30,
        "reached": told[1]["seconds"] < 30,
    }


def _one(rows: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(dir=os.environ.get("BENCH_FOLDER")) as folder:
        root = Path(folder)
        ledger = open_made(root / "home")
        began = time.monotonic()
        _fill(ledger, root, rows // TESTS)
        made = time.monotonic() - began
        with ledger.read() as connection:
            files = [ledger.results / segment.path for segment in counting(connection)]
        ledger.close()
        began, spent = time.monotonic(), _children_seconds()
        child = subprocess.run([sys.executable, "-m", "tests.bench.verify", str(root)], check=True, capture_output=True)
        seconds, cpu = time.monotonic() - began, _children_seconds() - spent
        peak, checked_rows = child.stdout.split()
        assert int(checked_rows) == rows, child.stdout
        began = time.monotonic()
        for file in files:
            for leaves in leaves_in([file]).values():
                root_of(leaves)
        peer = time.monotonic() - began
    return {
        "rows": rows, "files": len(files), "bundles": rows // TESTS * LEASES, "made_seconds": round(made, 1),
        "seconds": round(seconds, 1), "cpu_seconds": round(cpu, 1), "peak_megabytes": round(int(peak) / 1e6),
        "peer_seconds": round(peer, 1), "ratio": round(peer / seconds, 2),
    }  # fmt: skip


def _children_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _fill(ledger: Ledger, root: Path, runs: int) -> None:
    dice = random.Random(1)
    raw = [[ledger.store.put_bytes(dice.randbytes(RAW_BYTES)) for _ in range(LEASES)] for _ in range(runs)]
    young = next(run for run in range(runs + 1) if run == runs or created(run, runs) >= END - FRESH_DAYS * DAY)
    with maker(runs, raw) as connection:
        for run in range(runs):
            if run == young:
                compact(ledger, Limits(files=2))
            _admit(ledger, connection, write(connection, ledger.results, run, 1, runs), created(run, runs))
    sequence_all(ledger, signer_of(ledger, load_or_make_key(root / "log.key")))


def _admit(ledger: Ledger, connection: duckdb.DuckDBPyConnection, file: Segment, at: float) -> None:
    """Records and events of one run's bundles and of the file with their rows."""
    path = ledger.results / file.path
    roots = [
        (bundle, len(leaves) // 32, root_of_sorted(leaves))
        for bundle, leaves in joined_leaves(connection, path, "results", bundles_in(connection, path))
    ]
    leases = dict(connection.execute(f"SELECT DISTINCT bundle, lease FROM read_parquet('{path}')").fetchall())
    shared = {"part": 1, "run": file.run}
    rows = [
        {
            **shared, "lease": leases[bundle], "environment": "cpu", "digest": bundle, "bytes": RAW_BYTES,
            "rows": count, "signer": "key", "admitted": at, "segment": file.digest,
        }
        for bundle, count, _ in roots
    ]  # fmt: skip
    with ledger.write() as records:
        records.execute(insert(bundles), rows)
        for bundle, count, root in roots:
            said: dict[str, Any] = {"lease": leases[bundle], "part": 1, "digest": bundle, "rows": count, "root": root}
            said |= {"environment": "cpu", "signer": "key", "settled": [], "uncounted": []}
            record(records, "bundle.admitted", run=file.run, at=at, **said)
        records.execute(insert(segments), [vars(file)])
        cut: dict[str, Any] = {"content": "results", "digest": file.digest, "path": file.path, "rows": file.rows}
        record(records, "segment.cut", run=file.run, environment="cpu", **cut, bundles=len(roots))


def _verify(root: Path) -> None:
    ledger = open_made(root / "home")
    signer = signer_of(ledger, load_or_make_key(root / "log.key"))
    audit = verify_events(ledger, str(signer.verifier))
    checked = verify_files(ledger)
    assert audit.good, audit.findings
    assert not checked.findings.count, checked.findings.listed
    # Not getrusage: that would be the peak of whoever started this process, if that was higher.
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    print(1024 * int(status["VmHWM"].split()[0]), checked.rows.rows)


if __name__ == "__main__":
    _verify(Path(sys.argv[1]))
