"""Attempts are found by their lease: the index of their ids, hashes all over it, goes."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from blocks.ledger.refusals import make_facts

revision = "0004"
down_revision = "0003"

_KEY = ["lease", "unit", "ordinal"]


def upgrade() -> None:
    """Only forwards: the way back is the copy that is made before."""
    if op.get_bind().dialect.name == "postgresql":
        op.drop_constraint("attempts_pkey", "attempts")
        op.drop_constraint("attempts_lease_unit_ordinal_key", "attempts")
        op.create_primary_key("attempts_pkey", "attempts", _KEY)
        return
    op.drop_index("attempts_counts")
    op.rename_table("attempts", "attempts_before")  # its triggers go with it
    op.create_table(
        "attempts",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("run", sa.String(), nullable=False),
        sa.Column("unit", sa.String(), nullable=False),
        sa.Column("lease", sa.String(), nullable=False),
        sa.Column("part", sa.Integer(), nullable=False),
        sa.Column("ordinal", sa.Integer(), nullable=False),
        sa.Column("mode", sa.String(), nullable=False),
        sa.Column("test", sa.String(), nullable=True),
        sa.Column("outcome", sa.String(), nullable=False),
        sa.Column("started", sa.Double(), nullable=False),
        sa.Column("seconds", sa.Double(), nullable=False),
        sa.Column("machine", sa.String(), nullable=False),
        sa.Column("slot", sa.Integer(), nullable=False),
        sa.Column("isolation", sa.String(), nullable=False),
        sa.Column("counted", sa.Boolean(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint(*_KEY),
    )
    op.execute("INSERT INTO attempts SELECT * FROM attempts_before ORDER BY rowid")
    op.drop_table("attempts_before")
    op.create_index("attempts_counts", "attempts", ["run", "machine", "counted", "mode", "reason", "seconds"])
    make_facts(op.get_bind(), ("attempts",))
