"""The process that reads: it may run out of time, memory or luck, and costs one file then.

`python -P -m tasks.collect.readers.child` takes a batch per line of its input and answers with frames: `began` before
each file, `read` after it, and at the batch's end `rows`: cases and metrics. Whatever a reader raises ends the
process; the pool says so of the file that was in hand, and has the others read again.
"""

from __future__ import annotations

import gc
import hashlib
import json
import os
import re
import resource
import signal
import stat
import struct
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, BinaryIO

import pyarrow as pa

from tasks.collect.readers.base import MB, Limits, Reading, Told
from tasks.collect.readers.detect import Unreadable, is_gzip, kind_of, unpacked
from tasks.collect.readers.rows import CASES, METRICS, Rows
from tasks.collect.readers.stamp import Stamp, parquet, results
from tasks.collect.readers.stamp import metrics as metric_rows

_EMPTY = re.compile(rb"(?:\xef\xbb\xbf)?[ \t\r\n\0]*+")
FRAME = struct.Struct("<I")


def main() -> None:
    """Serve batches until the input ends."""
    limits = Limits(**json.loads(sys.argv[1]))
    _confine(limits)
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # nothing but frames goes to the pool
    # A case is a dictionary without cycles: to look for them takes a fifth of the time. Modules are never garbage.
    gc.disable()
    gc.freeze()
    for line in sys.stdin.buffer:
        _batch(json.loads(line), limits, out)
        gc.collect()


def read_bytes(
    name: str, data: bytes, rows: Rows, limits: Limits, holds: Callable[[int], None] = lambda size: None
) -> Reading:
    """The outcome for a file with these bytes; its rows are in `rows`. `holds` is told what a compressed one holds."""
    digest = "sha256:" + hashlib.sha256(data).hexdigest()
    size, told_why = len(data), ""
    if is_gzip(data):
        try:
            data, told_why = unpacked(data, limits)
            holds(len(data))
        except Unreadable as unreadable:
            return Reading(name, "refused", "gzip", digest, size, why=str(unreadable))
    if _EMPTY.fullmatch(data):
        return Reading(name, "refused", "", digest, size, why=told_why or "it is empty")
    kind = kind_of(data)
    if kind is None:
        return Reading(name, "refused", "", digest, size, why=told_why or "it is of no kind that is read here")
    told = kind.read(data.lstrip(b"\0 \t\r\n"), rows, limits)
    if told_why:
        told = Told(False, told_why, told.known, told.issues)
    return Reading.of(name, kind.NAME, told, rows.cases, rows.metrics, digest, size)


def _batch(batch: dict[str, Any], limits: Limits, out: BinaryIO) -> None:
    cases, metrics = [CASES.empty_table()], [METRICS.empty_table()]
    readings: dict[int, Reading] = {}
    for source in batch["sources"]:
        at = source["at"]
        _send(out, {"began": at})
        _alarm(limits, source["bytes"])
        began = time.process_time()
        rows = Rows(at, batch["suite"])
        reading = _read(source["name"], source["path"], rows, limits, partial(_holds, out, limits))
        if reading.outcome != "refused":
            cases.append(rows.case_table())
            metrics.append(rows.metric_table())
            readings[at] = reading
        signal.alarm(0)
        reading = replace(reading, seconds=round(time.process_time() - began, 4))
        _send(out, {"read": at, "reading": reading.to_json()})
    streams = _streams(pa.concat_tables(cases), pa.concat_tables(metrics), readings, batch["stamp"])
    _send(out, {"rows": [len(stream) for stream in streams]})
    for stream in streams:
        out.write(stream)
    out.flush()


def _streams(
    cases: pa.Table, metrics: pa.Table, readings: dict[int, Reading], stamped: dict[str, Any] | None
) -> list[pa.Buffer | bytes]:
    """The rows as Arrow streams; with a stamp as segments, which are smaller and need nothing more done to them."""
    if stamped is None:
        return [_stream(cases), _stream(metrics)]
    stamp = Stamp(**stamped)
    made = results(cases, readings, stamp), metric_rows(metrics, readings, stamp)
    return [parquet(table) if table.num_rows else b"" for table in made]


def _holds(out: BinaryIO, limits: Limits, size: int) -> None:
    _send(out, {"holds": size})
    _alarm(limits, size)


def _alarm(limits: Limits, size: int) -> None:
    """A file that hangs ends this process even when the pool is gone."""
    signal.alarm(int(limits.allowed_seconds(size)) + 10)


def _read(name: str, path: str, rows: Rows, limits: Limits, holds: Callable[[int], None]) -> Reading:
    try:
        # Without waiting: a pipe in the place of a file would otherwise never open.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        return Reading(name, "refused", why=f"it cannot be opened: {error.strerror}")
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            return Reading(name, "refused", why="it is no regular file")
        if status.st_size > limits.bytes:
            return Reading(name, "refused", bytes=status.st_size, why=f"it is longer than {limits.bytes // MB} MB")
        try:
            data = file.read(status.st_size + 1)[: limits.bytes]
        except OSError as error:
            return Reading(name, "refused", why=f"it cannot be read: {error.strerror}")
    return read_bytes(name, data, rows, limits, holds)


def _stream(table: pa.Table) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def _send(out: BinaryIO, body: dict[str, Any]) -> None:
    data = json.dumps(body).encode()
    out.write(FRAME.pack(len(data)) + data)
    out.flush()


def _confine(limits: Limits) -> None:
    """No more memory than allowed, no file written, no core dumped."""
    resource.setrlimit(resource.RLIMIT_AS, (limits.memory_bytes, limits.memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))  # the few lines of a traceback
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the pool to act upon
    signal.signal(signal.SIGALRM, signal.SIG_DFL)


if __name__ == "__main__":
    main()
