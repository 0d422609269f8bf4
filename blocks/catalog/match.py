"""Naming tests in the catalog: globs over `file::Class.name`, and what is quarantined by them."""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from fnmatch import fnmatchcase

from blocks.catalog.models import Quarantined


def label(file: str, test: str) -> str:
    """`file::Class.name`: how people name a test, from a gtest name or a pytest node id.

    >>> label("quantized_test", "TestQTensor.RoundingMode")
    'quantized_test::TestQTensor.RoundingMode'
    >>> label("a/test_x.py", "a/test_x.py::TestX::test_y[1]")
    'a/test_x.py::TestX.test_y[1]'
    """
    return f"{file}::{test.removeprefix(f'{file}::').replace('::', '.')}"


def names(pattern: str, file: str, test: str) -> bool:
    """Whether `pattern` means this test: its label (see `means`), or simply its own name."""
    return means(pattern, label(file, test)) or _is(pattern, test)


def means(pattern: str, label: str) -> bool:
    """Whether `pattern` means the test with this label, whose file may be named by its whole path or its last name.

    >>> means("quantized_test::*", "site/torch/test/quantized_test::TestQTensor.RoundingMode")
    True
    """
    file, mark, test = label.partition("::")
    return _is(pattern, label) or _is(pattern, file.rsplit("/", 1)[-1] + mark + test)


def _is(pattern: str, name: str) -> bool:
    # A parametrised name holds brackets, which a glob would read as a set: written out, it means itself.
    return pattern == name or fnmatchcase(name, pattern)


def quarantined(
    entries: Iterable[Quarantined], *, suite: str, environment: str, label: str, today: datetime.date
) -> Quarantined | None:
    """The entry that keeps a failure of this test from gating today, if any. It holds up to and including its day."""
    for entry in entries:
        if (
            entry.suite == suite
            and entry.expires >= today
            and any(fnmatchcase(environment, pattern) for pattern in entry.environments)
            and means(entry.test, label)
        ):
            return entry
    return None
