"""The files behind the records: each segment against the digest under which it was made to count."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import select, tuple_

from blocks.ledger import Ledger
from blocks.ledger.schema import bundles
from tasks.keep.named import named_segments, stored, trouble_with
from tasks.publish.log.findings import Findings

PAGE = 5000


def verify_files(ledger: Ledger) -> tuple[Findings, int]:
    """What is wrong with the segments and the raw bundles that the records name, and how many files were read."""
    found, read = Findings(), 0
    with ledger.read() as connection:
        cut = named_segments(connection)
    for segment in cut:
        read += 1
        trouble = trouble_with(ledger, segment)
        if trouble == "missing":
            found.add("missing", segment.path, "the segment is not there; its rows are missing from every query")
        elif trouble:
            found.add("changed_file", segment.path, f"its content is not what was cut, {segment.digest}")
    after = ("", 0)
    while kept := _bundles(ledger, after):
        for lease, part, digest in kept:
            read += 1
            trouble, where = trouble_with(ledger, stored(digest, "bundle")), f"part {part} of {lease}"
            if trouble == "missing":
                found.add("missing", where, f"its raw bundle {digest} is not in the store")
            elif trouble:
                found.add("changed_file", where, f"its raw bundle is not what was admitted, {digest}")
        after = (kept[-1].lease, kept[-1].part)
    return found, read


def _bundles(ledger: Ledger, after: tuple[str, int]) -> Sequence[Any]:
    """The next page: there may be millions, and no transaction should last while files are read."""
    key = tuple_(bundles.c.lease, bundles.c.part)
    query = select(bundles.c.lease, bundles.c.part, bundles.c.digest).where(key > after).order_by(*key.clauses)
    with ledger.read() as connection:
        return connection.execute(query.limit(PAGE)).all()
