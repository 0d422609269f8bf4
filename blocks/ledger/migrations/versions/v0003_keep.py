"""The tables of what is kept and what was let go: replaced segments, segments of several runs, dropped bundles."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from blocks.ledger.refusals import make_facts

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Only forwards: the way back is the copy that is made before."""
    op.create_table(
        "replacements",
        sa.Column("segment", sa.String(), nullable=False),
        sa.Column("by", sa.String(), nullable=False),
        sa.Column("replaced", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("segment"),
    )
    op.create_table(
        "segment_runs",
        sa.Column("segment", sa.String(), nullable=False),
        sa.Column("run", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("segment", "run"),
    )
    op.create_index("segment_runs_run", "segment_runs", ["run"])
    op.create_table(
        "dropped_bundles",
        sa.Column("digest", sa.String(), nullable=False),
        sa.Column("drop", sa.String(), nullable=False),
        sa.Column("dropped", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("digest"),
    )
    make_facts(op.get_bind(), ("replacements", "segment_runs", "dropped_bundles"))
