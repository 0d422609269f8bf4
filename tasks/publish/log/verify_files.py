"""The files behind the records: are they those that the log tells of, and what became of those that are gone?

A segment is checked against the digest under which an event says that it was made, so that a file that was rewritten
together with its record is found. One that was replaced, and a raw bundle that was dropped, may be gone: an event says
so, and without it they are missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import duckdb
from sqlalchemy import select

from blocks.canonical import digest_json, short
from blocks.ledger import Ledger
from blocks.ledger.files import digest_now
from blocks.ledger.keep_schema import dropped_bundles, replacements
from tasks.publish.log.accounts import accounts
from tasks.publish.log.findings import Findings
from tasks.publish.log.verify_records import verify_records
from tasks.publish.log.verify_rows import Rows, verify_rows

_AT_ONCE = 5000


@dataclass
class Checked:
    """What is wrong with the files, how many were read, and what was let go as the log says."""

    findings: Findings = field(default_factory=Findings)
    files: int = 0
    dropped: int = 0  # raw bundles
    rows: Rows = field(default_factory=Rows)


def verify_files(ledger: Ledger) -> Checked:
    """Check every segment and raw bundle, and the rows of each bundle against the root under which it was admitted.

    Memory does not grow with the ledger.
    """
    checked = Checked()
    with accounts(ledger) as both:
        verify_records(both, checked.findings)
        _compare_segments(both, checked.findings)
        _compare_bundles(both, checked.findings)
        wrong = _check_segments(ledger, both, checked)
        _check_raw(ledger, both, _check_drops(both, checked), checked)
        checked.rows = verify_rows(ledger, both, checked.findings, wrong)
    return checked


# -- the records against the log -----------------------------------------------------------------------------------


def _compare_segments(both: duckdb.DuckDBPyConnection, findings: Findings) -> None:
    differing = both.execute(
        """SELECT coalesce(l.path, s.path), l.segment, s.digest,
            [l.rows::VARCHAR, l.kind, l.run, l.environment], [s.rows::VARCHAR, s.kind, s.run, s.environment]
        FROM logged l FULL JOIN (FROM segments WHERE counts) s ON l.path = s.path
        WHERE l.segment IS DISTINCT FROM s.digest
            OR (l.rows, l.kind, l.run, l.environment) IS DISTINCT FROM (s.rows, s.kind, s.run, s.environment)
        ORDER BY 1"""
    ).fetchall()
    for path, *both_sides in differing:
        _tell_difference(findings, f"results/{path}", both_sides, ("rows", "kind", "run", "environment"), "made")


def _compare_bundles(both: duckdb.DuckDBPyConnection, findings: Findings) -> None:
    differing = both.execute(
        """SELECT lease, part, logged, recorded, said, written FROM (
            SELECT coalesce(a.lease, b.lease) AS lease, coalesce(a.part, b.part) AS part,
                a.digest AS logged, b.digest AS recorded, [a.rows::VARCHAR, a.run,
                    coalesce(a.environment, b.environment), coalesce(a.signer, b.signer)] AS said,
                [b.rows::VARCHAR, b.run, b.environment, b.signer] AS written
            FROM admitted a FULL JOIN bundles b ON a.lease = b.lease AND a.part = b.part)
        WHERE logged IS DISTINCT FROM recorded OR said IS DISTINCT FROM written ORDER BY 1, 2"""
    )
    while some := differing.fetchmany(_AT_ONCE):
        for lease, part, *both_sides in some:
            names = ("rows", "run", "environment", "signer")
            _tell_difference(findings, f"part {part} of {lease}", both_sides, names, "admitted")


def _tell_difference(findings: Findings, where: str, both_sides: Sequence[Any], names: Sequence[str], act: str) -> None:
    """`both_sides` are the digests of log and record, then what each says of `names`."""
    logged, recorded, said, written = both_sides
    if recorded is None:
        findings.add("missing", where, f"the log says that {logged} was {act}, and no record has it")
    elif logged is None:
        findings.add("unlogged", where, f"{recorded} is on record, and no event says that it was {act}")
    elif logged != recorded:
        findings.add("changed_record", where, f"its record says {recorded}, and the log {logged}")
    else:
        for name, one, other in zip(names, said, written, strict=True):
            if one != other:
                findings.add("changed_record", where, f"its record says {name} {other}, and the log {one}")


# -- the files -----------------------------------------------------------------------------------------------------


def _check_segments(ledger: Ledger, both: duckdb.DuckDBPyConnection, checked: Checked) -> set[str]:
    """Returns the paths of those that are wrong, or not there."""
    wrong = set()
    listed = both.execute(
        """SELECT s.path, coalesce(l.segment, s.digest), s.digest
        FROM segments s LEFT JOIN logged l ON l.path = s.path WHERE s.counts ORDER BY 1"""
    ).fetchall()
    for path, digest, recorded in listed:
        checked.files += 1
        now = digest_now(ledger, path)
        if now == digest or (now is None and _replaced_meanwhile(ledger, recorded)):
            continue
        wrong.add(path)
        where = f"results/{path}"
        if now is None:
            checked.findings.add("missing", where, "the segment is not there; its rows are missing from every query")
        else:
            checked.findings.add("changed_file", where, f"its content is not what was made, {digest}")
    return wrong


def _replaced_meanwhile(ledger: Ledger, digest: str) -> bool:
    with ledger.read() as connection:
        return bool(connection.scalar(select(replacements.c.segment).where(replacements.c.segment == digest)))


def _check_drops(both: duckdb.DuckDBPyConnection, checked: Checked) -> set[str]:
    """Take out of `dropped` what no event tells of; returns all acts of dropping that are on record.

    An act is called by the digest over the digests that went with it, which is what its event holds.
    """
    logged = {digests for (digests,) in both.execute("SELECT digests FROM drops").fetchall()}
    acts = both.execute("SELECT DISTINCT act FROM dropped ORDER BY act").fetchall()
    for (act,) in acts:
        query = both.execute("SELECT digest FROM dropped WHERE act = ? ORDER BY digest", [act])
        digests = [digest for (digest,) in query.fetchall()]
        if act in logged and digest_json(digests) == act:
            continue
        says = f"{len(digests):,} raw bundles are said to be dropped, and no event says so"
        checked.findings.add("unlogged", f"drop {short(str(act))}", says)
        both.execute("DELETE FROM dropped WHERE act = ?", [act])
    return {act for (act,) in acts}


def _check_raw(ledger: Ledger, both: duckdb.DuckDBPyConnection, acts: set[str], checked: Checked) -> None:
    listed = both.cursor().execute(
        """SELECT b.lease, b.part, b.digest, d.digest IS NOT NULL
        FROM bundles b LEFT JOIN dropped d ON d.digest = b.digest ORDER BY b.lease, b.part"""
    )
    while some := listed.fetchmany(_AT_ONCE):
        for lease, part, digest, dropped in some:
            now = ledger.store.digest_now(digest)
            if now is None and (dropped or _dropped_meanwhile(ledger, digest, acts)):
                checked.dropped += 1
                continue
            checked.files += 1
            where = f"part {part} of {lease}"
            if now is None:
                checked.findings.add("missing", where, f"its raw bundle {digest} is not in the store")
            elif now != digest:
                checked.findings.add("changed_file", where, f"its raw bundle is not what was admitted, {digest}")


def _dropped_meanwhile(ledger: Ledger, digest: str, acts: set[str]) -> bool:
    """Whether it was dropped since the two accounts were taken: the next check looks for the event of that act."""
    with ledger.read() as connection:
        act = connection.scalar(select(dropped_bundles.c.drop).where(dropped_bundles.c.digest == digest))
    return act is not None and act not in acts
