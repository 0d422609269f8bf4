"""The process that reads: it may run out of time, memory or luck, and costs one file then.

`python -P -m tasks.collect.readers.child` takes a batch per line of its input and answers with frames: `began` before
each file, `read` after it, and at the batch's end `rows`: cases, metrics and the files as they are kept. Where segments
are made it first asks (`asks`) which files to leave out, because they were ingested before. Whatever a reader raises
ends the process; the pool says so of the file that was in hand, and has the others read again.
"""

from __future__ import annotations

import gc
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
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, BinaryIO

import pyarrow as pa

from blocks.canonical import digest_bytes
from tasks.collect.readers.base import BUSY, MB, Limits, Reading, Told
from tasks.collect.readers.detect import Unreadable, is_gzip, kind_of, unpacked
from tasks.collect.readers.kept import kept
from tasks.collect.readers.rows import CASES, METRICS, Rows
from tasks.collect.readers.stamp import Stamp, parquet, results
from tasks.collect.readers.stamp import metrics as metric_rows

_EMPTY = re.compile(rb"(?:\xef\xbb\xbf)?[ \t\r\n\0]*+")
FRAME = struct.Struct("<I")


@dataclass
class _File:
    """A source of a batch and what came of it."""

    at: int
    data: bytes
    rows: Rows
    reading: Reading


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
    while line := sys.stdin.buffer.readline():
        _batch(json.loads(line), limits, out)
        gc.collect()


def read_bytes(
    name: str,
    data: bytes,
    rows: Rows,
    limits: Limits,
    holds: Callable[[int], None] = lambda size: None,
    *,
    digest: str | None = None,
    format: str | None = None,
) -> Reading:
    """The outcome for a file with these bytes; its rows are in `rows`. `holds` is told what a compressed one holds."""
    digest = digest or digest_bytes(data)
    size, told_why = len(data), ""
    if is_gzip(data):
        try:
            data, told_why = unpacked(data, limits)
            holds(len(data))
        except Unreadable as unreadable:
            return Reading(name, "refused", "gzip", digest, size, why=str(unreadable))
    if _EMPTY.fullmatch(data):
        return Reading(name, "refused", "", digest, size, why=told_why or "it is empty")
    kind = kind_of(data, format)
    if kind is None:
        strange = f"it is no {format}" if format else "it is of no kind that is read here"
        return Reading(name, "refused", "", digest, size, why=told_why or strange)
    told = kind.read(data.lstrip(b"\0 \t\r\n"), rows, limits)
    if told_why:
        told = Told(False, told_why, told.known, told.issues)
    return Reading.of(name, kind.NAME, told, rows.cases, rows.metrics, digest, size)


def _batch(batch: dict[str, Any], limits: Limits, out: BinaryIO) -> None:
    stamp = Stamp(**batch["stamp"]) if batch["stamp"] else None
    files: list[_File] = []
    for source in batch["sources"]:
        _send(out, {"began": source["at"]})
        _alarm(limits, source["bytes"])
        file = _file(source, batch, stamp, limits, out)
        if file.reading.outcome != "refused":
            files.append(file)
        signal.alarm(0)
        _send(out, {"read": file.at, "reading": file.reading.to_json()})
    if stamp is None:
        _answer(out, [_stream(table) for table in _tables(files)], {})
        return
    _send(out, {"asks": True})
    left_out = set(json.loads(sys.stdin.buffer.readline()))
    files = [file for file in files if file.at not in left_out]
    _answer(out, *_segments(files, stamp))


def _file(source: dict[str, Any], batch: dict[str, Any], stamp: Stamp | None, limits: Limits, out: BinaryIO) -> _File:
    began = time.process_time()
    at, name, data = source["at"], source["name"], _content(source["path"], limits)
    if isinstance(data, str):
        return _File(at, b"", Rows(), Reading(name, "refused", bytes=source["bytes"], why=data))
    digest = digest_bytes(data)
    rows = Rows(at, batch["suite"], stamp.attempt(digest) if stamp else None, stamp.started if stamp else None)
    holds = partial(_holds, out, limits)
    reading = read_bytes(name, data, rows, limits, holds, digest=digest, format=batch["format"])
    if reading.outcome != "refused":
        rows.case_table()
        reading = replace(reading, **rows.facts())
    return _File(at, data, rows, replace(reading, seconds=round(time.process_time() - began, 4)))


def _tables(files: list[_File]) -> tuple[pa.Table, pa.Table]:
    return (
        pa.concat_tables([CASES.empty_table(), *(file.rows.case_table() for file in files)]),
        pa.concat_tables([METRICS.empty_table(), *(file.rows.metric_table() for file in files)]),
    )


def _segments(files: list[_File], stamp: Stamp) -> tuple[list[pa.Buffer | bytes], dict[int, bytes]]:
    """The rows as segments, which need nothing more done to them, and each file in the form that is kept."""
    stored: dict[int, bytes] = {}
    readings: dict[int, Reading] = {}
    for file in files:
        stored[file.at] = kept(file.data, {"run": stamp.run, "file": file.reading.digest})
        file.data = b""
        readings[file.at] = replace(file.reading, stored=digest_bytes(stored[file.at]))
    cases, metrics = _tables(files)
    made = results(cases, readings, stamp), metric_rows(metrics, readings, stamp)
    return [parquet(table) if table.num_rows else b"" for table in made], stored


def _answer(out: BinaryIO, streams: list[pa.Buffer | bytes], stored: dict[int, bytes]) -> None:
    _send(out, {"rows": [len(stream) for stream in streams], "kept": [[at, len(one)] for at, one in stored.items()]})
    for piece in (*streams, *stored.values()):
        out.write(piece)
    out.flush()


def _holds(out: BinaryIO, limits: Limits, size: int) -> None:
    _send(out, {"holds": size})
    _alarm(limits, size)


def _alarm(limits: Limits, size: int) -> None:
    """A file that hangs ends this process even when the pool is gone."""
    signal.alarm(int(BUSY * limits.allowed_seconds(size)) + 10)


def _content(path: str, limits: Limits) -> bytes | str:
    """The bytes of a file, or why they cannot be had."""
    try:
        # Without waiting: a pipe in the place of a file would otherwise never open.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        return f"it cannot be opened: {error.strerror}"
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            return "it is no regular file"
        if status.st_size > limits.bytes:
            return f"it is longer than {limits.bytes // MB} MB"
        try:
            return file.read(status.st_size + 1)[: limits.bytes]
        except OSError as error:
            return f"it cannot be read: {error.strerror}"


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
    """No more memory than allowed, no file of more than 64 kB written, no core dumped."""
    resource.setrlimit(resource.RLIMIT_AS, (limits.memory_bytes, limits.memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))  # the few lines of a traceback
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the pool to act upon
    signal.signal(signal.SIGALRM, signal.SIG_DFL)


if __name__ == "__main__":
    main()
