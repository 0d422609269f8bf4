"""The records: tables whose constraints carry the promises.

Times are seconds since the epoch, UTC, read from the database's own clock (`now()` below), so that two hosts with
different clocks never disagree about an expiry. Rows that are facts (attempts, settlements, bundles, events) are
only ever inserted; rows that are states (runs, units, leases, machines) change by compare-and-set.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Double,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
    UniqueConstraint,
    literal_column,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from blocks.machine import STATES

metadata = MetaData()
"""What the code expects. A change here needs a new file in `migrations/versions` (see `migrations/__init__.py`)."""


class now(FunctionElement[float]):
    """The database's clock, in seconds since the epoch. The only clock that decides an expiry."""

    type = Double()
    inherit_cache = True


@compiles(now, "sqlite")
def _now_sqlite(*_: Any, **__: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(now, "postgresql")
def _now_postgresql(*_: Any, **__: Any) -> str:
    return "extract(epoch from clock_timestamp())::double precision"


INGESTED = "ingested"
"""The flow of a run that is made of files: nobody drives it, and it grows with each ingest."""

meta = Table("meta", metadata, Column("key", String, primary_key=True), Column("value", Text, nullable=False))

runs = Table(
    "runs",
    metadata,
    Column("id", String, primary_key=True),
    Column("flow", String, nullable=False),  # nightly, on_demand, ...
    Column("created", Double, nullable=False),
    Column("state", String, nullable=False),  # planning, running, cancelling, complete, cancelled, failed
    Column("request", Text, nullable=False),  # canonical JSON of what was asked for
    Column("plan", String),  # plan id, once planned
    Column("driver", String),  # host:pid:start of the process that drives it
    Column("epoch", Integer, nullable=False, default=0),  # grows with each driver; fences the older ones
    Column("heartbeat", Double),
    Column("finished", Double),
    Column("conclusion", Text),  # canonical JSON: exit code, sentence
    CheckConstraint("state in ('planning','running','cancelling','complete','cancelled','failed')"),
)

plans = Table(
    "plans",
    metadata,
    Column("id", String, primary_key=True),
    Column("created", Double, nullable=False),
    Column("document", Text, nullable=False),  # environments, left_out, sources (units are in plan_units)
)

plan_units = Table(
    "plan_units",
    metadata,
    Column("plan", String, primary_key=True),
    Column("unit", String, primary_key=True),
    Column("suite", String, nullable=False),
    Column("environment", String, nullable=False),
    Column("name", String, nullable=False),
    Column("body", Text, nullable=False),  # canonical JSON of Unit.to_json()
)

units = Table(
    "units",
    metadata,
    Column("run", String, primary_key=True),
    Column("unit", String, primary_key=True),
    Column("position", Integer, nullable=False),  # dispatch order, 0 first
    Column("suite", String, nullable=False),
    Column("environment", String, nullable=False),
    Column("name", String, nullable=False),
    Column("exclusive", Boolean, nullable=False),
    Column("cpus", Integer, nullable=False),
    Column("devices", Integer, nullable=False),
    Column("tests", Integer, nullable=False),  # how many results are expected at least
    Column("estimate_seconds", Double, nullable=False),
    Column("state", String, nullable=False),  # pending, leased, terminal
    Column("epoch", Integer, nullable=False, default=0),  # grows with each grant
    Column("lease", String),
    Column("deaths", Integer, nullable=False, default=0),  # leases that died with this unit in hand
    CheckConstraint("state in ('pending','leased','terminal')"),
)
# Every index is a page or more to write for each unit that moves. This one holds what waits, in dispatch order.
WAITING = units.c.state == literal_column("'pending'")
Index("units_queue", units.c.run, units.c.position, sqlite_where=WAITING, postgresql_where=WAITING)

machines = Table(
    "machines",
    metadata,
    Column("id", String, primary_key=True),
    Column("pool", String, nullable=False),
    Column("vendor", String, nullable=False),
    Column("state", String, nullable=False),
    Column("slots", Integer, nullable=False),
    Column("fingerprint", Text, nullable=False),  # canonical JSON
    Column("created", Double, nullable=False),
    Column("updated", Double, nullable=False),
    # Who waits for the machine to fall idle, to have it alone; others get nothing new meanwhile.
    Column("wanted_by", String),
    Column("wanted_until", Double),
)

# One run's hold on a machine of a pool, written down before the call that makes it. The machine may be shared.
submissions = Table(
    "submissions",
    metadata,
    Column("id", String, primary_key=True),
    Column("acquisition", String, nullable=False),  # the wish for one machine that this is a try at
    Column("ordinal", Integer, nullable=False),  # of the tries, 1 first
    Column("run", String, nullable=False),
    Column("pool", String, nullable=False),
    Column("name", String, nullable=False),  # what the machine is called where it is made
    Column("token", String, nullable=False),  # makes the call repeatable
    Column("offer", Text, nullable=False),  # canonical JSON
    Column("state", String, nullable=False),
    Column("machine", String),  # once it is accepted
    Column("created", Double, nullable=False),
    Column("updated", Double, nullable=False),
    Column("expires", Double, nullable=False),  # the machine's hard end
    CheckConstraint(f"state in ({', '.join(map(repr, STATES))})"),
    # Two drivers of one run, of which one does not know yet that it has lost it, cannot write the same try twice.
    UniqueConstraint("acquisition", "ordinal"),
    Index("submissions_of", "run", "pool"),
)
# One winner: however many tries are out, one machine works for an acquisition.
WON = submissions.c.state.in_([literal_column("'ready'"), literal_column("'leased'")])
Index("submissions_won", submissions.c.acquisition, unique=True, sqlite_where=WON, postgresql_where=WON)
# What may exist somewhere, whoever asks.
UNRELEASED = submissions.c.state != literal_column("'released'")
Index("submissions_unreleased", submissions.c.pool, sqlite_where=UNRELEASED, postgresql_where=UNRELEASED)

leases = Table(
    "leases",
    metadata,
    Column("id", String, primary_key=True),
    Column("run", String, nullable=False),
    Column("machine", String, nullable=False),
    Column("slot", Integer, nullable=False),
    Column("agent", String, nullable=False),  # id of the key whose signature its bundles must bear
    Column("token_digest", String, nullable=False),
    Column("granted", Double, nullable=False),
    Column("deadline", Double, nullable=False),  # by the database's clock
    Column("exclusive", Boolean, nullable=False),
    Column("state", String, nullable=False),  # live, done, given_back, expired, revoked
    Column("ended", Double),
    CheckConstraint("state in ('live','done','given_back','expired','revoked')"),
)
# A slot holds one live lease, whichever run it belongs to: this is how runs share a machine. Written out, because a
# database takes a partial index only for a query that has its condition word for word.
LIVE = leases.c.state == literal_column("'live'")
Index("leases_slot", leases.c.machine, leases.c.slot, unique=True, sqlite_where=LIVE, postgresql_where=LIVE)

lease_units = Table(
    "lease_units",
    metadata,
    Column("lease", String, primary_key=True),
    Column("unit", String, primary_key=True),
    Column("epoch", Integer, nullable=False),  # the unit's epoch when it was granted
)

bundles = Table(
    "bundles",
    metadata,
    Column("lease", String, primary_key=True),
    Column("part", Integer, primary_key=True),
    Column("run", String, nullable=False),
    Column("environment", String, nullable=False),
    Column("digest", String, nullable=False),  # of the signed envelope in the store
    Column("bytes", Integer, nullable=False),
    Column("rows", Integer, nullable=False),
    Column("signer", String, nullable=False),
    Column("admitted", Double, nullable=False),
    Column("segment", String),  # the Parquet segment that holds its rows, once cut
    Index("bundles_uncut", "segment", "run"),
)

attempts = Table(
    "attempts",
    metadata,
    # Made of the key (`results.attempt_id`), and no key itself: an index of hashes is a page to read and write for each
    # attempt, and ever fewer of them are at hand as the history grows.
    Column("id", String, nullable=False),
    Column("run", String, nullable=False),
    Column("unit", String, nullable=False),
    Column("lease", String, nullable=False),
    Column("part", Integer, nullable=False),
    Column("ordinal", Integer, nullable=False),  # 1 first, then the retries alone
    Column("mode", String, nullable=False),  # company, alone
    Column("test", String),  # the one test of an attempt alone
    Column("outcome", String, nullable=False),  # the worst of its results
    Column("started", Double, nullable=False),
    Column("seconds", Double, nullable=False),
    Column("machine", String, nullable=False),
    Column("slot", Integer, nullable=False),
    Column("isolation", String, nullable=False),
    Column("counted", Boolean, nullable=False),
    Column("reason", String, nullable=False),  # why it is not counted; empty where it is
    Column("detail", Text, nullable=False),  # canonical JSON: processes, output's digest, peak memory, note
    PrimaryKeyConstraint("lease", "unit", "ordinal"),  # leases begin with their time: a lease's attempts stand together
    Index("attempts_counts", "run", "machine", "counted", "mode", "reason", "seconds"),
)

settlements = Table(
    "settlements",
    metadata,
    Column("run", String, primary_key=True),
    Column("unit", String, primary_key=True),
    Column("ordinal", Integer, primary_key=True),  # 1: the unit's terminal state; more: what superseded it
    Column("terminal", String, nullable=False),  # ran, skipped, not_run, lost
    Column("reason", String, nullable=False),
    Column("lease", String),
    Column("epoch", Integer, nullable=False),
    Column("settled", Double, nullable=False),
    CheckConstraint("terminal in ('ran','skipped','not_run','lost')"),
    CheckConstraint("ordinal >= 1"),
    ForeignKeyConstraint(["run", "unit"], ["units.run", "units.unit"]),
    sqlite_with_rowid=False,  # its key is all that it is looked up by
)

builds = Table(
    "builds",
    metadata,
    Column("key", String, primary_key=True),  # hash of everything that went in
    Column("digest", String, nullable=False),
    Column("name", String, nullable=False),
    Column("manifest", Text, nullable=False),
    Column("provenance", String, nullable=False),  # digest of the signed statement in the store
    Column("created", Double, nullable=False),
)

segments = Table(
    "segments",
    metadata,
    Column("digest", String, primary_key=True),
    Column("run", String, nullable=False),  # empty where it has rows of several: see segment_runs
    Column("environment", String, nullable=False),
    Column("kind", String, nullable=False),  # results, metrics, daily
    Column("path", String, nullable=False),  # relative to the results folder
    Column("rows", Integer, nullable=False),
    Column("bytes", Integer, nullable=False),
    Column("created", Double, nullable=False),
    Index("segments_run", "run", "environment"),
)

verdicts = Table(
    "verdicts",
    metadata,
    Column("run", String, primary_key=True),
    Column("environment", String, primary_key=True),
    Column("suite", String, primary_key=True),
    Column("test", String, primary_key=True),
    Column("ordinal", Integer, primary_key=True),
    Column("cause", String, nullable=False),
    Column("gates", Boolean, nullable=False),
    Column("evidence", Text, nullable=False),  # canonical JSON
    Column("decided", Double, nullable=False),
    CheckConstraint(
        "cause in ('broke','broken_trunk','flaky','order_dependent','infra','vendor','unknown')",
    ),
)

events = Table(
    "events",
    metadata,
    # 64 bits; SQLite numbers rows by itself only where the key is called INTEGER, which holds as much.
    Column("seq", BigInteger().with_variant(Integer(), "sqlite"), primary_key=True, autoincrement=True),
    Column("id", String, nullable=False, unique=True),  # content id
    Column("kind", String, nullable=False),
    Column("run", String),
    Column("at", Double, nullable=False),
    Column("body", Text, nullable=False),  # canonical JSON
    Index("events_run", "run", "seq"),
)

# The facts cannot be edited even by somebody who forgets that they are facts. (SQLite and PostgreSQL spell the
# same refusal differently; `refusals.py` has both.)
IMMUTABLE = ("attempts", "settlements", "events", "plan_units", "lease_units", "verdicts")
