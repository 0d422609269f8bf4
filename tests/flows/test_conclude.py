"""What a driver has done beside it while the run goes and at its end: results cut, the run closed."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from sqlalchemy import select, update

from blocks.catalog.load import default_root, load_catalog
from blocks.errors import StaleDriver, TrustError
from blocks.home import open_home
from blocks.ledger import Ledger, now
from blocks.ledger.schema import bundles, runs, segments
from blocks.signing import Key
from flows.conclude import CLOSING, conclude, cut_due
from tasks.beside import Beside, beside
from tests.tasks.collect.conftest import Night, finished, key, ledger, open_night, unit
from tests.tasks.publish.log.conftest import slip_in

__all__ = ["key", "ledger"]


@pytest.fixture
async def other() -> AsyncIterator[Beside]:
    async with beside(CLOSING) as made:
        yield made


@pytest.fixture
def night(ledger: Ledger, key: Key) -> Night:
    """A run whose two units have ended, each in a bundle of its own, a good while ago."""
    night = open_night(ledger, key, [unit(1), unit(2)], slots=1)
    lease = night.granted()
    for number, granted in enumerate(lease["units"], start=1):
        night.deliver(lease["lease"], number, [finished(granted["id"])])
    night.give_back(lease["lease"], died=False, in_hand=None)
    with ledger.write() as connection:
        connection.execute(update(bundles).values(admitted=now() - 100))
    return night


async def test_results_that_are_due_are_cut(other: Beside, night: Night) -> None:
    assert await cut_due(other, night.ledger) == 1
    assert await cut_due(other, night.ledger) == 0
    with night.ledger.read() as connection:
        (segment,) = connection.execute(select(segments)).all()
    assert segment.rows == 2
    assert (night.ledger.results / segment.path).exists()


async def test_a_bundle_that_is_gone_is_told_and_the_others_are_cut(other: Beside, night: Night) -> None:
    with night.ledger.read() as connection:
        gone = connection.scalars(select(bundles.c.digest).order_by(bundles.c.part)).first()
    assert gone
    night.ledger.store.path(gone).unlink()

    with pytest.raises(TrustError, match=gone) as caught:
        await cut_due(other, night.ledger)

    assert "1 segments were cut" in caught.value.kept
    assert "backup" in caught.value.do


async def test_a_run_whose_events_the_log_cannot_take_is_closed_and_says_so(other: Beside, night: Night) -> None:
    home, catalog = open_home(night.ledger.results.parent / "home"), load_catalog(default_root())
    slip_in(night.ledger)
    conclusion = await conclude(other, home, night.ledger, night.seat, catalog, "complete")
    assert conclusion.exit_code == 0
    assert "Not all of its events are in the log: Event" in conclusion.trouble
    assert "upkeep, appends them" not in conclusion.trouble


async def test_a_run_is_closed_by_its_driver_and_nobody_else(other: Beside, night: Night) -> None:
    home, catalog = open_home(night.ledger.results.parent / "home"), load_catalog(default_root())
    conclusion = await conclude(other, home, night.ledger, night.seat, catalog, "complete")
    assert (conclusion.exit_code, conclusion.summary["units"]["ran"]) == (0, 2)
    assert conclusion.report
    assert conclusion.report.exists()

    with night.ledger.write() as connection:
        connection.execute(update(runs).values(epoch=9))
    with pytest.raises(StaleDriver, match="epoch 9"):
        await conclude(other, home, night.ledger, night.seat, catalog, "complete")
