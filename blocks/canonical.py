"""Canonical JSON and the content ids made from it.

One form for everything that is hashed or signed: UTF-8, keys sorted, no spaces, no NaN. That is RFC 8785 (JCS)
for the values we use, except that floats are written as Python writes them (shortest form that reads back).
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

# Made once: `json.dumps` makes one for every call, and an admission calls it some thirty times.
_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def canonical_json(value: Any) -> bytes:
    """The one byte string for `value`. Raises ValueError for NaN and infinities."""
    text = _ENCODER.encode(value)
    # A lone surrogate (a test may print anything) has no UTF-8 form; it becomes '?', the same everywhere.
    return text.encode("utf-8", "replace")


def digest_bytes(data: bytes) -> str:
    """SHA-256 as `sha256:<hex>`."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def digest_json(value: Any) -> str:
    """SHA-256 over the canonical JSON of `value`, as `sha256:<hex>`."""
    return digest_bytes(canonical_json(value))


def digest_file(path: Path) -> str:
    """SHA-256 of a file's content, read in pieces, as `sha256:<hex>`."""
    with path.open("rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()


def short(digest: str) -> str:
    """The first twelve hex digits: what people see."""
    return digest.removeprefix("sha256:")[:12]
