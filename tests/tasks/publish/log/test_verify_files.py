"""The files against the log: a row that is changed, removed or hidden is found, and its file or bundle is named."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

import duckdb
import pytest
from sqlalchemy import select

from blocks.canonical import digest_file
from blocks.ledger import Ledger, record
from blocks.ledger.files import SegmentFile
from blocks.ledger.schema import bundles, runs, settlements
from tasks.keep.compact import Limits, compact, replace, written
from tasks.keep.retain import Retention, drop_raw, sum_up
from tasks.keep.sweep import sweep_orphans
from tasks.publish.log.verify_files import Checked, verify_files
from tests.faults.rounds import SOAK
from tests.ledger_fixtures import database_url as database_url
from tests.ledger_fixtures import ledger as ledger
from tests.postgres import postgres as postgres
from tests.tasks.keep.cut import cut_runs, live
from tests.tasks.publish.log.conftest import attack

SOON = Limits(files=2)
OLD = Retention(raw_days=-1, rows_days=-1)
"""All of it is."""
SQLITE = pytest.mark.parametrize("database_url", [None], ids=["sqlite"])
"""For what does not depend on the database."""


@pytest.fixture
def compacted(ledger: Ledger) -> Ledger:
    """Three runs, the results of which stand in one file, and the metrics in another."""
    cut_runs(ledger, 3)
    compact(ledger, SOON)
    return ledger


def found(checked: Checked) -> set[tuple[str, str]]:
    return {(finding.kind, finding.where) for finding in checked.findings.listed}


def file_of(ledger: Ledger, kind: str = "results") -> Path:
    (segment,) = live(ledger, kind)
    return ledger.results / segment.path


def name_of(ledger: Ledger, path: Path) -> str:
    return f"results/{path.relative_to(ledger.results)}"


def bundle_in(path: Path, test: str) -> tuple[str, str]:
    """(what a finding calls it, its digest): the bundle with the first row of a test."""
    (row,) = duckdb.sql(
        f"SELECT lease, part, bundle FROM read_parquet('{path}') WHERE name = '{test}' ORDER BY run LIMIT 1"
    ).fetchall()
    return f"part {row[1]} of {row[0]}", row[2]


def rewrite(path: Path, select_: str) -> str:
    """Put the rows of a SELECT over `old` in the file's place; returns the new digest."""
    path.rename(path.with_suffix(".old"))
    try:
        with duckdb.connect(":memory:") as connection:
            connection.execute("SET TimeZone = 'UTC'")
            connection.execute(f"CREATE VIEW old AS FROM read_parquet('{path.with_suffix('.old')}')")
            connection.execute(f"COPY ({select_}) TO '{path}' (FORMAT parquet)")
    finally:
        path.with_suffix(".old").unlink()
    return digest_file(path)


def cover_up(ledger: Ledger, before: str, after: str) -> None:
    """Have the records say that the file is what it is now."""
    attack(
        ledger,
        f"UPDATE segments SET digest = '{after}' WHERE digest = '{before}'",
        f"UPDATE bundles SET segment = '{after}' WHERE segment = '{before}'",
        f"UPDATE replacements SET by = '{after}' WHERE by = '{before}'",
        f"UPDATE segment_runs SET segment = '{after}' WHERE segment = '{before}'",
    )


def test_what_was_cut_compacted_summed_up_and_dropped_is_as_the_log_says(ledger: Ledger) -> None:
    cut_runs(ledger, 2)
    checked = verify_files(ledger)
    assert (found(checked), checked.files, checked.rows.bundles, checked.rows.rows) == (set(), 8, 4, 20)
    compact(ledger, SOON)
    sweep_orphans(ledger, older_than_seconds=0, grace_seconds=0)
    checked = verify_files(ledger)
    assert (found(checked), checked.files, checked.rows.bundles, checked.rows.rows) == (set(), 6, 4, 20)
    assert drop_raw(ledger, OLD) == 4
    checked = verify_files(ledger)
    assert (found(checked), checked.files, checked.dropped, checked.rows.rows) == (set(), 2, 4, 20)
    assert len(sum_up(ledger, OLD)) == 1
    sweep_orphans(ledger, older_than_seconds=0, grace_seconds=0)
    checked = verify_files(ledger)
    assert (found(checked), checked.rows.summed_up, checked.rows.rows, checked.rows.unproven) == (set(), 4, 0, 0)


@SQLITE
def test_one_bit_of_a_compacted_file_is_found_by_its_name(compacted: Ledger) -> None:
    path = file_of(compacted)
    raw = path.read_bytes()
    for at in range(8, len(raw) - 8, max(1, len(raw) // 12)):  # in data, in indexes, in the footer
        path.write_bytes(raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :])
        assert ("changed_file", name_of(compacted, path)) in found(verify_files(compacted)), at


@SQLITE
@pytest.mark.parametrize(
    "select_",
    [
        "FROM old WHERE NOT (bundle = '{bundle}' AND name = '{test}')",
        "FROM old UNION ALL FROM old WHERE bundle = '{bundle}' AND name = '{test}'",
        "SELECT * REPLACE (CASE WHEN bundle = '{bundle}' AND name = '{test}' THEN 'passed' ELSE outcome END AS outcome)"
        " FROM old",
        "SELECT * REPLACE (CASE WHEN bundle = '{bundle}' AND name = '{test}' THEN seconds + 1e-9 ELSE seconds END"
        " AS seconds) FROM old",
    ],
    ids=["removed", "doubled", "outcome", "seconds"],
)
def test_a_row_changed_together_with_all_records_is_found_in_its_bundle(compacted: Ledger, select_: str) -> None:
    path, test = file_of(compacted), "t1_1"  # which failed
    (segment,) = live(compacted)
    name, bundle = bundle_in(path, test)
    after = rewrite(path, select_.format(bundle=bundle, test=test))
    cover_up(compacted, segment.digest, after)
    where = name_of(compacted, path)
    expected = {("changed_record", where), ("changed_file", where), ("changed_rows", name)}
    assert found(verify_files(compacted)) == expected


ONE = "CASE WHEN bundle = '{bundle}' AND name = 't1_1' THEN %s ELSE %s END AS %s"


@SQLITE
@pytest.mark.parametrize(
    ("select_", "says"),
    [
        ("* FROM read_parquet($files) WHERE NOT (bundle = '{bundle}' AND name = 't1_1')", "rows of it"),
        *((f"* REPLACE ({ONE % (other, name, name)}) FROM read_parquet($files)", f"say another {said} than the log")
          for name, other, said in (
              ("counted", "false", "counted"), ("run", "'r-else'", "run"), ("environment", "'else'", "environment"),
              ("lease", "'l-else'", "lease, attempt"), ("unit", "'u-else'", "attempt"),
              ("machine", "'m-else'", "machine"), ("slot", "99::INTEGER", "machine"),
              ("vendor", "'else'", "vendor"), ("pool", "'else'", "vendor"),
              ("reason", "'late'", "counted"),
          )),
    ],
    ids=["gone", "counted", "run", "environment", "lease", "unit", "machine", "slot", "vendor", "pool", "reason"],
)  # fmt: skip
def test_a_forged_compaction_is_found_though_an_event_tells_of_it(compacted: Ledger, select_: str, says: str) -> None:
    (segment,) = live(compacted)
    path = compacted.results / segment.path
    name, bundle = bundle_in(path, "t1_1")
    source = f"SELECT {select_.format(bundle=bundle)}"
    file = written(compacted.results, path.parent, "results", source, [path])
    with compacted.write() as connection:
        replace(connection, compacted, [segment], file)
        record(
            connection, "segment.compacted", environment="cpu", content="results", digest=file.digest, rows=file.rows,
            path=str(file.path.relative_to(compacted.results)), runs=3,
            replaced=[{"digest": segment.digest, "rows": segment.rows}],
        )  # fmt: skip
    checked = verify_files(compacted)
    assert found(checked) == {("changed_rows", name)}
    assert says in checked.findings.listed[0].says


@SQLITE
def test_rows_of_a_bundle_that_was_never_admitted_are_found(compacted: Ledger) -> None:
    path = file_of(compacted)
    rewrite(path, "SELECT * REPLACE ('sha256:made up' AS bundle) FROM old")
    kinds = found(verify_files(compacted))
    assert ("changed_rows", name_of(compacted, path)) in kinds
    assert len([where for kind, where in kinds if where.startswith("part ")]) == 6


@SQLITE
def test_a_test_that_is_given_another_name_is_found(compacted: Ledger) -> None:
    path = file_of(compacted)
    rewrite(path, "SELECT * REPLACE (replace(test, 't1_1', 't9_9') AS test) FROM old")
    assert {kind for kind, _ in found(verify_files(compacted))} == {"changed_file", "changed_rows"}


def _insert_drop(ledger: Ledger) -> set[tuple[str, str]]:
    with ledger.read() as connection:
        lease, part, digest = connection.execute(select(bundles.c.lease, bundles.c.part, bundles.c.digest)).first()  # type: ignore[misc]
    ledger.store.discard(digest)
    attack(ledger, f"INSERT INTO dropped_bundles VALUES ('{digest}', 'sha256:0123456789abcdef', 1.0)")
    return {("unlogged", "drop 0123456789ab"), ("missing", f"part {part} of {lease}")}


def _of_another_kind(ledger: Ledger) -> set[tuple[str, str]]:
    (segment,) = live(ledger)
    attack(ledger, f"UPDATE segments SET kind = 'metrics' WHERE digest = '{segment.digest}'")
    return {("changed_record", f"results/{segment.path}")}


def _change_bundle(ledger: Ledger, change: str) -> str:
    """Change the record of the bundle with the failed test; returns what a finding calls it."""
    name, bundle = bundle_in(file_of(ledger), "t1_1")
    attack(ledger, f"{change} WHERE digest = '{bundle}'")
    return name


def _elsewhere(ledger: Ledger) -> set[tuple[str, str]]:
    return {("changed_record", _change_bundle(ledger, "UPDATE bundles SET environment = 'else'"))}


def _signed_by_another(ledger: Ledger) -> set[tuple[str, str]]:
    return {("changed_record", _change_bundle(ledger, "UPDATE bundles SET signer = 'else'"))}


def _a_run_ended_well(ledger: Ledger) -> set[tuple[str, str]]:
    run = _a_run(ledger)
    attack(ledger, f"""UPDATE runs SET conclusion = '{{"exit_code":0,"sentence":"All good."}}' WHERE id = '{run}'""")
    return {("changed_record", f"run {run}")}


def _a_run_goes_on(ledger: Ledger) -> set[tuple[str, str]]:
    run = _a_run(ledger)
    attack(ledger, f"UPDATE runs SET state = 'running' WHERE id = '{run}'")
    return {("changed_record", f"run {run}")}


def _no_such_run(ledger: Ledger) -> set[tuple[str, str]]:
    run = _a_run(ledger)
    attack(ledger, f"DELETE FROM runs WHERE id = '{run}'")
    return {("missing", f"run {run}")}


def _a_run(ledger: Ledger) -> str:
    with ledger.read() as connection:
        return str(connection.scalar(select(runs.c.id)))


def _lost(ledger: Ledger) -> set[tuple[str, str]]:
    run, unit = _a_unit(ledger)
    attack(ledger, f"UPDATE settlements SET terminal = 'lost' WHERE run = '{run}' AND unit = '{unit}'")
    return {("changed_record", f"unit {unit} of run {run}")}


def _lost_later(ledger: Ledger) -> set[tuple[str, str]]:
    run, unit = _a_unit(ledger)
    attack(ledger, f"INSERT INTO settlements VALUES ('{run}', '{unit}', 2, 'lost', '', NULL, 1, 1.0)")
    return {("changed_record", f"unit {unit} of run {run}")}


def _ran_elsewhere(ledger: Ledger) -> set[tuple[str, str]]:
    run, unit = _a_unit(ledger)
    attack(ledger, f"UPDATE settlements SET lease = 'l-else' WHERE run = '{run}' AND unit = '{unit}'")
    return {("changed_record", f"unit {unit} of run {run}"), ("unlogged", f"unit {unit} of run {run}")}


def _a_unit(ledger: Ledger) -> tuple[str, str]:
    with ledger.read() as connection:
        run, unit = connection.execute(select(settlements.c.run, settlements.c.unit)).first()  # type: ignore[misc]
    return run, unit


def _hide_file(ledger: Ledger) -> set[tuple[str, str]]:
    (segment,) = live(ledger, "metrics")
    attack(ledger, f"INSERT INTO replacements VALUES ('{segment.digest}', 'sha256:nothing', 1.0)")
    (ledger.results / segment.path).unlink()
    return {("missing", f"results/{segment.path}")}


def _show_twice(ledger: Ledger) -> set[tuple[str, str]]:
    (segment,) = live(ledger, "metrics")
    copy = SegmentFile("metrics", ledger.results / "again.parquet", "", segment.rows, segment.bytes)
    copy.path.write_bytes((ledger.results / segment.path).read_bytes() + b"")
    values = f"'sha256:copy', '', 'cpu', 'metrics', 'again.parquet', {segment.rows}, {segment.bytes}, 1.0"
    attack(ledger, f"INSERT INTO segments VALUES ({values})")
    return {("unlogged", "results/again.parquet"), ("changed_file", "results/again.parquet")}


def _forget_admission(ledger: Ledger) -> set[tuple[str, str]]:
    return {("missing", _change_bundle(ledger, "DELETE FROM bundles"))}


def _put_back_in_the_queue(ledger: Ledger) -> set[tuple[str, str]]:
    return {("changed_rows", _change_bundle(ledger, "UPDATE bundles SET segment = NULL"))}


def _hide_among_the_summed_up(ledger: Ledger) -> set[tuple[str, str]]:
    sum_up(ledger, OLD)
    (daily,) = live(ledger, "daily")
    made = cut_runs(ledger, 1, first=9)[0]
    (segment,) = live(ledger)
    attack(ledger, f"UPDATE bundles SET segment = '{daily.digest}' WHERE run = '{made.run}'")
    path = ledger.results / segment.path
    after = rewrite(path, "FROM old LIMIT 0")
    cover_up_only = f"UPDATE segments SET digest = '{after}' WHERE digest = '{segment.digest}'"
    attack(ledger, cover_up_only)
    where = name_of(ledger, path)
    return {("changed_record", where), ("changed_file", where), ("changed_rows", f"results/{daily.path}")}


@SQLITE
@pytest.mark.parametrize(
    "trick",
    [
        _insert_drop, _hide_file, _show_twice, _forget_admission, _put_back_in_the_queue, _hide_among_the_summed_up,
        _of_another_kind, _elsewhere, _signed_by_another, _a_run_ended_well, _a_run_goes_on, _no_such_run, _lost,
        _lost_later, _ran_elsewhere,
    ],
    ids=lambda trick: trick.__name__.strip("_"),
)  # fmt: skip
def test_a_trick_with_the_records_is_found(compacted: Ledger, trick: Callable[[Ledger], set[tuple[str, str]]]) -> None:
    expected = trick(compacted)
    assert found(verify_files(compacted)) >= expected


@SQLITE
@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_every_byte_of_a_compacted_file_counts(compacted: Ledger) -> None:
    """All of them in `make soak`, and some by chance otherwise."""
    dice = random.Random(seed := os.environ.get("SOAK_SEED") or random.SystemRandom().randrange(1 << 32))
    print(f"SOAK_SEED={seed}")
    counting = [compacted.results / segment.path for segment in (*live(compacted), *live(compacted, "metrics"))]
    for path in counting:
        raw = path.read_bytes()
        for at in range(len(raw)) if SOAK else dice.sample(range(len(raw)), 10):
            path.write_bytes(raw[:at] + bytes([raw[at] ^ 4]) + raw[at + 1 :])
            assert ("changed_file", name_of(compacted, path)) in found(verify_files(compacted)), at
        path.write_bytes(raw)
