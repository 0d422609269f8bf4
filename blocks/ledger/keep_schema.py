"""The tables of what is kept and what was let go: which file stands in another's place, which bundles are gone."""

from __future__ import annotations

from sqlalchemy import Column, Double, Index, String, Table

from blocks.ledger.schema import metadata

# A segment whose rows stand in another file by now (sorted together with others', or summed up by day) counts no more.
# The first to say so wins, which keeps two compactors apart.
replacements = Table(
    "replacements",
    metadata,
    Column("segment", String, primary_key=True),
    Column("by", String, nullable=False),  # digest of the segment that counts in its place
    Column("replaced", Double, nullable=False),
)

# Which runs a segment of several runs has rows of.
segment_runs = Table(
    "segment_runs",
    metadata,
    Column("segment", String, primary_key=True),
    Column("run", String, primary_key=True),
    Index("segment_runs_run", "run"),
)

# Raw bundles that are not kept any more. Their rows stand in segments, their digests in the log.
dropped_bundles = Table(
    "dropped_bundles",
    metadata,
    Column("digest", String, primary_key=True),
    Column("drop", String, nullable=False),  # the digest over all digests that went with it, which the event holds
    Column("dropped", Double, nullable=False),
)

FACTS = (replacements, segment_runs, dropped_bundles)
"""Rows of these are only ever inserted."""
