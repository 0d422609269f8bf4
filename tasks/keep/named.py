"""The files that the records name: what a backup must hold, and what must be there and unaltered."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sqlalchemy import Connection, select, union

from blocks.ledger import Ledger
from blocks.ledger.files import counting, digest_now
from blocks.ledger.keep_schema import dropped_bundles
from blocks.ledger.schema import builds, bundles


@dataclass(frozen=True)
class Named:
    """A file of a ledger: where it stands in the state folder, and what its content must be."""

    path: str
    digest: str
    what: str  # segment, bundle or provenance


def named_segments(connection: Connection) -> list[Named]:
    """Every Parquet file that counts."""
    found = sorted(counting(connection), key=lambda segment: segment.path)
    return [Named(f"results/{segment.path}", segment.digest, "segment") for segment in found]


def named_in_store(connection: Connection) -> Iterator[Named]:
    """Raw bundles that were not dropped, and provenance statements.

    (Builds' artifacts are large, and made again where they are missing.)
    """
    kept = select(bundles.c.digest).where(bundles.c.digest.not_in(select(dropped_bundles.c.digest)))
    for what, column, digests in (
        ("bundle", bundles.c.digest, kept),
        ("provenance", builds.c.provenance, select(builds.c.provenance)),
    ):
        for digest in connection.scalars(union(digests).order_by(column.name)):
            name = digest.removeprefix("sha256:")
            yield Named(f"store/{name[:2]}/{name}", digest, what)


def trouble_with(ledger: Ledger, named: Named) -> Literal["missing", "altered"] | None:
    """What is wrong with the file, which is read as a whole where it is kept."""
    segment = named.what == "segment"
    try:
        path = named.path.removeprefix("results/")
        found = digest_now(ledger, path) if segment else ledger.store.digest_now(named.digest)
    except OSError:
        found = None
    if found is None:
        return "missing"
    return None if found == named.digest else "altered"


def place(ledger: Ledger, named: Named) -> Path:
    """Where the file stands on this machine. (With a bucket: its copy, which need not be there.)"""
    if named.what == "segment":
        return ledger.results / named.path.removeprefix("results/")
    return ledger.store.path(named.digest)
