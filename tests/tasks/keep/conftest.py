"""A ledger with a life behind it, on both databases: runs, segments, bundles that wait, a build's provenance."""

from __future__ import annotations

import pytest
from sqlalchemy import insert, text

from blocks.home import Home, open_home
from blocks.ledger import Ledger
from blocks.ledger.schema import builds
from tasks.collect.segments import cut_segments
from tests.ledger_fixtures import database_url as database_url
from tests.ledger_fixtures import ledger as ledger
from tests.ledger_fixtures import postgres as postgres
from tests.ledger_rows import Case, made_unit, make_run


def live(ledger: Ledger, runs: int = 2) -> None:
    """Runs that are over, cut, and one whose bundles wait."""
    for number in range(runs + 1):
        units = [made_unit(f"u{n}", [Case(f"S.t{n}_{i}") for i in range(3)]) for n in range(12)]
        make_run(ledger, units, run=f"r-{number}")
        if number < runs:
            cut_segments(ledger, everything=True)
    with ledger.write() as connection:
        signed = ledger.store.put_bytes(b"the provenance")
        made = {"key": "k", "digest": "d", "name": "torch", "manifest": "{}", "provenance": signed, "created": 1.5}
        connection.execute(insert(builds).values(made))
        connection.execute(text("UPDATE runs SET driver = NULL"))


@pytest.fixture
def home(ledger: Ledger) -> Home:
    """The state folder of `ledger`, which has lived."""
    live(ledger)
    return open_home(ledger.results.parent)
