"""Read reports from anywhere: every source gets one outcome, and its rows come in batches as they get ready."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Generator, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa

from tasks.collect.readers.base import Limits, Reading
from tasks.collect.readers.find import Source, find
from tasks.collect.readers.pool import Known, Numbered, Order, Raw, read_all
from tasks.collect.readers.rows import CASES, METRICS
from tasks.collect.readers.stamp import Stamp


@dataclass(frozen=True)
class Batch:
    """Some sources with their rows. The column `source` of `cases` and `metrics` is the key in `readings`.

    `segments` has `results` and `metrics` as Parquet where a stamp was given and there are such rows; the tables are
    empty then, and `kept` has each file with rows there as it is to be kept (`kept.py`).
    """

    readings: dict[int, Reading]
    paths: dict[int, Path]
    cases: pa.Table
    metrics: pa.Table
    segments: dict[str, bytes | bytearray] = field(default_factory=dict)
    kept: Mapping[int, bytes | bytearray] = field(default_factory=dict)


def read(
    named: Iterable[str | Path],
    *,
    suite: str | None = None,
    format: str | None = None,
    stamp: Stamp | None = None,
    known: Known = lambda readings: set(),
    workers: int | None = None,
    stdin: BinaryIO | None = None,
    limits: Limits = Limits(),  # noqa: B008  (frozen)
) -> Generator[Batch, None, None]:
    """Read files, folders, globs and `-`, a few at a time in processes of their own.

    `suite` stands in for the suites that the reports name, `format` for what their content looks like. With a `stamp`
    the processes make segments, of all files but those that `known` picks out; without, tables. Batches come in no
    particular order. Memory is a batch per worker and the one that the caller holds.
    """
    if workers is None:
        workers = max(1, min(8, len(os.sched_getaffinity(0))))
    order: Order = {"suite": suite, "format": format, "stamp": asdict(stamp) if stamp else None}
    with tempfile.TemporaryDirectory(prefix="commonfleet-read-") as spool:
        paths: dict[int, Path] = {}
        refused: list[tuple[int, Source]] = []
        sources = _numbered(find(named, stdin=stdin, spool=Path(spool), limits=limits), paths, refused)
        for raw in read_all(sources, workers=workers, order=order, limits=limits, known=known):
            yield from _unreadable(refused)
            if raw.readings:
                yield _batch(raw, paths, stamped=stamp is not None)
        yield from _unreadable(refused)


def _numbered(
    sources: Iterator[Source], paths: dict[int, Path], refused: list[tuple[int, Source]]
) -> Iterator[Numbered]:
    """Give each source its place; those that cannot be opened at all go straight to their refusal."""
    for at, source in enumerate(sources):
        if source.why:
            refused.append((at, source))
        else:
            paths[at] = source.path
            yield Numbered(at, source)


def _unreadable(refused: list[tuple[int, Source]]) -> Iterator[Batch]:
    readings = {}
    while refused:
        at, source = refused.pop()
        readings[at] = Reading(source.name, "refused", bytes=source.bytes, why=source.why)
    if readings:
        yield Batch(readings, {}, CASES.empty_table(), METRICS.empty_table())


def _batch(raw: Raw, paths: dict[int, Path], *, stamped: bool) -> Batch:
    readings = dict(raw.readings)
    own = {at: paths.pop(at) for at in readings}
    if stamped:
        segments = {kind: data for kind, data in (("results", raw.cases), ("metrics", raw.metrics)) if data}
        return Batch(readings, own, CASES.empty_table(), METRICS.empty_table(), segments, raw.kept)
    cases, metrics = (pa.ipc.open_stream(data).read_all() if data else None for data in (raw.cases, raw.metrics))
    return Batch(
        readings,
        own,
        CASES.empty_table() if cases is None else cases,
        METRICS.empty_table() if metrics is None else metrics,
    )
