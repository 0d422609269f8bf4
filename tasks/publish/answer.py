"""The answer to a query, as a table, CSV, JSON or Parquet, to a file or to whoever reads our output.

Rows go through in portions, so that an answer of any size needs the same memory. Files are written by us, never by
DuckDB (which may write nothing): whole or not at all, under the name that was asked for.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, Literal, get_args

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from blocks.disk import whole_file
from blocks.errors import CommonfleetError, LedgerError
from blocks.ledger.query import Reader

Format = Literal["table", "csv", "json", "parquet"]
FORMATS: tuple[Format, ...] = get_args(Format)

_SUFFIXES: dict[str, Format] = {".csv": "csv", ".json": "json", ".parquet": "parquet", ".txt": "table"}


def chosen_format(asked: str | None, out: Path | None) -> Format:
    """The format asked for, or the one that the file's name says, or a table. Raises CommonfleetError."""
    if asked is None:
        return _SUFFIXES.get(out.suffix.lower(), "table") if out else "table"
    for known in FORMATS:
        if asked == known:
            if known == "parquet" and out is None:
                raise CommonfleetError("Parquet is written to a file.", do="Name it with --out FILE.")
            return known
    raise CommonfleetError(f"There is no format {asked!r}.", do=f"There are {', '.join(FORMATS)}.")


def write_csv(reader: Reader, sql: str, target: IO[str]) -> int:
    """Rows as CSV (RFC 4180) with a line of names; nothing where there is no value, lists and maps as JSON."""
    names, portions = reader.stream(sql)
    lines = csv.writer(target)
    lines.writerow(names)
    written = 0
    for rows in portions:
        lines.writerows([_plain(value) for value in row.values()] for row in rows)
        written += len(rows)
    return written


def _plain(value: Any) -> Any:
    if isinstance(value, bool):
        return "true" if value else "false"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else value


def write_json(reader: Reader, sql: str, target: IO[str]) -> int:
    """Rows as one JSON list of objects, a line each."""
    _, portions = reader.stream(sql)
    written = 0
    for rows in portions:
        for row in rows:
            target.write(("[\n" if written == 0 else ",\n") + json.dumps(row))
            written += 1
    target.write("\n]\n" if written else "[]\n")
    return written


def write_parquet(reader: Reader, sql: str, target: IO[bytes]) -> int:
    """Rows as Parquet, with the types that the query gave them."""
    written = 0
    try:
        batches = reader.batches(sql)
        with pq.ParquetWriter(target, batches.schema, compression="zstd") as file:
            for batch in batches:
                file.write_batch(batch)
                written += batch.num_rows
    except (pa.ArrowException, duckdb.Error) as error:
        raise LedgerError(
            f"The answer cannot be written as Parquet: {str(error).strip().splitlines()[0]}",
            do="Cast the column that it names, such as `CAST(span AS VARCHAR)`, or take another format.",
        ) from error
    return written


def to_file(target: Path, write: Callable[[IO[bytes]], int], *, keep_out_of: Path) -> int:
    """Let `write` fill a file that appears as `target` when it is whole; returns what `write` does.

    Raises CommonfleetError where it cannot be written, or lies in the state folder `keep_out_of`.
    """
    target = target.absolute()
    if target.resolve().is_relative_to(keep_out_of.resolve()):
        raise CommonfleetError(f"{target} lies in the state folder, where only commonfleet itself writes.")
    with _told(target), whole_file(target) as file:
        return write(file)


def as_text(write: Callable[[IO[str]], int]) -> Callable[[IO[bytes]], int]:
    """A writer of text as a writer of bytes: UTF-8, lines as they are."""

    def writer(target: IO[bytes]) -> int:
        text = io.TextIOWrapper(target, encoding="utf-8", errors="replace", newline="")
        written = write(text)
        text.flush()
        text.detach()
        return written

    return writer


def to_output(write: Callable[[IO[bytes]], int]) -> int:
    """Let `write` fill our standard output."""
    written = write(sys.stdout.buffer)
    sys.stdout.flush()
    return written


@contextlib.contextmanager
def _told(target: Path) -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise CommonfleetError(
            f"{target} cannot be written: {error.strerror or error}.", do="Free some space or name another file."
        ) from error
