"""PyTorch's benchmark records, schema v3: what its benchmark database takes, as an array, one object, or lines.

https://github.com/pytorch/pytorch/wiki/How-to-integrate-with-PyTorch-OSS-benchmark-database
"""

from __future__ import annotations

import json
import re
import statistics
from typing import Any

from tasks.collect.readers import text
from tasks.collect.readers.base import Limits, Notes, Told
from tasks.collect.readers.figures import accuracy, unit_of
from tasks.collect.readers.json_text import Broken, decoded, items, lines, mapping, mended, parsed, said
from tasks.collect.readers.rows import Rows

NAME = "benchmark-v3"

_MARKS = (re.compile(r'"metric"\s*:\s*\{'), re.compile(r'"(?:benchmark|model)"\s*:\s*[\{"]'))


def recognises(head: str) -> bool:
    return head[:1] in ("{", "[") and (head.strip() == "[]" or all(mark.search(head) for mark in _MARKS))


def read(data: bytes, rows: Rows, limits: Limits) -> Told:
    """A metric per record; a record whose value is a word (accuracy) is a case."""
    notes = Notes()
    content, replaced = decoded(data)
    if replaced:
        notes.add("encoding", "Bytes that are no UTF-8 were replaced.")
    records, why = _records(content, notes)
    for record in records:
        if rows.cases + rows.metrics >= limits.cases:
            return Told(False, f"more than {limits.cases:,} records", len(records), notes.issues())
        _record(mapping(record), rows, notes)
    return Told(not why, why, None if why else len(records), notes.issues())


def _records(content: str, notes: Notes) -> tuple[list[Any], str]:
    """All records, and why there are not more."""
    try:
        document = parsed(content)
        return (document if isinstance(document, list) else [document]), ""
    except Broken as broken:
        if content.lstrip()[:1] == "[":
            why = f"it ends in the middle or is no JSON: {broken}"
            try:
                return items(parsed(mended(content, within=1) or "[]")), why
            except Broken:
                return [], why
    records, why = [], ""
    for line, ended in lines(content):
        try:
            records.append(parsed(line))
        except Broken:
            if ended:
                notes.add("line", "A line is no JSON.")
            else:
                why = "it ends in the middle of a line"
    return records, why if records else "no line of it is JSON"


def _record(record: dict[str, Any], rows: Rows, notes: Notes) -> None:
    benchmark, model, metric = (_object(record.get(key)) for key in ("benchmark", "model", "metric"))
    name = said(metric.get("name"))
    about = mapping(benchmark.get("extra_info"))
    variant = "/".join(filter(None, map(said, (
        benchmark.get("mode"), benchmark.get("dtype"), model.get("backend"), about.get("device"),
    ))))  # fmt: skip
    if not name:
        notes.add("shape", "A record names no metric.")
        return
    suite, subject = said(benchmark.get("name")), said(model.get("name"))
    given = items(metric.get("benchmark_values"))
    values = [float(value) for value in given if _figure(value)]
    if len(values) < len(given):
        notes.add("value", f"{name[:100]} of {subject[:100]} holds what is no finite number.", len(given) - len(values))
    # The database holds numbers only, so that PyTorch's own writers put words here.
    words = [
        value for value in items(mapping(metric.get("extra_info")).get("benchmark_values")) if isinstance(value, str)
    ]
    for word in words[:1]:
        outcome = accuracy(word)
        message = None if outcome == "passed" else text.message(word)
        rows.case(suite, "", f"{name}/{variant}" if variant else name, subject, outcome, None, message)
    if values:
        target = metric.get("target_value")
        aim = float(target) if target is not None and _figure(target) else None
        samples = values if len(values) > 1 else None
        mean = statistics.fmean(values)
        rows.metric(suite, subject, variant, name, mean, unit_of(name), aim, samples, _detail(record, about))
    elif not words:
        notes.add("shape", "A record holds no value.")


def _object(value: Any) -> dict[str, Any]:
    """An object; a bare name stands for an object with that name."""
    return {"name": value} if isinstance(value, str) else mapping(value)


def _figure(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e290


def _detail(record: dict[str, Any], about: dict[str, Any]) -> str:
    """The rest of what is said, as JSON: the benchmark's and the metric's extra information, runners, dependencies."""
    rest = {
        "benchmark": about,
        "metric": mapping(mapping(record.get("metric")).get("extra_info")),
        "model": {key: value for key, value in _object(record.get("model")).items() if key not in ("name", "backend")},
        **{key: record[key] for key in ("runners", "dependencies", "inputs") if record.get(key)},
    }
    kept = {key: value for key, value in rest.items() if value}
    return json.dumps(kept, sort_keys=True, separators=(",", ":")) if kept else ""
