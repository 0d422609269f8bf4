"""Judge a run: decide the cause of every bad test, write the verdicts down, and say what the run came to.

Judging again is safe. Where nothing changed nothing is written; where evidence or quarantine changed, a row with the
next ordinal supersedes the old verdict and the old one stays.
"""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, insert, select, text

from blocks.canonical import canonical_json, digest_json
from blocks.catalog.models import Quarantined
from blocks.ledger import Ledger, now, record
from blocks.ledger.completeness import NEEDS, missing_tests, unit_counts
from blocks.ledger.query import open_query
from blocks.ledger.schema import runs, verdicts
from tasks.collect.driver import Seat, fence
from tasks.judge.conclude import Accounts, conclude
from tasks.judge.decide import POISON, Standing, Verdict, decide
from tasks.judge.evidence import WHOLE_UNIT, Key, gather

_TURN = 7310581  # PostgreSQL's advisory lock of judges


@dataclass(frozen=True)
class Judgement:
    """What a run came to. `exit_code` is 0 when everything planned is accounted for and nothing new is broken."""

    run: str
    exit_code: int
    sentence: str
    new_broken: tuple[Verdict, ...]
    quarantined: tuple[Verdict, ...]
    known: tuple[Verdict, ...]
    order_dependent: tuple[Verdict, ...]
    lost: Mapping[str, int]  # reason -> units
    not_run: Mapping[str, int]
    missing: int  # planned tests of units that ran, without any result
    written: int  # verdict rows that were new


def judge_run(
    ledger: Ledger, run: str, quarantine: Sequence[Quarantined], today: datetime.date, *, seat: Seat | None = None
) -> Judgement:
    """Judge the run with the quarantine as it stands `today`, and write what is new to the ledger.

    A driver gives its `seat`: where it has lost that, nothing is written and StaleDriver raised. Raises LedgerError
    for an unknown run.
    """
    verdicts_now = decide(gather(ledger, run), quarantine, today)
    accounts = _accounts(ledger, run)
    with ledger.write() as connection:
        if seat is not None:
            fence(connection, seat)
        written = _write(connection, run, verdicts_now)
    exit_code, sentence = conclude(verdicts_now, accounts)
    return Judgement(
        run=run,
        exit_code=exit_code,
        sentence=sentence,
        new_broken=_standing(verdicts_now, "new"),
        quarantined=_standing(verdicts_now, "quarantined"),
        known=_standing(verdicts_now, "known"),
        order_dependent=_standing(verdicts_now, "order_dependent"),
        lost=accounts.lost,
        not_run=accounts.not_run,
        missing=accounts.missing,
        written=written,
    )


def _standing(found: Iterable[Verdict], standing: Standing) -> tuple[Verdict, ...]:
    return tuple(verdict for verdict in found if verdict.standing == standing)


def _accounts(ledger: Ledger, run: str) -> Accounts:
    with ledger.read() as connection:
        state = connection.scalar(select(runs.c.state).where(runs.c.id == run))
        counts = unit_counts(connection, [run])
        with open_query(ledger, NEEDS, runs=[run]) as reader:
            missing, _ = missing_tests(connection, reader, run, counts)
            damaged = len(reader.damaged)
    by: dict[str | None, Counter[str]] = {}
    for count in counts:
        by.setdefault(count.terminal, Counter())[count.reason] += count.units
    return Accounts(
        state=state or "",
        planned=sum(count.units for count in counts),
        open=by.get(None, Counter()).total(),
        lost=dict(sorted(by.get("lost", Counter()).items())),
        not_run=dict(sorted(by.get("not_run", Counter()).items())),
        missing=missing,
        damaged=damaged,
    )


# -- writing -------------------------------------------------------------------------------------------------------


def _write(connection: Connection, run: str, found: Sequence[Verdict]) -> int:
    """Insert the verdicts that differ from those that stand; returns how many."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:turn)"), {"turn": _TURN})
    standing = _standing_rows(connection, run)
    rows = []
    for verdict in found:
        body = (verdict.cause, verdict.gates, canonical_json(verdict.evidence).decode())
        ordinal, before = standing.pop((verdict.environment, verdict.suite, verdict.test), (0, None))
        if body != before:
            rows.append(_row(run, (verdict.environment, verdict.suite, verdict.test), ordinal + 1, body))
    for key, (ordinal, before) in standing.items():
        if not key[2].endswith(WHOLE_UNIT):
            continue  # an outcome, once counted, stays; where its bundle cannot be read now, the old verdict stands
        # A unit that was lost and whose results came after all.
        body = ("infra", False, canonical_json({"withdrawn": f"the unit is no longer lost({POISON})"}).decode())
        if body != before:
            rows.append(_row(run, key, ordinal + 1, body))
    if rows:
        connection.execute(insert(verdicts), [{**row, "decided": connection.scalar(select(now()))} for row in rows])
        record(
            connection,
            "verdict.decided",
            run=run,
            verdicts=len(rows),
            gating=sum(row["gates"] for row in rows),
            causes=dict(sorted(Counter(row["cause"] for row in rows).items())),
            digest=digest_json(rows),
        )
    return len(rows)


def _row(run: str, key: Key, ordinal: int, body: tuple[str, bool, str]) -> dict[str, Any]:
    environment, suite, test = key
    cause, gates, evidence = body
    return {
        "run": run, "environment": environment, "suite": suite, "test": test, "ordinal": ordinal, "cause": cause,
        "gates": gates, "evidence": evidence,
    }  # fmt: skip


def _standing_rows(connection: Connection, run: str) -> dict[Key, tuple[int, tuple[str, bool, str]]]:
    query = select(verdicts).where(verdicts.c.run == run).order_by(verdicts.c.ordinal)
    return {
        (row.environment, row.suite, row.test): (row.ordinal, (row.cause, row.gates, row.evidence))
        for row in connection.execute(query)
    }
