"""Admitted bundles whose rows stand in no segment yet: listing them, and where each came from.

The segment cutter and the queries both go through here and `rows.py`, so that a row looks the same whether it was
cut already or not.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, and_, select, tuple_

from blocks.ledger.rows import AttemptFacts, Origin
from blocks.ledger.schema import attempts, bundles, leases, machines, units

_AT_ONCE = 200  # bundles whose origin is looked up by one statement


@dataclass(frozen=True)
class Bundle:
    """A row of `bundles`, as far as cutting needs it."""

    lease: str
    part: int
    run: str
    environment: str
    digest: str
    rows: int


def uncut(connection: Connection, runs: Sequence[str] | None = None, environment: str | None = None) -> list[Bundle]:
    """Bundles that no segment holds, in the order of their admission."""
    query = select(
        bundles.c.lease, bundles.c.part, bundles.c.run, bundles.c.environment, bundles.c.digest, bundles.c.rows
    ).where(bundles.c.segment.is_(None))
    if runs is not None:
        query = query.where(bundles.c.run.in_(runs))
    if environment is not None:
        query = query.where(bundles.c.environment == environment)
    ordered = query.order_by(bundles.c.admitted, bundles.c.lease, bundles.c.part)
    return [Bundle(*row) for row in connection.execute(ordered)]


def origins(connection: Connection, wanted: Sequence[Bundle]) -> Iterator[Origin]:
    """Where each of the bundles came from, in the same order."""
    for start in range(0, len(wanted), _AT_ONCE):
        group = wanted[start : start + _AT_ONCE]
        hosts = _hosts(connection, group)
        facts = _facts(connection, group)
        for bundle in group:
            machine, slot, pool, vendor = hosts.get(bundle.lease, ("", -1, "", ""))
            yield Origin(
                run=bundle.run,
                environment=bundle.environment,
                lease=bundle.lease,
                part=bundle.part,
                bundle=bundle.digest,
                machine=machine,
                slot=slot,
                pool=pool,
                vendor=vendor,
                attempts=facts[bundle.lease, bundle.part],
            )


def _hosts(connection: Connection, group: Sequence[Bundle]) -> dict[str, tuple[str, int, str, str]]:
    query = (
        select(leases.c.id, leases.c.machine, leases.c.slot, machines.c.pool, machines.c.vendor)
        .join(machines, machines.c.id == leases.c.machine, isouter=True)
        .where(leases.c.id.in_({bundle.lease for bundle in group}))
    )
    return {row[0]: (row[1], row[2], row[3] or "", row[4] or "") for row in connection.execute(query)}


def _facts(
    connection: Connection, group: Sequence[Bundle]
) -> defaultdict[tuple[str, int], dict[tuple[str, int], AttemptFacts]]:
    query = (
        select(
            attempts.c.lease, attempts.c.part, attempts.c.unit, attempts.c.ordinal,
            units.c.suite, units.c.name, units.c.tests, attempts.c.counted, attempts.c.reason,
        )
        .join(units, and_(units.c.run == attempts.c.run, units.c.unit == attempts.c.unit))
        .where(tuple_(attempts.c.lease, attempts.c.part).in_([(bundle.lease, bundle.part) for bundle in group]))
    )  # fmt: skip
    found: defaultdict[tuple[str, int], dict[tuple[str, int], AttemptFacts]] = defaultdict(dict)
    for lease, part, unit, ordinal, *facts in connection.execute(query):
        found[lease, part][unit, ordinal] = AttemptFacts(*facts)
    return found
