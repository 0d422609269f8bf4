"""What a driver has done beside it: results cut while the run goes, and the end of the run.

Both need Arrow, DuckDB and, for a hundred thousand units, memory that a driver, which may live for as long as its
installation, would never give back. So nothing of that is imported here; it stands in `flows/closing.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from blocks.catalog.models import Catalog, Quarantined
from blocks.home import Home
from blocks.ledger import Ledger
from flows.reopen import Address, address_of, reopened
from tasks.beside import Beside
from tasks.collect.driver import Seat

CLOSING = "flows.closing"


@dataclass(frozen=True)
class Conclusion:
    """How a run ended. `exit_code`: 0 nothing new is broken, 1 something broke (or the run was cancelled)."""

    run: str
    exit_code: int
    sentence: str
    report: Path | None
    summary: dict[str, Any]
    trouble: str = ""
    """What went wrong after the run itself was over, in a sentence."""


async def cut_due(other: Beside, ledger: Ledger) -> int:
    """Cut the results that are due, of any run; gives the number of segments. Raises TrustError (damaged bundles)."""
    return await other.call(_cut_due, address_of(ledger))


async def conclude(
    other: Beside, home: Home, ledger: Ledger, seat: Seat, catalog: Catalog, state: Literal["complete", "cancelled"]
) -> Conclusion:
    """Close the run. Everything here may be repeated by the next driver if this one dies in between."""
    return await other.call(_concluded, home, address_of(ledger), seat, catalog.quarantine, state)


def report_file(home: Home, run: str) -> Path:
    """Where a run's page stands."""
    return home.reports / f"{run}.html"


def _cut_due(address: Address) -> int:
    from tasks.collect.segments import cut_segments

    with reopened(address) as ledger:
        return cut_segments(ledger)


def _concluded(
    home: Home, address: Address, seat: Seat, quarantine: Sequence[Quarantined], state: Literal["complete", "cancelled"]
) -> Conclusion:
    from flows.closing import closed

    with reopened(address) as ledger:
        return closed(home, ledger, seat, quarantine, state)
