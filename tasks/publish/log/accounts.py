"""Two accounts of the same files: what the log says of them and what the records say, side by side, of one moment.

    with accounts(ledger) as both:
        both.execute("SELECT ... FROM admitted LEFT JOIN bundles ...")

From the log (events): `opened`, `closed`, `admitted`, `settled`, `granted`, `hosts`, `made`, `replaced`, `drops`. From
the records: `run_records`, `settlements`, `bundles`, `segments`, `dropped`. They stand in DuckDB, which puts on the
disk what it cannot hold, so that a million bundles take no more memory than a thousand. Whether the events are those
that were logged is `verify_events`'s question.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import duckdb
import pyarrow as pa
from sqlalchemy import Connection, select, tuple_

from blocks.canonical import canonical_json
from blocks.ledger import Ledger
from blocks.ledger.files import REPLACED
from blocks.ledger.keep_schema import dropped_bundles
from blocks.ledger.schema import bundles, events, runs, segments, settlements
from tasks.publish.log.verify_events import whatever_it_holds

MEMORY = "200MB"
PAGE = 5000

Row = tuple[Any, ...]
_TABLES: dict[str, dict[str, pa.DataType]] = {
    "opened": {"run": pa.string(), "flow": pa.string()},
    "closed": {"run": pa.string(), "seq": pa.int64(), "state": pa.string(), "conclusion": pa.string()},
    "settled": {"run": pa.string(), "unit": pa.string(), "lease": pa.string()},
    "admitted": {
        "lease": pa.string(), "part": pa.int64(), "digest": pa.string(), "rows": pa.int64(), "root": pa.string(),
        "run": pa.string(), "environment": pa.string(), "signer": pa.string(), "uncounted": pa.list_(pa.string()),
    },
    "granted": {"lease": pa.string(), "machine": pa.string(), "slot": pa.int64()},
    "hosts": {"machine": pa.string(), "pool": pa.string(), "vendor": pa.string()},
    "made": {
        "segment": pa.string(), "path": pa.string(), "kind": pa.string(), "rows": pa.int64(),
        "replaced_rows": pa.int64(), "run": pa.string(), "environment": pa.string(),
    },
    "replaced": {"segment": pa.string()},
    "drops": {"digests": pa.string()},
    "run_records": {"run": pa.string(), "flow": pa.string(), "state": pa.string(), "conclusion": pa.string()},
    "settlements": {
        "run": pa.string(), "unit": pa.string(), "ordinal": pa.int64(), "terminal": pa.string(), "lease": pa.string(),
    },
    "bundles": {
        "lease": pa.string(), "part": pa.int64(), "digest": pa.string(), "rows": pa.int64(), "segment": pa.string(),
        "run": pa.string(), "environment": pa.string(), "signer": pa.string(),
    },
    "segments": {
        "digest": pa.string(), "path": pa.string(), "kind": pa.string(), "rows": pa.int64(), "run": pa.string(),
        "environment": pa.string(), "counts": pa.bool_(),
    },
    "dropped": {"digest": pa.string(), "act": pa.string()},
}  # fmt: skip


@contextlib.contextmanager
def accounts(ledger: Ledger) -> Iterator[duckdb.DuckDBPyConnection]:
    """The two accounts, as tables; gone at the end of the block."""
    with (
        tempfile.TemporaryDirectory(prefix="commonfleet-verify-") as folder,
        contextlib.closing(duckdb.connect(":memory:")) as both,
    ):
        both.execute("SET TimeZone = 'UTC'")
        both.execute(f"SET memory_limit = '{MEMORY}'")
        both.execute(f"SET temp_directory = '{folder}'")
        for name, columns in _TABLES.items():
            both.register("shape", pa.schema(list(columns.items())).empty_table())
            both.execute(f"CREATE TABLE {name} AS FROM shape")
        with ledger.read() as connection, whatever_it_holds(connection):
            _copy_events(connection, both)
            _copy_records(connection, both)
        # What counts, according to the log.
        both.execute("CREATE TABLE logged AS SELECT * FROM made ANTI JOIN replaced USING (segment)")
        yield both


# -- the log -------------------------------------------------------------------------------------------------------


def _copy_events(connection: Connection, both: duckdb.DuckDBPyConnection) -> None:
    after = 0
    query = select(events.c.seq, events.c.kind, events.c.body).where(events.c.kind.in_(_SAID)).order_by(events.c.seq)
    while page := connection.execute(query.where(events.c.seq > after).limit(PAGE)).all():
        rows: dict[str, list[Row]] = defaultdict(list)
        for seq, kind, body in page:
            with contextlib.suppress(ValueError, TypeError, KeyError):  # which is no leaf's content: found elsewhere
                content = json.loads(body)
                for name, row in _SAID[kind](content["body"], content["run"], seq):
                    rows[name].append(row)
        for name, some in rows.items():
            add(both, name, some)
        after = page[-1].seq


Said = Iterator[tuple[str, Row]]


def _opening(said: dict[str, Any], run: str | None, _: int) -> Said:
    yield "opened", (run, said["flow"])


def _closing(said: dict[str, Any], run: str | None, seq: int) -> Said:
    yield "closed", (run, seq, said["state"], canonical_json(said["conclusion"]).decode())


def _admission(said: dict[str, Any], run: str | None, _: int) -> Said:
    # An older log does not say environment and signer.
    about = (run, said.get("environment"), said.get("signer"), list(said["uncounted"]))
    yield "admitted", (said["lease"], said["part"], said["digest"], said["rows"], said["root"], *about)
    for unit in said["settled"]:
        yield "settled", (run, unit, said["lease"])


def _grant(said: dict[str, Any], _: str | None, __: int) -> Said:
    yield "granted", (said["lease"], said["machine"], said["slot"])


def _host(said: dict[str, Any], _: str | None, __: int) -> Said:
    yield "hosts", (said["machine"], said["pool"], said.get("vendor"))


def _cut(said: dict[str, Any], run: str | None, _: int) -> Said:
    yield "made", (said["digest"], said["path"], said["content"], said["rows"], 0, run or "", said["environment"])


def _compacted(said: dict[str, Any], run: str | None, seq: int) -> Said:
    yield from _cut(said, run, seq)
    yield from _gone(said)


def _summed_up(said: dict[str, Any], run: str | None, _: int) -> Said:
    rows = sum(entry["rows"] for entry in said["replaced"])
    yield "made", (said["digest"], said["path"], "daily", said["days"], rows, run or "", said["environment"])
    yield from _gone(said)


def _gone(said: dict[str, Any]) -> Said:
    for entry in said["replaced"]:
        yield "replaced", (entry["digest"],)


def _drop(said: dict[str, Any], _: str | None, __: int) -> Said:
    yield "drops", (said["digests"],)


_SAID: dict[str, Callable[[dict[str, Any], str | None, int], Said]] = {
    "run.opened": _opening,
    "run.closed": _closing,
    "bundle.admitted": _admission,
    "lease.granted": _grant,
    "machine.ready": _host,
    "segment.cut": _cut,
    "segment.compacted": _compacted,
    "rows.summed_up": _summed_up,
    "bundles.dropped": _drop,
}


# -- the records ---------------------------------------------------------------------------------------------------


def _copy_records(connection: Connection, both: duckdb.DuckDBPyConnection) -> None:
    for page in _pages(connection, [runs.c.id, runs.c.flow, runs.c.state, runs.c.conclusion], [runs.c.id]):
        add(both, "run_records", page)
    key = [settlements.c.run, settlements.c.unit, settlements.c.ordinal]
    for page in _pages(connection, [*key, settlements.c.terminal, settlements.c.lease], key):
        add(both, "settlements", page)
    columns = [bundles.c[name] for name in _TABLES["bundles"]]
    for page in _pages(connection, columns, [bundles.c.lease, bundles.c.part]):
        add(both, "bundles", page)
    columns = [segments.c[name] for name in ("digest", "path", "kind", "rows", "run", "environment")]
    for page in _pages(connection, [*columns, ~REPLACED], [segments.c.digest]):
        add(both, "segments", page)
    for page in _pages(connection, [dropped_bundles.c.digest, dropped_bundles.c.drop], [dropped_bundles.c.digest]):
        add(both, "dropped", page)


def _pages(connection: Connection, columns: Sequence[Any], key: Sequence[Any]) -> Iterator[list[Row]]:
    """All rows, in pages, in the order of a key that stands among the first of the columns."""
    query = select(*columns).order_by(*key).limit(PAGE)
    page = connection.execute(query).all()
    while page:
        yield [tuple(row) for row in page]
        page = connection.execute(query.where(tuple_(*key) > tuple(page[-1][: len(key)]))).all()


def add(both: duckdb.DuckDBPyConnection, name: str, rows: Sequence[Row]) -> None:
    """Append rows to one of the tables. What a damaged database has put there instead of a number is taken as none."""
    if not rows:
        return
    kinds = _TABLES[name]
    arrays = [
        pa.array([_clean(value, kind) for value in column], kind)
        for column, kind in zip(zip(*rows, strict=True), kinds.values(), strict=True)
    ]
    both.register("batch", pa.Table.from_arrays(arrays, names=list(kinds)))
    both.execute(f"INSERT INTO {name} FROM batch")
    both.unregister("batch")


def _clean(value: Any, kind: pa.DataType) -> Any:
    if value is None:
        return None
    if pa.types.is_list(kind):
        return [_clean(one, kind.value_type) for one in value]
    if pa.types.is_string(kind):
        return str(value).encode("utf-8", "replace").decode()
    if pa.types.is_boolean(kind):
        return bool(value)  # 0 and 1 in SQLite
    return int(value) if isinstance(value, int) and abs(value) < 1 << 63 else None
