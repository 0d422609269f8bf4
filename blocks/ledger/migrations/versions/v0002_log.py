"""The tables of the Merkle log, and 64 bits for an event's number."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from blocks.ledger.refusals import let_only_grow

revision = "0002"
down_revision = "0001"

_NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Only forwards: the way back is the copy that is made before."""
    connection = op.get_bind()
    if connection.dialect.name == "postgresql":  # SQLite's INTEGER holds 64 bits
        op.alter_column("events", "seq", type_=sa.BigInteger(), existing_nullable=False)
        op.execute("ALTER SEQUENCE events_seq_seq AS bigint")
    if sa.inspect(connection).has_table("log_head"):
        return  # made when ledgers had a log, and their schemas no steps yet
    op.create_table(
        "log_leaves",
        sa.Column("leaf", _NUMBER, autoincrement=False, nullable=False),
        sa.Column("seq", _NUMBER, nullable=False),
        sa.CheckConstraint("leaf >= 0"),
        sa.PrimaryKeyConstraint("leaf"),
        sa.UniqueConstraint("seq"),
    )
    op.create_table(
        "log_tiles",
        sa.Column("level", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("number", _NUMBER, autoincrement=False, nullable=False),
        sa.Column("hashes", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("level", "number"),
    )
    op.create_table(
        "log_checkpoints",
        sa.Column("size", _NUMBER, autoincrement=False, nullable=False),
        sa.Column("root", sa.LargeBinary(), nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("size"),
    )
    op.create_table(
        "log_cosignatures",
        sa.Column("size", _NUMBER, autoincrement=False, nullable=False),
        sa.Column("witness", sa.String(), nullable=False),
        sa.Column("line", sa.Text(), nullable=False),
        sa.Column("witnessed", _NUMBER, nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("size", "witness"),
    )
    op.create_table(
        "log_head",
        sa.Column("one", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("origin", sa.String(), nullable=False),
        sa.Column("size", _NUMBER, nullable=False),
        sa.Column("floor", _NUMBER, nullable=False),
        sa.Column("mark", _NUMBER, nullable=False),
        sa.Column("writers", sa.Text(), nullable=False),
        sa.CheckConstraint("one = 1"),
        sa.CheckConstraint("floor <= mark"),
        sa.PrimaryKeyConstraint("one"),
    )
    let_only_grow(connection, _ALLOWED)


_ALLOWED = {
    "log_leaves": "1 = 0",
    "log_checkpoints": "1 = 0",
    "log_cosignatures": "1 = 0",
    "log_tiles": (
        "NEW.level = OLD.level AND NEW.number = OLD.number AND length(NEW.hashes) > length(OLD.hashes) "
        "AND substr(NEW.hashes, 1, length(OLD.hashes)) = OLD.hashes"
    ),
    "log_head": "NEW.size > OLD.size AND NEW.origin = OLD.origin AND NEW.floor >= OLD.floor",
}
