"""JSON as killed processes and careless writers leave it: bad bytes, control characters, an end that is missing."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

_STRUCTURE = re.compile(r'"(?:[^"\\]|\\.)*+"|[{}\[\]"]', re.DOTALL)
_CLOSES = {"{": "}", "[": "]"}


class Broken(Exception):
    """No JSON at all; the message says why."""


def decoded(data: bytes) -> tuple[str, bool]:
    """The text, and whether some bytes had to be replaced."""
    try:
        return data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"), False
    except UnicodeDecodeError:
        return data.decode("utf-8", "replace"), True


def parsed(text: str) -> Any:
    """The value. Raises Broken for whatever else it is (nested too deep and numbers too long among it)."""
    try:
        return json.loads(text, strict=False)
    except (ValueError, RecursionError) as error:
        raise Broken("nested too deep" if isinstance(error, RecursionError) else str(error)[:200]) from error


def mended(text: str, within: int) -> str | None:
    """The document up to the last row that was closed, with what is open then closed; None if there is none.

    For documents that end in the middle. A row is an object `within` so many others and arrays; objects deeper than
    that belong to a row that may not be complete.
    """
    open_: list[str] = []
    last: tuple[int, str] | None = None
    for token in _STRUCTURE.finditer(text):
        mark = token[0]
        if mark in _CLOSES:
            open_.append(mark)
            if len(open_) > 100:
                return None
        elif mark in "}]":
            if not open_ or _CLOSES[open_.pop()] != mark:
                break
            if mark == "}" and len(open_) <= within:
                last = (token.end(), "".join(_CLOSES[one] for one in reversed(open_)))
        elif mark == '"':
            break  # a string without an end
    return text[: last[0]] + last[1] if last else None


def lines(text: str) -> Iterator[tuple[str, bool]]:
    """Each line that is not blank, and whether its end was written."""
    start = 0
    while start < len(text):
        end = text.find("\n", start)
        line = text[start : end if end >= 0 else len(text)].strip()
        if line:
            yield line, end >= 0
        start = end + 1 if end >= 0 else len(text)


def mapping(value: Any) -> dict[str, Any]:
    """`value` if it is an object, else an empty one."""
    return value if isinstance(value, dict) else {}


def items(value: Any) -> list[Any]:
    """`value` if it is an array, else an empty one."""
    return value if isinstance(value, list) else []


def said(value: Any) -> str:
    """`value` as text: itself, or nothing where it is neither text nor a number."""
    if isinstance(value, str):
        return value
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else ""
