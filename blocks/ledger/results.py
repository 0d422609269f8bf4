"""What identifies a result: the ids of attempts and tests, the name that people see, the cap on messages.

Pure and light: admission, segments and queries all import it. The columns built from these stand in `rows.py`.
"""

from __future__ import annotations

import hashlib

from blocks.canonical import canonical_json

MESSAGE_CAP = 16_384
"""Longest message kept in a segment, in characters. The raw bundle in the store keeps what the runner kept."""

_HEAD = 4_096  # a message's start names the check, its end holds the error: keep more of the end


def attempt_id(lease: str, unit: str, ordinal: int) -> str:
    """The id of one attempt: `a-` and 16 hex digits over (lease, unit, ordinal), the same however often it is sent."""
    return "a-" + hashlib.sha256(canonical_json([lease, unit, ordinal])).hexdigest()[:16]


def test_id(suite: str, file: str, cls: str, name: str) -> str:
    """The id of one test in any run and environment: the first 128 bits of a SHA-256, as 32 hex digits.

    Half a SHA-256 keeps 10^12 tests apart with a chance of 10^-15 that two meet, and halves the largest column.
    """
    return hashlib.sha256(canonical_json([suite, file, cls, name])).hexdigest()[:32]


# pytest collects functions named test_*: this one is no test.
test_id.__test__ = False  # type: ignore[attr-defined]


def display_name(file: str, cls: str, name: str) -> str:
    """`file::Class.name`, or `file::name` where there is no class."""
    return f"{file}::{cls}.{name}" if cls else f"{file}::{name}"


def spellings(file: str, cls: str, name: str) -> set[str]:
    """How a plan may name this test: `Class.name` (gtest), `file::Class::name` (pytest), or the bare name.

    `::` is written as `.`, in all of them: do the same to a planned name before comparing.
    """
    inner = f"{cls}.{name}" if cls else name
    return {text.replace("::", ".") for text in (name, inner, f"{file}.{inner}")}


def cap_message(message: str) -> str:
    """The message, or its start and end with a line between that says how much was left out."""
    if len(message) <= MESSAGE_CAP:
        return message
    note = f"\n[... {len(message) - MESSAGE_CAP} characters left out; the raw bundle has them ...]\n"
    tail = MESSAGE_CAP - _HEAD - len(note)
    return message[:_HEAD] + note + message[-tail:]
