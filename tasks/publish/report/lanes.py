"""The timeline: what each slot did when, merged so that a hundred thousand attempts still make a small picture.

The axis is the database's clock (leases); an attempt's own `started` is the machine's clock, which may be wrong by
hours and, on a machine that is not ours, by intent. So bars are shifted where a machine's clock is visibly off, and
never leave the axis.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from sqlalchemy import Connection, and_, case, func, select

from blocks.ledger.schema import attempts, leases, units
from tasks.publish.report.story import Lane, Span, Timeline
from tasks.publish.report.words import duration, name, spoken

BARS = 4000
"""About how many bars a page may draw."""
LANES = 80
"""How many lanes a page may draw; the busiest ones."""
_SKEW = 2.0  # seconds: smaller differences between clocks cannot be seen


@dataclass
class _Bin:
    """Attempts of one kind that begin in the same small stretch of time."""

    number: int
    start: float
    end: float
    outcome: str
    alone: bool
    count: int
    seconds: float
    title: str


def timeline(connection: Connection, run: str, asked: float) -> Timeline | None:
    """The lanes of a run; None when nothing was leased. `asked` stands for the end of what still goes on."""
    ended = func.coalesce(leases.c.ended, asked)
    bounds = connection.execute(select(func.min(leases.c.granted), func.max(ended)).where(leases.c.run == run)).one()
    if bounds[0] is None:
        return None
    start, end = float(bounds[0]), max(float(bounds[1]), float(bounds[0]) + 1e-3)
    totals = _totals(connection, run)
    drawn = sorted(sorted(totals, key=lambda lane: -totals[lane][1])[:LANES])
    held = _leases(connection, run, asked, set(drawn))
    shifts = _shifts(connection, run)
    width = (end - start) / min(max(BARS // max(len(drawn), 1), 40), 1200)
    spans = {
        lane: tuple(_merged(rows, shifts.get(lane[0], 0.0), start, end, width))
        for lane, rows in groupby(_attempts(connection, run, drawn), key=lambda row: (row.machine, row.slot))
    }
    return Timeline(
        start,
        end,
        tuple(Lane(*lane, held[lane], spans.get(lane, ()), totals[lane][1], totals[lane][0]) for lane in drawn),
        sum(seconds for _, seconds in totals.values()),
        len(totals) - len(drawn),
    )


def _totals(connection: Connection, run: str) -> dict[tuple[str, int], tuple[int, float]]:
    """(machine, slot) -> attempts made, seconds busy; with the slots that were leased and did nothing."""
    idle = select(leases.c.machine, leases.c.slot).where(leases.c.run == run).distinct()
    totals = {(row.machine, row.slot): (0, 0.0) for row in connection.execute(idle)}
    query = (
        select(attempts.c.machine, attempts.c.slot, func.count(), func.sum(attempts.c.seconds))
        .where(attempts.c.run == run)
        .group_by(attempts.c.machine, attempts.c.slot)
    )
    for machine, slot, made, seconds in connection.execute(query):
        totals[machine, slot] = (made, float(seconds))
    return totals


def _leases(
    connection: Connection, run: str, asked: float, drawn: set[tuple[str, int]]
) -> dict[tuple[str, int], tuple[tuple[float, float], ...]]:
    found: dict[tuple[str, int], list[tuple[float, float]]] = defaultdict(list)
    query = (
        select(leases.c.machine, leases.c.slot, leases.c.granted, func.coalesce(leases.c.ended, asked))
        .where(leases.c.run == run)
        .order_by(leases.c.granted)
    )
    for machine, slot, granted, ended in connection.execute(query):
        if (machine, slot) in drawn:
            found[machine, slot].append((granted, ended))
    return defaultdict(tuple, {lane: _thinned(stretches) for lane, stretches in found.items()})


def _thinned(stretches: list[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
    """The stretches, evenly thinned by joining neighbours where there are very many."""
    step = len(stretches) // 200 + 1
    return tuple(
        (stretches[at][0], max(end for _, end in stretches[at : at + step])) for at in range(0, len(stretches), step)
    )


def _shifts(connection: Connection, run: str) -> dict[str, float]:
    """machine -> seconds to add to its times, where they lie outside its leases."""
    early = func.min(attempts.c.started - leases.c.granted)
    late = func.max(
        case((leases.c.state == "done", attempts.c.started + attempts.c.seconds - leases.c.ended), else_=0.0)
    )
    query = (
        select(attempts.c.machine, early, late)
        .join(leases, leases.c.id == attempts.c.lease)
        .where(attempts.c.run == run)
        .group_by(attempts.c.machine)
    )
    shifts = {}
    for machine, before, after in connection.execute(query):
        if before < -_SKEW:
            shifts[machine] = -before
        elif after > _SKEW:
            shifts[machine] = -after
    return shifts


def _attempts(connection: Connection, run: str, drawn: list[tuple[str, int]]) -> Iterator[Any]:
    """Attempts of the drawn lanes, lane by lane, in order of time."""
    query = (
        select(
            attempts.c.machine,
            attempts.c.slot,
            attempts.c.started,
            attempts.c.seconds,
            attempts.c.outcome,
            attempts.c.mode,
            attempts.c.test,
            attempts.c.counted,
            units.c.suite,
            units.c.name,
        )
        .join(units, and_(units.c.run == attempts.c.run, units.c.unit == attempts.c.unit))
        .where(attempts.c.run == run)
        .order_by(attempts.c.machine, attempts.c.slot, attempts.c.started)
        .execution_options(yield_per=2000)
    )
    wanted = set(drawn)
    return (row for row in connection.execute(query) if (row.machine, row.slot) in wanted)


def _merged(rows: Iterable[Any], shift: float, first: float, last: float, width: float) -> Iterator[Span]:
    """Spans of a lane: what is wider than `width` stands alone, smaller ones of a kind share a bin."""
    bins: dict[tuple[str, bool], _Bin] = {}
    for row in rows:
        start = min(max(row.started + shift, first), last)
        end = min(start + row.seconds, last)
        alone, number = row.mode == "alone", int((start - first) / width)
        held = bins.get((row.outcome, alone))
        if held and held.number == number and end - start < width:
            held.end, held.count, held.seconds = max(held.end, end), held.count + 1, held.seconds + row.seconds
            continue
        if held:
            yield _span(held)
        bins[row.outcome, alone] = _Bin(
            number, start, end, row.outcome, alone, 1, row.seconds, _title(row, start - first)
        )
    for held in bins.values():
        yield _span(held)


def _span(held: _Bin) -> Span:
    title = held.title
    if held.count > 1:
        kind = "tries alone" if held.alone else "attempts"
        title = f"{held.count:,} short {kind}, each {spoken(held.outcome)}, {duration(held.seconds)} together"
    return Span(held.start, held.end, held.outcome, held.alone, held.count, title)


def _title(row: Any, at: float) -> str:
    what = f"{name(row.test, 90)} alone" if row.mode == "alone" and row.test else name(row.name, 90)
    late = "" if row.counted else " · not counted"
    return f"{name(row.suite, 40)} {what} · {spoken(row.outcome)} in {duration(row.seconds)} · {duration(at)} in{late}"
