"""Ingest: reports that other tools wrote become results in the ledger. Every file has one outcome, and counts once.

Files are read in processes of their own (`readers`), which make the segments; `ingested.py` writes them down. A file is
known by the digest of its content, so repeating an ingest that was killed adds what is missing and nothing else.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from blocks.errors import LedgerError
from blocks.ledger import Ledger, clock
from blocks.ledger.files import SegmentFile, withdraw
from blocks.signing import Key
from tasks.collect.ingested import (
    Arrival,
    Overtaken,
    check_names,
    check_target,
    keep,
    known_units,
    place,
    write_down,
)
from tasks.collect.readers import Batch, Limits, Reading, read
from tasks.collect.readers.detect import KINDS
from tasks.collect.readers.stamp import Stamp, parquet, unit_of


@dataclass(frozen=True)
class Outcome:
    """What became of one file. `again` is the name under which the same content was ingested before, where it was."""

    reading: Reading
    again: str = ""

    @property
    def word(self) -> str:
        return self.reading.outcome

    def sentence(self) -> str:
        """For people."""
        before = f"; the same as {self.again}, and counted once" if self.again else ""
        return f"{self.reading.sentence()}{before}"

    def to_json(self) -> dict[str, Any]:
        reading = self.reading
        refused = reading.outcome == "refused"
        return {
            "name": reading.name, "outcome": reading.outcome, "kind": reading.kind, "digest": reading.digest or None,
            "unit": None if refused else unit_of(reading.digest), "results": 0 if refused else reading.cases,
            "metrics": 0 if refused else reading.metrics, "known": reading.known, "why": reading.why,
            "again": self.again or None, "seconds": reading.seconds,
            "issues": [vars(issue) for issue in reading.issues],
        }  # fmt: skip


def ingest(
    ledger: Ledger,
    key: Key,
    named: Iterable[str | Path],
    *,
    run: str,
    environment: str,
    suite: str | None = None,
    format: str | None = None,
    stdin: BinaryIO | None = None,
    workers: int | None = None,
    limits: Limits = Limits(),  # noqa: B008  (frozen)
) -> Generator[Outcome, None, None]:
    """Ingest files, folders, globs and `-` into the run of this name, which is made where there is none.

    Outcomes come as files are done; what has come is in the ledger. Raises LedgerError where nothing can be ingested.
    """
    check_names(run, environment, suite)
    check_format(format)
    check_target(ledger, run)
    with ledger.read() as connection:
        started = int(clock(connection) * 1_000_000)  # reports mostly do not say when
    stamp = Stamp(run, environment, started=started)
    claims = _Claims(ledger, run)
    twice: list[Reading] = []
    batches = read(
        named, suite=suite, format=format, stamp=stamp, known=claims.known, workers=workers, stdin=stdin, limits=limits
    )
    with contextlib.closing(batches):  # however this ends, the reading processes end with it
        for batch in batches:
            fresh = {at: reading for at, reading in batch.readings.items() if at in batch.kept}
            overtaken = _admit(ledger, key, stamp, batch, fresh)
            for at, reading in batch.readings.items():
                if reading.outcome == "refused" or (at in fresh and unit_of(reading.digest) not in overtaken):
                    yield Outcome(reading)
                else:
                    twice.append(reading)
    yield from _repeated(ledger, run, twice)


def check_format(format: str | None) -> None:
    """Raises LedgerError for a format that there is not."""
    names = [kind.NAME for kind in KINDS]
    if format is not None and format not in names:
        raise LedgerError(
            f"There is no format {format[:80]!r}.", kept="Nothing was ingested.", do=f"There are {', '.join(names)}."
        )


class _Claims:
    """Which source of this ingest brings a content: the first that has it, unless the ledger has it already."""

    def __init__(self, ledger: Ledger, run: str) -> None:
        self._ledger, self._run = ledger, run
        self._owner: dict[str, int] = {}
        self._lock = threading.Lock()

    def known(self, readings: Sequence[tuple[int, Reading]]) -> set[int]:
        with self._lock:
            # Whoever asks again is being read again, after its process died.
            mine = [one for one in readings if self._owner.setdefault(one[1].digest, one[0]) == one[0]]
        there = known_units(self._ledger, self._run, [unit_of(reading.digest) for _, reading in mine])
        fresh = {at for at, reading in mine if unit_of(reading.digest) not in there}
        return {at for at, _ in readings} - fresh


def _admit(ledger: Ledger, key: Key, stamp: Stamp, batch: Batch, fresh: dict[int, Reading]) -> set[str]:
    """Have the fresh files of a batch count; returns the units that another process was faster with."""
    overtaken: set[str] = set()
    segments = dict(batch.segments)
    arrivals = [
        Arrival(reading, ledger.store.put_bytes(bytes(batch.kept[at])), len(batch.kept[at]))
        for at, reading in sorted(fresh.items())
    ]
    while arrivals:
        manifest = keep(ledger, key, stamp, arrivals)
        rows = {
            "results": sum(one.reading.cases for one in arrivals),
            "metrics": sum(one.reading.metrics for one in arrivals),
        }
        files = [place(ledger, stamp, kind, data, rows[kind]) for kind, data in segments.items() if rows[kind]]
        try:
            write_down(ledger, key, stamp, arrivals, manifest, files)
            return overtaken
        except Overtaken as faster:
            _withdraw(ledger, files)
            overtaken |= faster.units
            arrivals = [one for one in arrivals if one.unit not in overtaken]
            segments = {kind: _without(data, faster.units) for kind, data in segments.items()}
        except BaseException:
            _withdraw(ledger, files)
            raise
    return overtaken


def _withdraw(ledger: Ledger, files: Sequence[SegmentFile]) -> None:
    for file in files:
        withdraw(ledger, file)


def _without(segment: bytes | bytearray, units: set[str]) -> bytes:
    """The segment without the rows of these units."""
    table = pq.read_table(pa.BufferReader(segment))
    left = table.filter(pc.invert(pc.is_in(table["unit"], pa.array(sorted(units)))))
    return bytes(parquet(left))


def _repeated(ledger: Ledger, run: str, twice: Sequence[Reading]) -> Iterator[Outcome]:
    """The outcomes of files whose content another one has brought."""
    for start in range(0, len(twice), 500):
        some = twice[start : start + 500]
        names = known_units(ledger, run, {unit_of(reading.digest) for reading in some})
        for reading in some:
            name = names.get(unit_of(reading.digest))
            if name is not None:
                yield Outcome(reading, again=name)
            else:  # the one that should have brought it could not be handed over
                yield Outcome(replace(reading, outcome="refused", why="a file with the same content was refused"))
