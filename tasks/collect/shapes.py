"""Rules for values that somebody else wrote: each is a function that raises Unfit, and they are put together as tables.

    result = shape({"name": text(4000, 1), "seconds": maybe(number(0))}, optional={"message": text(16_384)})
    result({"name": "x", "seconds": None})

A boolean is no number here, and a text has neither NUL nor lone surrogates: no database could hold those.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

Rule = Callable[[Any], None]

LAST_INT32, LAST_INT64 = 2**31 - 1, 2**63 - 1
_LARGEST = 1e300


class Unfit(Exception):
    """What was expected, and in `where` the way to it, innermost first."""

    def __init__(self, expected: str) -> None:
        super().__init__(expected)
        self.expected = expected
        self.where: list[str] = []

    def __str__(self) -> str:
        place = "".join(reversed(self.where)).lstrip(".") or "it"
        return f"{place} must be {self.expected}"


def text(most: int, least: int = 0) -> Rule:
    expected = f"text of {least} to {most} characters, without NUL and lone surrogates"

    def check(value: Any) -> None:
        if type(value) is not str or not least <= len(value) <= most or "\0" in value:
            raise Unfit(expected)
        if not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError:
                raise Unfit(expected) from None

    return check


def whole(least: int, most: int = LAST_INT64) -> Rule:
    def check(value: Any) -> None:
        if type(value) is not int or not least <= value <= most:
            raise Unfit(f"a whole number from {least} to {most}")

    return check


def number(least: float = -math.inf, most: float = _LARGEST) -> Rule:
    def check(value: Any) -> None:
        if type(value) not in (int, float) or not (least <= value <= most and abs(value) <= _LARGEST):
            raise Unfit("a finite number" + (f" from {least:g}" if least > -math.inf else ""))

    return check


def flag(value: Any) -> None:
    if type(value) is not bool:
        raise Unfit("true or false")


def word(*known: str) -> Rule:
    def check(value: Any) -> None:
        if type(value) is not str or value not in known:
            raise Unfit(f"one of {', '.join(known)}")

    return check


def maybe(rule: Rule) -> Rule:
    def check(value: Any) -> None:
        if value is not None:
            rule(value)

    return check


def listed(rule: Rule, most: int, least: int = 0) -> Rule:
    def check(value: Any) -> None:
        if type(value) is not list or not least <= len(value) <= most:
            raise Unfit(f"a list of {least} to {most}")
        done = 0
        try:
            for entry in value:
                rule(entry)
                done += 1
        except Unfit as unfit:
            unfit.where.append(f"[{done}]")
            raise

    return check


def table(value: Rule, most: int, key: Rule) -> Rule:
    """An object with at most so many keys, whatever they are called."""

    def check(found: Any) -> None:
        if type(found) is not dict or len(found) > most:
            raise Unfit(f"an object of at most {most} keys")
        name = ""
        try:
            for name, held in found.items():
                key(name)
                value(held)
        except Unfit as unfit:
            unfit.where.append(f"[{name[:80]!r}]")
            raise

    return check


def shape(rules: Mapping[str, Rule], optional: Mapping[str, Rule] | None = None) -> Rule:
    """An object with all of `rules`, and perhaps some of `optional`. Keys that nobody knows are left alone."""
    allowed = tuple((optional or {}).items())
    required = tuple(rules.items())

    def check(value: Any) -> None:
        if type(value) is not dict:
            raise Unfit("an object")
        key = ""
        try:
            for key, rule in required:
                if key not in value:
                    raise Unfit("there")
                rule(value[key])
            for key, rule in allowed:
                if key in value:
                    rule(value[key])
        except Unfit as unfit:
            unfit.where.append(f".{key}")
            raise

    return check


def plain(most: int, deepest: int = 20) -> Rule:
    """Any JSON that can be kept, of at most so many values and characters of text together."""
    telling, counted, measured = text(most), whole(-LAST_INT64), number()
    small = f"of at most {most} values and characters, and no more than {deepest} levels deep"

    def check(value: Any) -> None:
        left, waiting = most, [(value, 0)]
        while waiting:
            one, depth = waiting.pop()
            inner: list[Any] = []
            if type(one) is str:
                telling(one)
                left -= len(one)
            elif type(one) is int:
                counted(one)
            elif type(one) is float:
                measured(one)
            elif type(one) is dict:
                inner = [*one, *one.values()]
            elif type(one) is list:
                inner = one
            left -= 1 + len(inner)
            if left < 0 or depth > deepest:
                raise Unfit(small)
            waiting += [(each, depth + 1) for each in inner]

    return check
