"""The rows of reports, a list per column, made into Arrow a piece at a time so that a million cases stay small.

`CASES` and `METRICS` are what a reading gives; `stamp.py` makes segments' columns from them. This module and all that
it imports load fast: every reading process starts with them.
"""

from __future__ import annotations

import hashlib
import sys
from array import array
from collections.abc import Iterable, Mapping, Sequence
from json.encoder import encode_basestring
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from blocks.lease import worst
from blocks.ledger.roots import metric_leaf, root_of_sorted
from tasks.collect.readers import text

CASES = pa.schema([
    ("source", pa.int32()),  # which source of the batch
    ("test_id", pa.string()), ("suite", pa.string()), ("file", pa.string()), ("cls", pa.string()),
    ("name", pa.string()), ("outcome", pa.string()), ("seconds", pa.float64()),
    ("message", pa.string()),
    ("output", pa.string()),  # of tests that went wrong
    ("reruns", pa.int32()),  # failed tries of the same test that the report tells of beside its last
    ("repeat", pa.int32()),  # 0 for a test's first row in the source, 1 for its second, ...
])  # fmt: skip

METRICS = pa.schema([
    ("source", pa.int32()),
    ("suite", pa.string()), ("model", pa.string()), ("variant", pa.string()), ("metric", pa.string()),
    ("value", pa.float64()), ("measured_in", pa.string()), ("target", pa.float64()),
    ("samples", pa.list_(pa.float64())), ("detail", pa.string()),
])  # fmt: skip

_PIECE_SCHEMA = CASES.remove(CASES.get_field_index("repeat"))
_PIECE = 20_000
_DIGEST = type(hashlib.sha256()).digest
_MODE = "company"  # of the one attempt that a file is
_FIGURE = ("model", "variant", "metric", "value", "measured_in", "samples")
_GIVEN = ("suite", "file", "cls", "name", "outcome", "seconds", "message", "output", "reruns")


class Rows:
    """Takes the rows of one source. `suite` stands for every suite that the report names, where it is given.

    With an `attempt` (and when it `started`, in microseconds) the root over the rows is made on the way, while the
    values are at hand.
    """

    def __init__(
        self, source: int = 0, suite: str | None = None, attempt: str | None = None, started: int | None = None
    ) -> None:
        self.cases = 0
        self.metrics = 0
        self._source = source
        self._suite = suite
        self._attempt, self._started = attempt, started
        self._suites: set[str] = set()
        self._sums: list[tuple[set[str], float, bytes, bytes]] = []  # of each piece: outcomes, seconds, ids, leaves
        self._case: dict[str, list[Any]] = {column: [] for column in _GIVEN}
        self._metric: dict[str, list[Any]] = {column: [] for column in METRICS.names[1:]}
        self._pieces: list[pa.RecordBatch] = []
        self._table: pa.Table | None = None
        self.distinct = 0  # tests among the cases, once there is a table of them

    def case(
        self,
        suite: str,
        file: str,
        cls: str,
        name: str,
        outcome: str,
        seconds: float | None = None,
        message: str | None = None,
        output: str | None = None,
        reruns: int = 0,
    ) -> None:
        """One test case; the text of its names need not be clean yet."""
        clean, column = text.clean, self._case
        column["suite"].append(clean(suite))
        column["file"].append(clean(file))
        column["cls"].append(clean(cls))
        column["name"].append(text.name(name))
        column["outcome"].append(outcome)
        column["seconds"].append(seconds)
        column["message"].append(clean(message) if message else None)
        column["output"].append(clean(output) if output else None)
        column["reruns"].append(reruns)
        self.cases += 1
        if len(column["name"]) >= _PIECE:
            self._flush()

    def many(self, places: Places, columns: Mapping[str, Sequence[Any]]) -> None:
        """Many cases at once, all clean: where each stands, and `name`, `outcome`, `seconds` and so on of each."""
        self._flush()
        self.cases += len(columns["name"])
        self._add(places, columns)

    def metric(
        self,
        suite: str,
        model: str,
        variant: str,
        metric: str,
        value: float,
        measured_in: str = "",
        target: float | None = None,
        samples: list[float] | None = None,
        detail: str = "",
    ) -> None:
        """One figure of a benchmark."""
        clean = text.clean
        values = (
            self._suite if self._suite is not None else clean(suite), text.name(model), clean(variant),
            text.name(metric), float(value), clean(measured_in), target,
            None if samples is None else list(map(float, samples)), text.cut(clean(detail)),
        )  # fmt: skip
        for column, given in zip(self._metric.values(), values, strict=True):
            column.append(given)
        self._suites.add(values[0])
        self.metrics += 1

    def drop_after(self, cases: int) -> None:
        """Forget every case after the first `cases`, which must have been the count after a call of `many`."""
        self._flush()
        while self.cases > cases:
            self.cases -= self._pieces.pop().num_rows
            self._sums.pop()

    def case_table(self) -> pa.Table:
        """All cases, with `CASES`."""
        if self._table is None:
            self._table = self._made()
        return self._table

    def _made(self) -> pa.Table:
        self._flush()
        table = pa.Table.from_batches(self._pieces, _PIECE_SCHEMA)
        # Mostly no test is there twice.
        ids = b"".join(ids for _, _, ids, _ in self._sums)
        alone = not self.cases or all_different(ids, 16)
        repeat = pa.array([0] * self.cases, pa.int32()) if alone else _repeats(table["test_id"])
        self.distinct = self.cases if alone else pc.sum(pc.equal(repeat, 0)).as_py()
        return table.append_column("repeat", repeat)

    def metric_table(self) -> pa.Table:
        """All metrics, with `METRICS`."""
        source = pa.array([self._source] * self.metrics, pa.int32())
        arrays = [pa.array(values, METRICS.field(name).type) for name, values in self._metric.items()]
        return pa.Table.from_arrays([source, *arrays], schema=METRICS)

    def facts(self) -> dict[str, Any]:
        """What a reading says of its rows together. `case_table` comes first, and nothing is added after it."""
        outcomes = set().union(*(outcomes for outcomes, _, _, _ in self._sums))
        return {
            "suite": next(iter(self._suites)) if len(self._suites) == 1 else "",
            "distinct": self.distinct,
            "worst": worst(sorted(outcomes)) if outcomes else "passed",
            "duration": sum(seconds for _, seconds, _, _ in self._sums),
            "root": self._root() if self._attempt is not None else "",
        }

    def _root(self) -> str:
        leaves = b"".join(some for _, _, _, some in self._sums)
        figures = zip(*(self._metric[name] for name in _FIGURE), strict=True)
        for model, variant, metric, value, measured_in, samples in figures:
            values = (model, variant, metric, value, measured_in, None, None, samples)
            leaves += metric_leaf(str(self._attempt), _MODE, self._started, *values)
        return root_of_sorted(_sorted(leaves))

    def _flush(self) -> None:
        if self._case["name"]:
            places = Places()
            of = zip(self._case["suite"], self._case["file"], self._case["cls"], strict=True)
            places.of = [places.index(*one) for one in of]
            self._add(places, self._case)
            for column in self._case.values():
                column.clear()

    def _add(self, places: Places, columns: Mapping[str, Sequence[Any]]) -> None:
        different = [(self._suite if self._suite is not None else suite, file, cls) for suite, file, cls in places.all]
        ids = _ids(different, places.of, columns["name"])
        self._suites.update(suite for suite, _, _ in different)
        joined = b"".join(ids)
        hexed = joined.hex()
        head = f"R|{self._attempt}|{_MODE}|{'' if self._started is None else self._started}|"
        leaves = _leaves(head, hexed, columns) if self._attempt is not None else b""
        self._sums.append((set(columns["outcome"]), sum(filter(None, columns["seconds"])), joined, leaves))
        index = pa.array(places.of, pa.int32())
        arrays: dict[str, pa.Array] = {"source": pa.array([self._source] * len(ids), pa.int32())}
        arrays["test_id"] = _hex(hexed)
        for column, values in zip(("suite", "file", "cls"), zip(*different, strict=True), strict=True):
            arrays[column] = pa.array(values, pa.string()).take(index)
        for column in ("name", "outcome", "seconds", "message", "output", "reruns"):
            arrays[column] = _column(columns[column], CASES.field(column).type)
        self._pieces.append(
            pa.RecordBatch.from_arrays([arrays[name] for name in _PIECE_SCHEMA.names], schema=_PIECE_SCHEMA)
        )


class Places:
    """The different (suite, file, class) triples of many cases, and which of them each case has."""

    def __init__(self) -> None:
        self.all: list[tuple[str, str, str]] = []
        self.of: list[int] = []
        self._known: dict[tuple[str, str, str], int] = {}

    def index(self, suite: str, file: str, cls: str) -> int:
        """The number of a triple, a new one if it is new."""
        place = (suite, file, cls)
        number = self._known.setdefault(place, len(self.all))
        if number == len(self.all):
            self.all.append(place)
        return number


def _ids(places: Sequence[tuple[str, str, str]], of: Iterable[int], names: Iterable[str]) -> list[bytes]:
    """What `blocks.ledger.results.test_id` gives, for many and as bytes: what is before the name is made once."""
    quote = encode_basestring
    heads = [f"[{quote(suite)},{quote(file)},{quote(cls)}," for suite, file, cls in places]
    # Quoted text has no line end of its own, so all of it can be made bytes at once.
    lines = "\n".join([f"{heads[at]}{quote(name)}]" for at, name in zip(of, names, strict=True)]).encode().split(b"\n")
    return [digest[:16] for digest in map(_DIGEST, map(hashlib.sha256, lines))]


def all_different(joined: bytes, width: int) -> bool:
    """Whether no hash is there twice. (Two that only begin alike are taken for one: that costs time and no truth.)"""
    numbers = _heads(joined, width)
    return bool(pc.count_distinct(numbers).as_py() == len(numbers))


def _heads(joined: bytes, width: int) -> pa.Array:
    """The first eight bytes of each hash, as the number that sorts like them."""
    heads = array("Q", memoryview(joined).cast("Q")[:: width // 8].tobytes())
    if sys.byteorder == "little":
        heads.byteswap()
    return pa.UInt64Array.from_buffers(pa.uint64(), len(heads), [None, pa.py_buffer(heads)])


def _column(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    """As Arrow makes it; faster where nothing is there, as mostly no case has a message."""
    return pa.nulls(len(values), kind) if values.count(None) == len(values) else pa.array(values, kind)


def _hex(hexed: str) -> pa.Array:
    """The ids as a column: a buffer of text, 32 hex digits each, and where each starts."""
    starts = pa.array(range(0, len(hexed) + 1, 32), pa.int32())
    return pa.StringArray.from_buffers(len(hexed) // 32, starts.buffers()[1], pa.py_buffer(hexed.encode()))


def _leaves(head: str, hexed: str, columns: Mapping[str, Sequence[Any]]) -> bytes:
    """`blocks.ledger.roots.result_leaf` for many rows of one attempt, one after another."""
    rows = zip(range(0, len(hexed), 32), columns["outcome"], columns["seconds"], columns["message"], strict=True)
    lines = [
        f"{head}{hexed[at : at + 32]}|{outcome}|{'' if seconds is None else seconds}|{message or ''}".encode()
        for at, outcome, seconds, message in rows
    ]
    return b"".join(map(_DIGEST, map(hashlib.sha256, lines)))


def _sorted(leaves: bytes) -> bytes:
    """The leaves of 32 bytes in their order."""
    order = prefix_order(leaves, 32)
    if order is None:
        return b"".join(sorted(leaves[at : at + 32] for at in range(0, len(leaves), 32)))
    column = pa.FixedSizeBinaryArray.from_buffers(pa.binary(32), len(leaves) // 32, [None, pa.py_buffer(leaves)])
    return bytes(column.take(order).buffers()[1])


def prefix_order(joined: bytes, width: int) -> pa.Array | None:
    """The order of hashes of `width` bytes each, by their first eight; None where two different ones share those.

    Numbers sort in a tenth of the time of text. That two hashes agree in eight bytes by chance does not happen; where
    they are equal as a whole, any order of theirs is right.
    """
    numbers = _heads(joined, width)
    order = pc.sort_indices(numbers)
    placed = numbers.take(order)
    same = pc.equal(placed[1:], placed[:-1])
    for at in pc.indices_nonzero(same).to_pylist():
        one, other = order[at].as_py() * width, order[at + 1].as_py() * width
        if joined[one : one + width] != joined[other : other + width]:
            return None
    return order


def _repeats(ids: pa.ChunkedArray) -> pa.Array:
    """For each row how many rows before it have the same id."""
    seen: dict[str, int] = {}
    counted = []
    for one in ids.to_pylist():
        counted.append(seen.get(one, 0))
        seen[one] = counted[-1] + 1
    return pa.array(counted, pa.int32())
