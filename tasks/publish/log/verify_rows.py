"""The rows in the files: are they, bundle by bundle, those that were admitted?

The root of a bundle's rows is in the event of its admission (`blocks/ledger/roots.py`), so it is computed again from
the files that hold them, cut or compacted. A row that was changed, removed, added or given to another changes it.
Rows that were summed up by day are gone, as an event says; of these only their number can be checked.
"""

from __future__ import annotations

import tempfile
from collections.abc import Container, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from blocks.errors import CommonfleetError, TrustError
from blocks.ledger import Ledger
from blocks.ledger.file_roots import LEAF_BYTES, bundles_in, joined_leaves, leaves_in, wrong_test
from blocks.ledger.files import Segment, at_hand
from blocks.ledger.roots import FORM, root_of, root_of_sorted
from tasks.publish.log.findings import Findings
from tasks.publish.log.verify_places import verify_places


@dataclass
class Rows:
    """What was compared: bundles whose rows are those that were admitted, and how many rows these are."""

    bundles: int = 0
    rows: int = 0
    summed_up: int = 0  # bundles whose rows were let go, as the log says
    unproven: int = 0  # bundles that were admitted under another form of root: only their number of rows was compared


_AT_ONCE = 20_000  # rows
_UNREADABLE = (CommonfleetError, duckdb.Error, pa.ArrowException, OSError, UnicodeError, KeyError)
"""What reading a file raises that somebody has changed."""


class _Admitted(NamedTuple):
    """What the log says of a bundle, and whether its results were summed up."""

    where: str
    rows: int
    root: str
    summed_up: bool


def verify_rows(ledger: Ledger, both: duckdb.DuckDBPyConnection, findings: Findings, wrong: Container[str]) -> Rows:
    """Compare the rows in every file that counts with what was admitted. `both` are the two accounts.

    Of a file that is `wrong`, the bundles are named whose rows are not right; that nothing can be read is no news.
    Raises TrustError for a file as the log tells of it, which the query engine does not survive.
    """
    with tempfile.TemporaryDirectory(prefix="commonfleet-verify-") as folder:
        check = _Check(ledger, both, findings, Path(folder))
        for path, digest, kind in both.execute(_FILES).fetchall():
            check.file(path, digest, kind, known=path in wrong)
        check.parts_of_several_files()
        check.what_is_nowhere()
        check.what_was_summed_up()
    return check.counts


_FILES = "SELECT path, digest, kind FROM segments WHERE counts AND kind IN ('results', 'metrics') ORDER BY path"
_EXPECTED = """SELECT a.digest, 'part ' || a.part || ' of ' || a.lease, a.rows, a.root,
        b.segment IN (SELECT segment FROM logged WHERE kind = 'daily')
    FROM admitted a SEMI JOIN here ON here.bundle = a.digest LEFT JOIN bundles b ON b.digest = a.digest"""
_NOWHERE = """SELECT 'part ' || a.part || ' of ' || a.lease, a.rows, coalesce(sum(f.rows), 0), any_value(b.segment)
    FROM admitted a JOIN bundles b ON b.digest = a.digest LEFT JOIN found f ON f.digest = a.digest
    LEFT JOIN dropped d ON d.digest = a.digest
    WHERE b.segment IS NULL OR b.segment NOT IN (SELECT segment FROM logged WHERE kind = 'daily')
        AND b.segment NOT IN (SELECT segment FROM unread)
    GROUP BY a.digest, a.lease, a.part, a.rows
    HAVING CASE WHEN any_value(b.segment) IS NULL THEN sum(f.rows) > 0 OR count(d.digest) > 0
        ELSE coalesce(sum(f.rows), 0) <> a.rows END
    ORDER BY 1"""
_SUMMED = """SELECT l.path, any_value(l.replaced_rows), count(*), sum(b.rows - coalesce(f.rows, 0))
    FROM bundles b JOIN logged l ON l.segment = b.segment AND l.kind = 'daily'
    LEFT JOIN (SELECT digest, sum(rows) AS rows FROM found GROUP BY digest) f ON f.digest = b.digest
    GROUP BY l.path ORDER BY l.path"""


@dataclass
class _Part:
    """What several files hold of one bundle."""

    admitted: _Admitted
    files: list[Path] = field(default_factory=list)
    leaves: bytearray = field(default_factory=bytearray)

    def add(self, file: Path, leaves: bytes) -> None:
        self.files.append(file)
        self.leaves += leaves

    def root(self) -> str:
        return root_of(bytes(self.leaves[at : at + LEAF_BYTES]) for at in range(0, len(self.leaves), LEAF_BYTES))


class _Check:
    """One pass over the files. Rows of a bundle that has results and metrics stand in two of them."""

    def __init__(self, ledger: Ledger, both: duckdb.DuckDBPyConnection, findings: Findings, folder: Path) -> None:
        self._ledger, self._both, self._findings, self._folder = ledger, both, findings, folder
        self.counts = Rows()
        self._parts: dict[str, _Part] = {}
        both.execute("CREATE TABLE found (digest VARCHAR, rows BIGINT)")
        both.execute("CREATE TABLE unread (segment VARCHAR)")

    def file(self, path: str, digest: str, kind: str, *, known: bool) -> None:
        """Compare the bundles in one file."""
        where = f"results/{path}"
        try:
            (file,) = at_hand(self._ledger, [Segment(digest, "", "", kind, path, 0, 0, 0.0)])
            self._rows_of(self._anew(file) if known else file, kind, where)
        except duckdb.FatalException as error:  # its database is gone, and the accounts with it
            raise TrustError(
                f"The rows of {where} cannot be compared: the query engine does not survive the file.",
                kept="Nothing was changed, and nothing is said about the other files.",
                do="It is as the log tells of it, so whoever made it made it so. Keep a copy, and restore a backup.",
            ) from error
        except _UNREADABLE as error:
            first = (str(error).strip().splitlines() or ["no reason given"])[0][:200]
            if not known:
                self._findings.add("damaged", where, f"its rows cannot be read: {first}")
            self._both.execute("INSERT INTO unread VALUES (?)", [digest])

    def _anew(self, file: Path) -> Path:
        """The rows of a damaged file in a sound one: a single bit may end not a query of DuckDB's but its database."""
        sound = self._folder / file.name
        with pq.ParquetFile(file) as old, pq.ParquetWriter(sound, old.schema_arrow) as new:
            for batch in old.iter_batches(_AT_ONCE):
                new.write_batch(batch)
        return sound

    def _rows_of(self, file: Path, kind: str, where: str) -> None:
        said = None if kind == "metrics" else wrong_test(self._both, file)
        if said is not None:
            self._findings.add("changed_rows", where, said)
        verify_places(self._both, file, where, self._findings)
        bundles = bundles_in(self._both, file)
        expected = {row[0]: _Admitted(*row[1:]) for row in self._both.execute(_EXPECTED).fetchall()}
        suspects: dict[str, _Admitted] = {}
        found: list[tuple[str, int]] = []
        for bundle, leaves in joined_leaves(self._both, file, kind, bundles):
            rows = len(leaves) // LEAF_BYTES
            found.append((bundle, rows))
            admitted = expected.get(bundle)
            if admitted is None:
                says = f"it has {rows:,} rows of a bundle that was never admitted, {bundle}"
                self._findings.add("changed_rows", where, says)
            elif rows == admitted.rows:
                if not self._fits(admitted, root_of_sorted(leaves)):
                    suspects[bundle] = admitted
            elif not admitted.summed_up:
                self._parts.setdefault(bundle, _Part(admitted)).add(file, leaves)
        self._remember(found)
        self._look_closely([file], suspects, f"its rows in {where} are not those that were admitted", said is None)

    def _fits(self, admitted: _Admitted, root: str) -> bool:
        if not admitted.root.startswith(f"{FORM}:"):
            self.counts.unproven += 1
        elif root == admitted.root:
            self.counts.bundles += 1
            self.counts.rows += admitted.rows
        else:
            return False
        return True

    def _look_closely(
        self, files: Iterable[Path], suspects: dict[str, _Admitted], says: str, names_are_right: bool = True
    ) -> None:
        """Once more as the form is defined: DuckDB may one day write a number otherwise than we do."""
        try:
            leaves = leaves_in(files, suspects) if suspects and names_are_right else {}
        except _UNREADABLE:
            leaves = {}  # not even their form is as it was
        for bundle, admitted in suspects.items():
            if not leaves or not self._fits(admitted, root_of(leaves.get(bundle, []))):
                self._findings.add("changed_rows", admitted.where, says)

    def _remember(self, found: list[tuple[str, int]]) -> None:
        if found:
            table = pa.table({"digest": [bundle for bundle, _ in found], "rows": [rows for _, rows in found]})
            self._both.register("batch", table)
            self._both.execute("INSERT INTO found FROM batch")
            self._both.unregister("batch")

    def parts_of_several_files(self) -> None:
        """Compare what stands in two files: results and metrics of one bundle."""
        suspects: dict[str, _Admitted] = {}
        for bundle, part in self._parts.items():
            # Where there are more or fewer, `what_is_nowhere` tells.
            if len(part.leaves) == part.admitted.rows * LEAF_BYTES and not self._fits(part.admitted, part.root()):
                suspects[bundle] = part.admitted
        files = {file for bundle in suspects for file in self._parts[bundle].files}
        self._look_closely(files, suspects, "its rows are not those that were admitted")

    def what_is_nowhere(self) -> None:
        """Bundles of which the files hold fewer rows than were admitted, or more."""
        differing = self._both.execute(_NOWHERE)
        for where, rows, found, segment in differing.fetchall():
            if segment is None:
                says = (
                    f"it waits to be cut by its record, and the files hold {found:,} of its rows"
                    if found
                    else "it waits to be cut by its record, and its raw bundle was dropped: its rows are nowhere"
                )
            else:
                says = f"the files hold {found:,} rows of it, and {rows:,} were admitted"
            self._findings.add("changed_rows", where, says)

    def what_was_summed_up(self) -> None:
        """Bundles whose rows were let go: as many rows as the event says, and no other bundle hidden among them."""
        for path, replaced, bundles, missing in self._both.execute(_SUMMED).fetchall():
            if replaced == missing:
                self.counts.summed_up += bundles
            else:
                says = f"{missing:,} rows are said to be summed up in it, and its event says {replaced:,}"
                self._findings.add("changed_rows", f"results/{path}", says)
