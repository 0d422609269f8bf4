"""The files behind the records: each segment against the digest under which it was made to count."""

from __future__ import annotations

from sqlalchemy import select

from blocks.canonical import digest_file
from blocks.ledger import Ledger
from blocks.ledger.schema import bundles, segments
from tasks.publish.log.findings import Findings


def verify_files(ledger: Ledger) -> tuple[Findings, int]:
    """What is wrong with the segments and the raw bundles that the records name, and how many files were read."""
    found, read = Findings(), 0
    with ledger.read() as connection:
        cut = connection.execute(select(segments.c.path, segments.c.digest).order_by(segments.c.path)).all()
        kept = connection.execute(select(bundles.c.lease, bundles.c.part, bundles.c.digest)).all()
    for path, digest in cut:
        read += 1
        file = ledger.results / path
        if not file.is_file():
            found.add("missing", f"results/{path}", "the segment is not there; its rows are missing from every query")
        elif digest_file(file) != digest:
            found.add("changed_file", f"results/{path}", f"its content is not what was cut, {digest}")
    for lease, part, digest in kept:
        read += 1
        file = ledger.store.path(digest)
        if not file.is_file():
            found.add("missing", f"part {part} of {lease}", f"its raw bundle {digest} is not in the store")
        elif digest_file(file) != digest:
            found.add("changed_file", f"part {part} of {lease}", f"its raw bundle is not what was admitted, {digest}")
    return found, read
