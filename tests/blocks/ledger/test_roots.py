"""A bundle's root is the same from what was admitted and from the files, however they were cut and compacted."""

from __future__ import annotations

import json
import math
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from sqlalchemy import select

from blocks.errors import TrustError
from blocks.ledger import Ledger
from blocks.ledger.file_roots import bundle_root_from_rows, bundles_in, joined_leaves, leaves_in, wrong_test
from blocks.ledger.results import MESSAGE_CAP
from blocks.ledger.roots import root_of
from blocks.ledger.schema import events
from blocks.plan import Unit
from blocks.signing import load_or_make_key
from tasks.collect.segments import cut_segments
from tasks.keep.compact import Limits, compact
from tests.ledger_rows import open_made
from tests.tasks.collect.conftest import finished, open_night
from tests.tasks.keep.conftest import live

NAMES = ["plain", "with|bar", "ünï·code 測試", "new\nline", "x" * 3000]
MESSAGES: list[str | None] = [None, "", "short", "|R|", "m" * (MESSAGE_CAP + 5000), "ü" * 20_000]
SECONDS = [None, 0, 0.1, 1e-7, 12345678.9, 1e16, 7, 1 / 3]


def told(unit: str, dice: random.Random) -> dict[str, Any]:
    """A record with all that a runner may say: any name and message, repeated tests, figures."""
    line = finished(unit, attempts=dice.randint(1, 3))
    for attempt in line["attempts"]:
        attempt["started"] = dice.uniform(1.79e9, 1.8e9)
        attempt["results"] = [
            {"file": dice.choice(NAMES), "cls": dice.choice(["", "C|", "D"]), "name": dice.choice(NAMES),
             "outcome": dice.choice(["passed", "failed", "crashed"]), "seconds": dice.choice(SECONDS),
             "message": dice.choice(MESSAGES), "unknown to us": 1}
            for _ in range(dice.randint(0, 12))
        ]  # fmt: skip
        for result in attempt["results"]:
            if dice.random() < 0.3:
                del result["message"]
        attempt["metrics"] = [
            {"model": dice.choice(NAMES), "mode": "|", "name": "speedup", "value": dice.choice([1, 0.1, 1e300]),
             "unit": "x", "samples": [1, 2.5, 0.1], "low": 0}
            for _ in range(dice.randint(0, 2))
        ]  # fmt: skip
    return line


@pytest.fixture
def admitted(tmp_path: Path) -> Any:
    """A ledger with some admitted parts of wild content, cut into several files."""
    dice = random.Random(8)
    ledger = open_made(tmp_path)
    units = [
        Unit(suite=f"s|{n % 3}", environment="e", name=f"u{n}", kind="command", spec={"argv": ["true"]})
        for n in range(12)
    ]
    night = open_night(ledger, load_or_make_key(tmp_path / "key"), units, slots=20)
    for _ in range(6):
        lease = night.granted(target_seconds=0.001)
        records = [told(unit["id"], dice) for unit in lease["units"]]
        night.deliver(lease["lease"], 1, records)
        cut_segments(ledger, everything=True)
    yield ledger
    ledger.close()


def recorded(ledger: Ledger) -> dict[str, str]:
    """bundle -> the root that its admission wrote."""
    with ledger.read() as connection:
        bodies = [json.loads(body)["body"] for body in
                  connection.scalars(select(events.c.body).where(events.c.kind == "bundle.admitted"))]  # fmt: skip
    return {body["digest"]: body["root"] for body in bodies}


def files(ledger: Ledger) -> list[Path]:
    return [ledger.results / segment.path for kind in ("results", "metrics") for segment in live(ledger, kind)]


def computed(ledger: Ledger) -> dict[str, str]:
    return {bundle: root_of(leaves) for bundle, leaves in leaves_in(files(ledger)).items()}


def test_the_roots_of_admission_are_those_of_the_files_before_and_after_compaction(admitted: Ledger) -> None:
    wanted = recorded(admitted)
    assert len(wanted) == 6
    assert computed(admitted) == wanted
    assert len(compact(admitted, Limits(files=2))) == 2
    assert computed(admitted) == wanted
    some = next(iter(wanted))
    assert bundle_root_from_rows(files(admitted), some) == wanted[some]


def test_the_fast_way_to_a_files_leaves_gives_what_the_form_says(admitted: Ledger) -> None:
    compact(admitted, Limits(files=2))
    with duckdb.connect(":memory:") as connection:
        for kind in ("results", "metrics"):
            (path,) = (admitted.results / segment.path for segment in live(admitted, kind))
            made = dict(joined_leaves(connection, path, kind, bundles_in(connection, path)))
            assert made == {bundle: b"".join(sorted(leaves)) for bundle, leaves in leaves_in([path]).items()}
            assert len(made) > 1
            assert kind == "metrics" or wrong_test(connection, path) is None


def test_a_duration_is_written_as_the_form_says() -> None:
    dice = random.Random(3)
    drawn = [struct.unpack("d", dice.randbytes(8))[0] for _ in range(20_000)]
    drawn += [dice.uniform(0, 1000) for _ in range(20_000)] + [round(dice.expovariate(1), 3) for _ in range(20_000)]
    wanted = [value for value in drawn if math.isfinite(value)]
    with duckdb.connect(":memory:") as connection:
        connection.register("drawn", pa.table({"seconds": wanted}))
        written = connection.execute("SELECT concat('', seconds) FROM drawn").fetchall()
    assert [text for (text,) in written] == [str(value) for value in wanted]


def test_a_root_says_how_it_was_made(admitted: Ledger) -> None:
    assert {root.split(":")[0] for root in recorded(admitted).values()} == {"rows1"}


def changed(column: str, value: Any) -> Callable[[pa.Table], pa.Table]:
    def change(table: pa.Table) -> pa.Table:
        values = table.column(column).to_pylist()
        values[3] = value(values[3])
        kind = table.schema.field(column).type
        return table.set_column(table.schema.get_field_index(column), column, pa.array(values, kind))

    return change


TAMPERED: dict[str, Callable[[pa.Table], pa.Table]] = {
    "an outcome": changed("outcome", lambda old: "passed" if old != "passed" else "failed"),
    "a duration": changed("seconds", lambda old: (old or 0.0) + 1e-9),
    "a message": changed("message", lambda old: (old or "") + " "),
    "a time": changed("started", lambda old: pa.scalar(old).as_py().replace(microsecond=(old.microsecond + 1) % 10**6)),
    "an attempt": changed("attempt", lambda _: "a-" + "0" * 16),
    "a row left out": lambda table: table.slice(1),
    "a row twice": lambda table: pa.concat_tables([table, table.slice(0, 1)]),
    "a row of another bundle": lambda table: table.set_column(
        table.schema.get_field_index("bundle"), "bundle", pc.replace_with_mask(
            table.column("bundle").combine_chunks(), pa.array([True] + [False] * (len(table) - 1)),
            pa.array([table.column("bundle")[-1].as_py()]))),
}  # fmt: skip


@pytest.mark.parametrize("what", TAMPERED)
def test_a_changed_row_changes_its_bundles_root(admitted: Ledger, what: str) -> None:
    compact(admitted, Limits(files=2))
    path = admitted.results / live(admitted)[0].path
    table = pq.ParquetFile(path).read().sort_by("bundle")
    pq.write_table(table, path)
    assert computed(admitted) == recorded(admitted)  # the order of rows is nobody's business
    pq.write_table(TAMPERED[what](table), path)
    assert computed(admitted) != recorded(admitted)


@pytest.mark.parametrize("column", ["suite", "file", "cls", "name"])
def test_names_that_do_not_make_the_tests_id_are_refused(admitted: Ledger, column: str) -> None:
    compact(admitted, Limits(files=2))
    path = admitted.results / live(admitted)[0].path
    pq.write_table(changed(column, lambda old: old + "x")(pq.ParquetFile(path).read()), path)
    with pytest.raises(TrustError, match="which it is not"):
        leaves_in([path])


def test_admission_does_not_load_arrow() -> None:
    import subprocess
    import sys

    code = "import sys, tasks.collect.admit; sys.exit('pyarrow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
