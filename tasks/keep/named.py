"""The files that the records name: what a backup must hold, and what must be there and unaltered."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sqlalchemy import Connection, select, union

from blocks.canonical import digest_file
from blocks.ledger import Ledger
from blocks.ledger.schema import builds, bundles, segments


@dataclass(frozen=True)
class Named:
    """A file of a ledger: where it stands in the state folder, and what its content must be."""

    path: str
    digest: str
    what: str  # segment, bundle or provenance


def named_segments(connection: Connection) -> list[Named]:
    """Every Parquet file that counts."""
    query = select(segments.c.path, segments.c.digest).order_by(segments.c.path)
    return [Named(f"results/{path}", digest, "segment") for path, digest in connection.execute(query)]


def named_in_store(connection: Connection) -> Iterator[Named]:
    """Raw bundles and provenance statements. (Builds' artifacts are large and made again where they are missing.)"""
    for what, column in (("bundle", bundles.c.digest), ("provenance", builds.c.provenance)):
        for digest in connection.scalars(union(select(column)).order_by(column.name)):
            yield stored(digest, what)


def stored(digest: str, what: str) -> Named:
    """A file of the store."""
    name = digest.removeprefix("sha256:")
    return Named(f"store/{name[:2]}/{name}", digest, what)


def trouble_with(ledger: Ledger, named: Named) -> Literal["missing", "altered"] | None:
    """What is wrong with the file, which is read as a whole."""
    try:
        return None if digest_file(place(ledger, named)) == named.digest else "altered"
    except OSError:
        return "missing"


def place(ledger: Ledger, named: Named) -> Path:
    """Where the file stands on this machine."""
    if named.what == "segment":
        return ledger.results / named.path.removeprefix("results/")
    return ledger.store.path(named.digest)
