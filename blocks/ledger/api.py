"""The ledger for Python: read-only, as pandas data frames or Arrow.

    from blocks.ledger import api

    with api.connect() as ledger:
        frame = ledger.query("SELECT suite, test, bad, runs FROM tests WHERE bad > 0 ORDER BY bad DESC")

`connect` takes what `COMMONFLEET_HOME` names, or the folder or URL that it is given. Nothing can be changed through
it: the database itself is opened for reading only, and a query is one SELECT that reaches the ledger and nothing else.
Data frames need pandas (`pip install 'commonfleet[pandas]'`); `arrow` and `batches` do not.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from sqlalchemy import Engine, create_engine, event, exc, select

from blocks.errors import CommonfleetError, LedgerError
from blocks.home import Home, check_version
from blocks.ledger.database import Ledger
from blocks.ledger.query import asked, view_columns
from blocks.ledger.schema import SCHEMA_VERSION, meta
from blocks.store import Store

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Reading", "connect"]


class Reading:
    """A ledger that is open for reading. Close it, or use it in a `with`."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def query(self, sql: str) -> pd.DataFrame:
        """The rows of one SELECT over the views, as a data frame. Times are aware, in UTC.

        Raises LedgerError for a query that cannot be answered, CommonfleetError where pandas is not installed.
        """
        _pandas()
        return self.arrow(sql).to_pandas()

    def arrow(self, sql: str) -> pa.Table:
        """The rows of one SELECT, as an Arrow table. Raises LedgerError."""
        with asked(self._ledger, sql) as reader:
            return reader.batches(sql).read_all()

    def batches(self, sql: str) -> Iterator[pa.RecordBatch]:
        """The rows of one SELECT in portions of some thousands, for answers larger than memory. Raises LedgerError."""
        with asked(self._ledger, sql) as reader:
            yield from reader.batches(sql)

    def frames(self, sql: str) -> Iterator[pd.DataFrame]:
        """The same as data frames."""
        _pandas()
        for batch in self.batches(sql):
            yield batch.to_pandas()

    def views(self) -> dict[str, list[str]]:
        """Each view with the names of its columns."""
        return view_columns()

    def close(self) -> None:
        """Let go of the database."""
        self._ledger.close()

    def __enter__(self) -> Reading:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def connect(home: str | os.PathLike[str] | None = None, *, url: str | None = None) -> Reading:
    """Open the ledger of a state folder for reading: `home`, else `COMMONFLEET_HOME`, else `~/.commonfleet`.

    With a `url` (`postgresql+psycopg://...`) the records are read there, and results and bundles below the folder.
    Raises CommonfleetError where there is no ledger, or a newer one than this commonfleet knows.
    """
    chosen = home or os.environ.get("COMMONFLEET_HOME") or Path.home() / ".commonfleet"
    place = Home(Path(chosen).expanduser().absolute())
    if (place.root / "version").exists():
        check_version(place.root / "version")
    if url is None and not place.ledger.exists():
        raise LedgerError(f"There is no ledger in {place.root}.", do="Name the state folder that holds one.")
    ledger = Ledger(_engine(url or f"sqlite:///{place.ledger}"), place.results, Store(place.store))
    try:
        _check_schema(ledger)
    except BaseException:
        ledger.close()
        raise
    return Reading(ledger)


def _engine(url: str) -> Engine:
    """An engine whose connections the database itself holds to reading."""
    if not url.startswith("sqlite"):
        return create_engine(url, connect_args={"options": "-c default_transaction_read_only=on"})
    path = url.removeprefix("sqlite:///")
    quoted = path.replace("%", "%25").replace("?", "%3f").replace("#", "%23")
    engine = create_engine(f"sqlite:///file:{quoted}?mode=ro&uri=true")
    event.listen(engine, "connect", _only_reading)
    return engine


def _only_reading(connection: Any, _: object) -> None:
    connection.isolation_level = None  # `Ledger.read` begins its transactions itself
    cursor = connection.cursor()
    cursor.execute("PRAGMA query_only = ON")
    cursor.execute("PRAGMA busy_timeout = 60000")
    cursor.close()


def _check_schema(ledger: Ledger) -> None:
    try:
        with ledger.read() as connection:
            version = int(connection.scalar(select(meta.c.value).where(meta.c.key == "schema")) or 0)
    except exc.ProgrammingError as error:
        raise LedgerError(f"There is no ledger in that database: {error.orig}.") from error
    if version != SCHEMA_VERSION:
        raise LedgerError(
            f"The ledger has schema {version}; this commonfleet knows schema {SCHEMA_VERSION}.",
            kept="Nothing was changed.",
            do=f"Use the {'newer' if version > SCHEMA_VERSION else 'older'} commonfleet.",
        )


def _pandas() -> None:
    try:
        import pandas  # noqa: F401 - only whether it is there
    except ImportError as error:
        raise CommonfleetError(
            "pandas is not installed.", do="`pip install 'commonfleet[pandas]'`, or ask `arrow` instead of `query`."
        ) from error
