"""The tables of the Merkle log over `events`.

`log_leaves` says which event is which leaf, `log_tiles` holds the tree's hashes, `log_checkpoints` what was signed,
`log_cosignatures` what witnesses signed. `log_head` has one row, and its `size` is the fence: whoever appends moves it
on by compare-and-set in the same transaction. Triggers refuse whatever is not growth, in words of each database.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Double,
    Integer,
    LargeBinary,
    String,
    Table,
    Text,
)

from blocks.ledger.schema import metadata

# SQLite numbers rows by themselves only where the key is called INTEGER, which holds 64 bits there.
_Number = BigInteger().with_variant(Integer(), "sqlite")

log_leaves = Table(
    "log_leaves",
    metadata,
    Column("leaf", _Number, primary_key=True, autoincrement=False),  # 0 first, no gap
    Column("seq", _Number, nullable=False, unique=True),  # of the event; one leaf each
    CheckConstraint("leaf >= 0"),
)

log_tiles = Table(
    "log_tiles",
    metadata,
    Column("level", Integer, primary_key=True, autoincrement=False),
    Column("number", _Number, primary_key=True, autoincrement=False),
    Column("hashes", LargeBinary, nullable=False),  # 1 to 256, of 32 bytes each
)

log_checkpoints = Table(
    "log_checkpoints",
    metadata,
    Column("size", _Number, primary_key=True, autoincrement=False),
    Column("root", LargeBinary, nullable=False),
    Column("note", Text, nullable=False),  # the signed note, as it is published
    Column("at", Double, nullable=False),
)

log_cosignatures = Table(
    "log_cosignatures",
    metadata,
    Column("size", _Number, primary_key=True, autoincrement=False),  # of the checkpoint
    Column("witness", String, primary_key=True),  # its key, name+id+base64
    Column("line", Text, nullable=False),  # as it stands below the note
    Column("witnessed", _Number, nullable=False),  # seconds since the epoch, by the witness's clock
    Column("at", Double, nullable=False),
)

log_head = Table(
    "log_head",
    metadata,
    Column("one", Integer, primary_key=True, autoincrement=False),
    Column("origin", String, nullable=False),  # the log's name, for good
    Column("size", _Number, nullable=False),
    # Every event up to `floor` has its leaf, or was rolled back. Events up to `mark` will be, once `writers` (the
    # transactions that wrote events when the mark was set) have ended: see `blocks.ledger.log`.
    Column("floor", _Number, nullable=False),
    Column("mark", _Number, nullable=False),
    Column("writers", Text, nullable=False),  # canonical JSON, a list
    CheckConstraint("one = 1"),
    CheckConstraint("floor <= mark"),
)

FACTS = (log_leaves, log_checkpoints, log_cosignatures)
"""Rows of these are only ever inserted."""

_GROWS = (
    "NEW.level = OLD.level AND NEW.number = OLD.number AND length(NEW.hashes) > length(OLD.hashes) "
    "AND substr(NEW.hashes, 1, length(OLD.hashes)) = OLD.hashes"
)
ALLOWED = {
    **dict.fromkeys((table.name for table in FACTS), "1 = 0"),
    log_tiles.name: _GROWS,
    log_head.name: "NEW.size > OLD.size AND NEW.origin = OLD.origin AND NEW.floor >= OLD.floor",
}
"""Which changes the triggers of each table let through (see `refusals.let_only_grow`)."""
