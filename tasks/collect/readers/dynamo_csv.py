"""The CSV of PyTorch's dynamo benchmarks (`benchmarks/dynamo/*.py --output FILE`), accuracy or performance.

Each line is one model on one device. The writer rewrites the file when its columns grow and pads older lines with
`0`; a model that failed has batch size 0 and, in a performance file, the figures 0.0, which are no measurement.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator

from tasks.collect.readers import text
from tasks.collect.readers.base import Limits, Notes, Told
from tasks.collect.readers.figures import accuracy, unit_of
from tasks.collect.readers.json_text import decoded
from tasks.collect.readers.rows import Rows

NAME = "dynamo-csv"

_SUITE = "dynamo"
_ABOUT = ("dev", "name", "batch_size", "tag")
_FIGURES = ("accuracy", "speedup", "abs_latency", "compression_ratio", "compilation_latency", "graph_breaks")


def recognises(head: str) -> bool:
    try:
        columns = [column.strip() for column in next(csv.reader([head.partition("\n")[0]]), [])]
    except csv.Error:
        return False
    return "name" in columns and any(figure in columns for figure in _FIGURES)


def read(data: bytes, rows: Rows, limits: Limits) -> Told:
    """A case per line, and a metric per figure of the models that ran."""
    notes = Notes()
    content, replaced = decoded(data)
    if replaced:
        notes.add("encoding", "Bytes that are no UTF-8 were replaced.")
    whole, why = content.endswith("\n"), ""
    columns: list[str] = []
    try:
        for line, last in _lines(content):
            if not columns or line == columns:
                columns = columns or [column.strip() for column in line]  # two files, one after another, repeat it
            elif last and not whole:
                why = "it ends in the middle of a line"  # its last figure may be half of one
            elif len(line) != len(columns):
                notes.add("line", f"A line has {len(line)} fields, not {len(columns)}.")
            elif rows.cases >= limits.cases:
                return Told(False, f"more than {limits.cases:,} lines", None, notes.issues())
            else:
                _model(dict(zip(columns, line, strict=True)), rows, notes)
    except csv.Error as error:
        why = f"it is no CSV from here on: {error}"
    return Told(not why, why, None, notes.issues())


def _lines(content: str) -> Iterator[tuple[list[str], bool]]:
    """Each line that is not blank, and whether it is the last."""
    before: list[str] | None = None
    try:
        for line in csv.reader(io.StringIO(content.replace("\0", "\ufffd"), newline="")):
            if any(field.strip() for field in line):
                if before is not None:
                    yield before, False
                before = line
    except csv.Error:
        if before is not None:
            yield before, False
        raise
    if before is not None:
        yield before, True


def _model(line: dict[str, str], rows: Rows, notes: Notes) -> None:
    model, device = line["name"].strip(), line.get("dev", "").strip()
    if "accuracy" in line:
        said = line["accuracy"].strip()
        cls, outcome, failed = "accuracy", accuracy(said), False
        message = None if outcome == "passed" else said or "no accuracy was written"
    else:
        cls = "performance"
        failed = line.get("batch_size", "").strip() == "0" or text.number(line.get("speedup", "1")) == 0
        outcome, message = ("error", "no figures: the model did not run") if failed else ("passed", None)
    rows.case(_SUITE, "", f"{cls}/{device}" if device else cls, model, outcome, None, text.message(message))
    batch = line.get("batch_size", "").strip()
    if failed or batch == "0":
        return
    for metric, written in line.items():
        if metric in _ABOUT or metric == "accuracy" or not metric or not written.strip():
            continue
        value = text.number(written)
        if value is None:
            notes.add("value", f"{metric} of {model[:100]} is no finite number.")
        else:
            detail = f'{{"batch_size":{batch}}}' if batch.isascii() and batch.isdigit() else ""
            rows.metric(
                _SUITE, model, "/".join(filter(None, (cls, device))), metric, value, unit_of(metric), None, None, detail
            )
