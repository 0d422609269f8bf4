"""JSON in pieces: documents with long lists, written without ever being held as a whole; nothing in them is null."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any


def without_nulls(value: Any) -> Any:
    """The value without what is unknown: keys of None, of numbers that are none, and NUL characters in texts."""
    if isinstance(value, Mapping):
        known = {key: without_nulls(entry) for key, entry in value.items()}
        return {key: entry for key, entry in known.items() if entry is not None}
    if isinstance(value, list | tuple):
        return [entry for entry in map(without_nulls, value) if entry is not None]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value.replace("\0", "") if isinstance(value, str) else value


def listed(entries: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """A JSON list, a line for each entry."""
    first = True
    for entry in entries:
        yield ("[\n" if first else ",\n") + json.dumps(without_nulls(entry))
        first = False
    yield "[]" if first else "\n]"
