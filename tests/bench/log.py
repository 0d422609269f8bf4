"""The Merkle log: appending events in batches of 1,000, one proof at 10 million leaves, and checking it all.

`append` is the sequencer's whole work: finding the events, hashing, tiles, leaves, a signed checkpoint for each batch,
SQL and commit. A `proof` opens a transaction, reads the tiles that it needs and hashes what lies between them; each is
verified. The tree of the proofs has random leaves, for only their number matters. The peer, pymerkle, appends entries
of the same length to SQLite in batches of the same size and computes the root after each; it is left out where it is
not installed (it is no dependency of ours).
"""

from __future__ import annotations

import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from sqlalchemy import insert

from blocks.canonical import canonical_json, digest_bytes
from blocks.ledger import Ledger, log
from blocks.ledger.merkle import verify_consistency, verify_inclusion
from blocks.ledger.schema import events
from blocks.ledger.tiles import edge_of, grow, hashes_of
from tasks.publish.log.export import export_log
from tasks.publish.log.sequence import sequence, signer_of
from tasks.publish.log.verify_events import verify_events
from tasks.publish.log.verify_log import verify_log
from tests.ledger_rows import new_key, open_made

EVENTS = 100_000
LEAVES = 10_000_000
BATCH = 1_000
PROOFS = 1_000
PEER_EVENTS = 20_000
STEP = 256 * 256 * 4


def bench() -> dict[str, Any]:
    """All of it, in one line. `BENCH_LEAVES` makes the tree of the proofs smaller."""
    synchronous = os.environ.get("COMMONFLEET_SQLITE_SYNCHRONOUS", "NORMAL")
    with tempfile.TemporaryDirectory() as folder:
        appended = _append(Path(folder))
    with tempfile.TemporaryDirectory() as folder:
        proofs = _proofs(Path(folder), int(os.environ.get("BENCH_LEAVES", str(LEAVES))))
    with tempfile.TemporaryDirectory() as folder:
        peer = _peer(Path(folder))
    return {
        "bench": "log",
        "database": f"SQLite, WAL, synchronous={synchronous}",
        **appended,
        "proof": proofs,
        "peer": peer,
    }


def _append(folder: Path) -> dict[str, Any]:
    ledger = open_made(folder / "home")
    _write_events(ledger, EVENTS)
    signer = signer_of(ledger, new_key())
    took = []
    cpu = time.process_time()
    while True:
        began = time.perf_counter()
        if not sequence(ledger, signer, BATCH):
            break
        took.append(time.perf_counter() - began)
    cpu = time.process_time() - cpu  # what the machine's other work cannot touch
    export_seconds = _timed(lambda: export_log(ledger, folder / "published"))
    key = str(signer.verifier)
    log_seconds = _timed(lambda: _good(verify_log(folder / "published", key)))
    events_seconds = _timed(lambda: _good(verify_events(ledger, key)))
    ledger.close()
    return {
        "append": {
            "events": EVENTS, "leaves_per_batch": BATCH, "leaves_per_second": round(EVENTS / sum(took)),
            "leaves_per_cpu_second": round(EVENTS / cpu),
            "batch_p50_ms": _ms(statistics.median(took)), "batch_max_ms": _ms(max(took)),
        },
        "export_events_per_second": round(EVENTS / export_seconds),
        "verify_log_events_per_second": round(EVENTS / log_seconds),
        "verify_ledger_events_per_second": round(EVENTS / events_seconds),
    }  # fmt: skip


def _proofs(folder: Path, leaves: int) -> dict[str, Any]:
    ledger = open_made(folder / "home")
    roots = _grow_to(ledger, leaves)
    chosen = random.Random(1)
    inclusion, consistency, checking = [], [], []
    first = min(roots)
    for _ in range(PROOFS):
        index = chosen.randrange(leaves)
        began = time.perf_counter()
        with ledger.read() as connection:
            proven = log.prove_inclusion(connection, index, leaves)
        proved = time.perf_counter()
        assert verify_inclusion(proven.leaf, index, leaves, proven.proof, roots[leaves])
        inclusion.append(proved - began)
        checking.append(time.perf_counter() - proved)
    for _ in range(PROOFS // 10):
        began = time.perf_counter()
        with ledger.read() as connection:
            proof = log.prove_consistency(connection, first, leaves)
        consistency.append(time.perf_counter() - began)
        assert verify_consistency(first, leaves, proof, roots[first], roots[leaves])
    ledger.close()
    return {
        "leaves": leaves, "inclusion_p50_ms": _ms(statistics.median(inclusion)), "inclusion_p99_ms": _p99(inclusion),
        "consistency_p50_ms": _ms(statistics.median(consistency)), "check_p50_ms": _ms(statistics.median(checking)),
    }  # fmt: skip


def _grow_to(ledger: Ledger, leaves: int) -> dict[int, bytes]:
    """Put a tree of random leaves straight into storage; gives its root, and that of an earlier size."""
    known, roots = log.Head("bench"), {}
    while known.size < leaves:
        with ledger.write() as connection:
            edge = edge_of(known.size, log.tiles_in(connection))
            growth = grow(known.size, edge, hashes_of(os.urandom(32 * min(STEP, leaves - known.size))))
            moved = replace(known, size=growth.size)
            log.append(connection, known, moved, [], growth)
        known = moved
        roots[growth.size] = growth.root
    return roots


def _write_events(ledger: Ledger, count: int) -> None:
    for first in range(0, count, 10_000):
        rows = [_event(number) for number in range(first, min(count, first + 10_000))]
        with ledger.write() as connection:
            connection.execute(insert(events), rows)


def _event(number: int) -> dict[str, Any]:
    said = {"lease": f"l-{number:010}", "machine": "m-1", "slot": 0, "units": [f"sha256:{number:064x}"] * 3}
    at, nonce = 1_790_000_000.0 + number, f"{number:012x}"
    body = canonical_json({"at": at, "kind": "lease.granted", "run": "r-1", "body": said, "nonce": nonce})
    return {
        "id": digest_bytes(body), "kind": "lease.granted", "run": "r-1", "at": at, "body": body.decode(),
    }  # fmt: skip


def _peer(folder: Path) -> dict[str, Any] | str:
    try:
        from pymerkle import SqliteTree
    except ImportError:
        return "pymerkle is not installed"
    tree = SqliteTree(str(folder / "peer.db"))
    entries = [_event(number)["body"].encode() for number in range(PEER_EVENTS)]
    appending = 0.0
    for first in range(0, PEER_EVENTS, BATCH):
        batch = entries[first : first + BATCH]
        appending += _timed(lambda batch=batch: (tree.append_entries(batch), tree.get_root()))  # type: ignore[misc]
    tree = SqliteTree(str(folder / "peer.db"))  # without what it has kept in memory
    chosen = random.Random(1)
    proving = [
        _timed(lambda: tree.prove_inclusion(chosen.randrange(1, PEER_EVENTS), PEER_EVENTS)) for _ in range(PROOFS // 10)
    ]
    return {
        "name": "pymerkle", "leaves": PEER_EVENTS, "leaves_per_second": round(PEER_EVENTS / appending),
        "first_inclusion_ms": _ms(proving[0]), "inclusion_p50_ms": _ms(statistics.median(proving)),
    }  # fmt: skip


def _good(audit: Any) -> None:
    assert audit.good, audit.findings


def _timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)


def _p99(took: list[float]) -> float:
    return _ms(sorted(took)[len(took) * 99 // 100])
