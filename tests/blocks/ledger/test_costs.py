"""What runs had of machines, and what it cost where a price is on record."""

from __future__ import annotations

from typing import Any

from sqlalchemy import insert

from blocks.canonical import canonical_json
from blocks.ledger import Ledger
from blocks.ledger import schema as s
from blocks.ledger.query import run_query
from tests.ledger_rows import BASE_TIME, Case, made_unit, make_run

COSTS = "SELECT run, pool, vendor, machine, machine_seconds, slot_seconds, usd_per_hour, usd FROM costs ORDER BY ALL"


def hold(ledger: Ledger, run: str, machine: str | None, price: float | None, **more: Any) -> None:
    """A submission of `run`, released after half an hour."""
    offer = canonical_json({"type": "t", "market": "spot", "usd_per_hour": price}).decode()
    row = {
        "id": f"s-{run}-{machine}", "acquisition": f"{run}-{machine}", "ordinal": 1, "run": run, "pool": "pool-0",
        "name": "n", "token": "t", "offer": offer, "state": "released", "machine": machine, "created": BASE_TIME,
        "updated": BASE_TIME + 1800, "expires": BASE_TIME + 9000, **more,
    }  # fmt: skip
    with ledger.write() as connection:
        connection.execute(insert(s.submissions).values(**row))


def test_a_machine_costs_its_hours_at_the_price_of_its_offer(ledger: Ledger) -> None:
    make_run(ledger, [made_unit("a", [Case("A.x")])], run="r-1", machines=1)
    hold(ledger, "r-1", "m-0", 3.0)
    hold(ledger, "r-1", None, 3.0, state="failed")  # never came to a machine
    (row,) = run_query(ledger, COSTS)
    assert row == {
        "run": "r-1", "pool": "pool-0", "vendor": "foundation", "machine": "m-0", "machine_seconds": 1800.0,
        "slot_seconds": 50.0, "usd_per_hour": 3.0, "usd": 1.5,
    }  # fmt: skip


def test_without_a_price_on_record_a_cost_is_unknown(ledger: Ledger) -> None:
    make_run(ledger, [made_unit("a", [Case("A.x")])], run="r-1", machines=1)
    make_run(ledger, [made_unit("b", [Case("B.x")])], run="r-2", machines=1)
    hold(ledger, "r-1", "m-0", None)
    rows = run_query(ledger, COSTS)
    assert [(row["run"], row["machine_seconds"], row["usd"]) for row in rows] == [
        ("r-1", 1800.0, None),
        ("r-2", 50.0, None),  # no submission is on record: what its leases say
    ]
