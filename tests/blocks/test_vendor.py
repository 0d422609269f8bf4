"""Participation levels: each includes those below it."""

from __future__ import annotations

import pytest

from blocks.vendor import FOUNDATION, Level, Vendor


@pytest.mark.parametrize(
    ("level", "shown", "checks", "gates"),
    [
        (Level.L1, False, False, False),
        (Level.L2, True, False, False),
        (Level.L3, True, True, False),
        (Level.L4, True, True, True),
    ],
)
def test_what_a_level_allows(level: Level, shown: bool, checks: bool, gates: bool) -> None:
    vendor = Vendor("acme", level)
    assert (vendor.shown, vendor.checks, vendor.gates) == (shown, checks, gates)


def test_a_new_vendor_only_listens_and_the_project_itself_gates() -> None:
    assert Vendor("acme").level is Level.L1
    assert FOUNDATION.gates
