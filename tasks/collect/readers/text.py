"""Text and numbers as reports write them, made into what every later reader can hold."""

from __future__ import annotations

import functools
import hashlib
import math
import re

NAME_CAP = 1_024
"""Longest name kept, in characters; a longer one ends in a part of its SHA-256, so that two stay two."""

TEXT_CAP = 16_384
"""Longest message or output kept, in characters: the same as a segment's. The raw file has the rest."""

MOST_SECONDS = 7 * 86_400.0
"""A test that says it took longer is believed to have a broken clock."""

UNNAMED = "(unnamed)"

_HEAD = 4_096  # a message's start names the check, its end holds the error
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ufffe\uffff]")
_NUMBER = re.compile(r"\s*([+-]?(?:\d{1,3}(?:,\d{3})+\.\d*|\d+\.?\d*(?:[eE][+-]?\d{1,4})?|\.\d+))\s*s?\s*", re.ASCII)


def clean(text: str) -> str:
    """Text with a UTF-8 form and no control characters but tab and line ends; what cannot stand becomes U+FFFD."""
    if not text.isascii():
        text = text.encode("utf-8", "replace").decode()
    return _CONTROL.sub("\ufffd", text)


def name(text: str) -> str:
    """A name that is neither empty nor endless."""
    text = clean(text)
    if len(text) > NAME_CAP:
        suffix = hashlib.sha256(text.encode()).hexdigest()[:16]
        text = f"{text[: NAME_CAP - 17]}~{suffix}"
    return text or UNNAMED


def cut(text: str, cap: int = TEXT_CAP) -> str:
    """The text, or its start and its end with a line between that says how much was left out."""
    if len(text) <= cap:
        return text
    note = f"\n[... {len(text) - cap} characters left out; the raw file has them ...]\n"
    return text[:_HEAD] + note + text[-(cap - _HEAD - len(note)) :]


def message(*parts: str | None) -> str | None:
    """What the parts say, each once, in lines and cut to the cap (and not cleaned); None where that is nothing."""
    said = [part.strip() for part in parts if part and part.strip()]
    said = [part for at, part in enumerate(said) if not any(part in other for other in said[at + 1 :])]
    return cut("\n".join(said)) or None


def seconds(text: str) -> float | None:
    """A duration as decimal seconds: `0.5`, `1e-3`, gtest's `0.5s`, surefire's `1,234.5`; None unless 0 to 7 days.

    `1,234` stays unknown: it is 1234 to some writers and 1.234 to others.
    """
    return _seconds(text) if len(text) <= 64 else None


@functools.lru_cache(maxsize=1 << 16)  # of short texts: they outlive their file
def _seconds(text: str) -> float | None:
    value = number(text)
    return value if value is not None and 0 <= value <= MOST_SECONDS else None


def number(text: str) -> float | None:
    """A finite decimal number in ASCII digits, or None. (`float` also takes nan, 1_0 and other scripts' digits.)"""
    match = _NUMBER.fullmatch(text) if len(text) <= 64 else None
    if match is None:
        return None
    value = float(match[1].replace(",", ""))
    return value if math.isfinite(value) else None


def duration(value: object) -> float | None:
    """A duration from JSON: a number of seconds, or text as in `seconds`."""
    if isinstance(value, str):
        return seconds(value)
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= MOST_SECONDS:
        return float(value)
    return None


def count(value: object) -> int | None:
    """How many, as a report says it; None where that is no sensible number."""
    if isinstance(value, str):
        value = int(value) if value.isascii() and value.isdigit() and len(value) <= 12 else None
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10**12 else None
