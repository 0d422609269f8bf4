"""What a run came to, in numbers: for `runs`, `show RUN`, the report and everything that reads their JSON.

The shapes are kept. All counting is done in SQL and DuckDB, so that a run of 100,000 units is summed up at once.
"""

from __future__ import annotations

import datetime
import difflib
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, func, select

from blocks.errors import LedgerError
from blocks.ledger import Ledger, now
from blocks.ledger.completeness import NEEDS, UnitCount, missing_tests, unit_counts
from blocks.ledger.dark import summed
from blocks.ledger.query import open_query
from blocks.ledger.schema import attempts, machines, plans, runs, verdicts
from tasks.publish.accounting import NAMED, went_dark

TERMINALS = ("ran", "skipped", "not_run", "lost")


def resolve_run(ledger: Ledger, text: str) -> str:
    """The id of the run that `text` names: an id, a unique start of one, or `latest`.

    Raises LedgerError naming the ids that come close, or the newest ones.
    """
    with ledger.read() as connection:
        known: list[str] = list(connection.scalars(select(runs.c.id).order_by(runs.c.created.desc(), runs.c.id.desc())))
    if text == "latest" and known:
        return known[0]
    if text in known:
        return text
    starting = [run for run in known if text and run.startswith(text)]
    if len(starting) == 1:
        return starting[0]
    if not known:
        raise LedgerError("The ledger holds no run yet.", do="Start one with `commonfleet nightly`.")
    if starting:
        raise LedgerError(f"{len(starting)} runs start with {text!r}: {', '.join(starting[:5])}.", do="Say more of it.")
    close = difflib.get_close_matches(text, known, n=3)
    hint = f"Did you mean {' or '.join(close)}?" if close else f"The newest are {', '.join(known[:3])}."
    raise LedgerError(f"There is no run {text!r}.", do=f"{hint} `commonfleet runs` lists them all.")


def run_list(ledger: Ledger, *, limit: int | None = None) -> list[dict[str, Any]]:
    """The runs, newest first, each with `id`, flow, state, times, units by state and how it ended."""
    query = select(runs).order_by(runs.c.created.desc(), runs.c.id.desc())
    with ledger.read() as connection:
        found = connection.execute(query.limit(limit) if limit is not None else query).all()
        counts: dict[str, list[UnitCount]] = defaultdict(list)
        for count in unit_counts(connection, [row.id for row in found]):
            counts[count.run].append(count)
    return [
        {
            "id": row.id,
            "flow": row.flow,
            "state": row.state,
            "created": iso(row.created),
            "finished": iso(row.finished),
            "units": units_by_state(counts[row.id]),
            **_conclusion(row.conclusion),
        }
        for row in found
    ]


def run_summary(ledger: Ledger, run: str) -> dict[str, Any]:
    """Everything countable about one run. `run` is what `resolve_run` takes; raises LedgerError like it."""
    identity = resolve_run(ledger, run)
    with ledger.read() as connection:
        row = connection.execute(select(runs).where(runs.c.id == identity)).one()
        counts = unit_counts(connection, [identity])
        tries = _tries(connection, identity)
        went, compared, trouble = went_dark(ledger, connection, identity, counts)
        # Opened after the units were counted: results that arrive in between are more than was counted, never less.
        with open_query(ledger, NEEDS, runs=[identity]) as reader:
            missing, named = missing_tests(connection, reader, identity, counts)
            company, final = _by_suite(reader.rows(_OUTCOMES, {"run": identity}))
        return {
            **_header(connection, row),
            "units": units_by_state(counts),
            "suites": {suite: units_by_state(c for c in counts if c.suite == suite) for suite in _suites(counts)},
            "reasons": _reasons(counts),
            "attempts": _attempts(tries),
            "results": company,
            "after_retry": final,
            "missing": missing,
            "missing_tests": [vars(test) for test in named],
            "left_out": _left_out(connection, row.plan),
            "dark": {**summed(went, compared, named=NAMED), "trouble": trouble},
            "verdicts": _verdicts(connection, identity),
            "machines": _machines(connection, tries),
            "damaged": [error.what for error in reader.damaged],
        }


def units_by_state(counts: Iterable[UnitCount]) -> dict[str, int]:
    """`planned` and the terminal states, which add up to it; `open` beside them while some have none yet."""
    total: Counter[str] = Counter()
    for count in counts:
        total[count.terminal or "open"] += count.units
    result = {"planned": total.total(), **{terminal: total[terminal] for terminal in TERMINALS}}
    return {**result, "open": total["open"]} if total["open"] else result


def unit_summary(ledger: Ledger, run: str) -> dict[str, int]:
    """The units of one run by state: `summary["units"]`, from the records alone."""
    with ledger.read() as connection:
        return units_by_state(unit_counts(connection, [run]))


def iso(seconds: float | None) -> str | None:
    """A time of the ledger as ISO 8601, UTC."""
    return None if seconds is None else datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat()


# -- pieces --------------------------------------------------------------------------------------------------------

_OUTCOMES = """SELECT suite, outcome, count(*) FILTER (mode = 'company'), count(*) FILTER (final)
    FROM results WHERE run = $run GROUP BY ALL ORDER BY ALL"""


def _header(connection: Connection, row: Row[Any]) -> dict[str, Any]:
    end = row.finished if row.finished is not None else connection.scalar(select(now()))
    return {
        "id": row.id,
        "flow": row.flow,
        "state": row.state,
        "created": iso(row.created),
        "finished": iso(row.finished),
        "wall_seconds": round(end - row.created, 3),
        "plan": row.plan,
        **_conclusion(row.conclusion),
    }


def _conclusion(text: str | None) -> dict[str, Any]:
    conclusion = json.loads(text) if text else {}
    return {"exit_code": conclusion.get("exit_code"), "sentence": conclusion.get("sentence")}


def _suites(counts: Iterable[UnitCount]) -> list[str]:
    return sorted({count.suite for count in counts})


def _reasons(counts: Iterable[UnitCount]) -> dict[str, dict[str, int]]:
    found: dict[str, Counter[str]] = {terminal: Counter() for terminal in TERMINALS if terminal != "ran"}
    for count in counts:
        if count.terminal in found:
            found[count.terminal][count.reason] += count.units
    return {terminal: dict(sorted(reasons.items())) for terminal, reasons in found.items()}


@dataclass(frozen=True)
class _Tries:
    """How many attempts a machine made, of one kind."""

    machine: str
    counted: bool
    mode: str
    reason: str
    attempts: int
    seconds: float


def _tries(connection: Connection, run: str) -> list[_Tries]:
    key = (attempts.c.machine, attempts.c.counted, attempts.c.mode, attempts.c.reason)
    query = select(*key, func.count(), func.sum(attempts.c.seconds)).where(attempts.c.run == run).group_by(*key)
    return [_Tries(*row) for row in connection.execute(query)]


def _attempts(tries: Sequence[_Tries]) -> dict[str, Any]:
    refused: Counter[str] = Counter()
    for some in tries:
        if not some.counted:
            refused[some.reason] += some.attempts
    return {
        "total": sum(some.attempts for some in tries),
        "counted": sum(some.attempts for some in tries if some.counted),
        "alone": sum(some.attempts for some in tries if some.mode == "alone"),
        "not_counted": dict(sorted(refused.items())),
    }


def _by_suite(rows: Iterable[tuple[Any, ...]]) -> tuple[dict[str, dict[str, int]], dict[str, dict[str, int]]]:
    """Tests by suite and outcome: in company, and after those that failed were tried again alone."""
    company: dict[str, dict[str, int]] = {}
    final: dict[str, dict[str, int]] = {}
    for suite, outcome, in_company, standing in rows:
        for table, number in ((company, in_company), (final, standing)):
            if number:
                table.setdefault(suite, {})[outcome] = number
    return company, final


def _left_out(connection: Connection, plan: str | None) -> list[Mapping[str, str]]:
    document = connection.scalar(select(plans.c.document).where(plans.c.id == plan))
    return list(json.loads(document).get("left_out", [])) if document else []


def _verdicts(connection: Connection, run: str) -> dict[str, Any]:
    """The verdicts that stand, by cause, and how many of them gate."""
    key = (verdicts.c.run, verdicts.c.environment, verdicts.c.suite, verdicts.c.test)
    newest = func.max(verdicts.c.ordinal).over(partition_by=key)
    standing = (
        select(verdicts.c.cause, verdicts.c.gates, verdicts.c.ordinal, newest.label("newest"))
        .where(verdicts.c.run == run)
        .subquery()
    )
    query = (
        select(standing.c.cause, standing.c.gates, func.count())
        .where(standing.c.ordinal == standing.c.newest)
        .group_by(standing.c.cause, standing.c.gates)
    )
    causes: Counter[str] = Counter()
    gating = 0
    for cause, gates, number in connection.execute(query):
        causes[cause] += number
        gating += number if gates else 0
    return {"gating": gating, "by_cause": dict(sorted(causes.items()))}


def _machines(connection: Connection, tries: Sequence[_Tries]) -> list[dict[str, Any]]:
    """The machines that worked for the run, with the seconds that their slots spent in attempts."""
    worked: Counter[str] = Counter()
    busy: dict[str, float] = defaultdict(float)
    for some in tries:
        worked[some.machine] += some.attempts
        busy[some.machine] += some.seconds
    query = select(machines).where(machines.c.id.in_(worked)).order_by(machines.c.id)
    return [
        {
            "machine": row.id, "pool": row.pool, "vendor": row.vendor, "slots": row.slots, "attempts": worked[row.id],
            "busy_seconds": round(busy[row.id], 3),
        }
        for row in connection.execute(query)
    ]  # fmt: skip
