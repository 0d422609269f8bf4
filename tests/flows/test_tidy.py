"""Upkeep keeps the results in order, and one damaged file does not stop the rest."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from blocks.errors import TrustError
from blocks.home import open_home
from flows.tidy import tidy
from tests.ledger_rows import open_made
from tests.tasks.keep.conftest import cut_runs, everything, live


def test_small_segments_are_put_together_and_garbage_goes_even_beside_a_damaged_file(tmp_path: Path) -> None:
    home = open_home(tmp_path / "home")
    ledger = open_made(home.root)
    cut_runs(ledger, 9)
    before = everything(ledger)
    stray = home.results / "kind=results" / "stray.parquet"
    stray.write_bytes(b"half")
    os.utime(stray, (0, 0))
    bad = home.results / live(ledger)[0].path
    raw = bad.read_bytes()
    bad.write_bytes(raw[:50] + bytes([raw[50] ^ 1]) + raw[51:])

    with pytest.raises(TrustError, match="does not have its digest"):
        tidy(home)
    assert not stray.exists()
    assert len(live(ledger)) == 2  # the damaged one, and all others in one
    bad.write_bytes(raw)
    assert tidy(home) == 0
    assert everything(ledger) == before
    ledger.close()
