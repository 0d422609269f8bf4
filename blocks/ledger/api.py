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
from typing import TYPE_CHECKING

import pyarrow as pa

from blocks.errors import CommonfleetError
from blocks.home import located
from blocks.ledger.database import Ledger
from blocks.ledger.query import asked, view_columns
from blocks.ledger.reading import open_to_read

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

    The records are read where the commands find them (see `place.py`), or at `url` (`postgresql+psycopg://...`);
    results and bundles below the folder. Raises CommonfleetError where there is no ledger, or one of another schema.
    """
    return Reading(open_to_read(located(None if home is None else Path(home)), url))


def _pandas() -> None:
    try:
        import pandas  # noqa: F401 - only whether it is there
    except ImportError as error:
        raise CommonfleetError(
            "pandas is not installed.", do="`pip install 'commonfleet[pandas]'`, or ask `arrow` instead of `query`."
        ) from error
