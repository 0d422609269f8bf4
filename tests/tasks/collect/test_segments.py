"""Cutting segments: no row is lost and none is there twice, whatever happens in between."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from sqlalchemy import func, select, update

from blocks.canonical import digest_file
from blocks.errors import LedgerError, TrustError
from blocks.ledger import Ledger, now
from blocks.ledger.query import run_query
from blocks.ledger.schema import bundles, events, segments
from tasks.collect import segments as cutting
from tasks.collect.segments import EMPTY, cut_segments
from tasks.keep.sweep import sweep_orphans
from tests.ledger_fixtures import database_url as database_url
from tests.ledger_fixtures import ledger as ledger
from tests.ledger_fixtures import postgres as postgres
from tests.ledger_rows import Case, MadeUnit, add_part, made_unit, make_run, open_made

ALL_ROWS = "SELECT * FROM all_results ORDER BY ALL"


def some_units(count: int, environment: str = "cpu") -> list[MadeUnit]:
    return [made_unit(f"u{n}", [Case(f"S.t{n}_{i}") for i in range(3)], environment=environment) for n in range(count)]


def files_of(ledger: Ledger) -> list[Path]:
    return sorted(path for path in ledger.results.rglob("*") if path.is_file())


def uncut_count(ledger: Ledger) -> int:
    with ledger.read() as connection:
        return connection.scalar(select(func.count()).where(bundles.c.segment.is_(None))) or 0


def assert_whole(ledger: Ledger, before: list[dict[str, object]]) -> None:
    """Every row that there was is there once, and the records name exactly the files that are read."""
    assert run_query(ledger, ALL_ROWS) == before
    with ledger.read() as connection:
        rows = connection.execute(select(segments)).all()
    for row in rows:
        path = ledger.results / row.path
        assert digest_file(path) == row.digest
        assert path.stat().st_size == row.bytes
        assert pq.read_metadata(path).num_rows == row.rows


def test_a_cut_makes_one_file_per_run_environment_and_kind(ledger: Ledger):
    metric = {"model": "m", "mode": "eager", "name": "seconds", "value": 1.0, "unit": "s"}
    benchmark = made_unit("bench", kind="benchmark", suite="benchmark", metrics=(metric,))
    make_run(ledger, [*some_units(12), *some_units(3, "cuda"), benchmark], run="r-1", units_per_lease=2)
    before = run_query(ledger, ALL_ROWS)
    assert cut_segments(ledger, everything=True) == 3
    assert sorted(str(path.parent.relative_to(ledger.results)) for path in files_of(ledger)) == [
        "kind=metrics/run=r-1/environment=cpu",
        "kind=results/run=r-1/environment=cpu",
        "kind=results/run=r-1/environment=cuda",
    ]
    assert uncut_count(ledger) == 0
    assert_whole(ledger, before)
    assert cut_segments(ledger, everything=True) == 0


def test_a_segment_is_sorted_by_test_and_can_be_read_alone(ledger: Ledger):
    made = make_run(ledger, some_units(5))
    cut_segments(ledger, everything=True)
    (path,) = files_of(ledger)
    table = pq.ParquetFile(path).read()
    ids = table.column("test_id").to_pylist()
    assert ids == sorted(ids)
    assert len(set(ids)) == 15
    assert set(table.column("run").to_pylist()) == {made.run}
    assert set(table.column("bundle").to_pylist()) == set(made.bundles)
    assert str(table.schema.field("started").type) == "timestamp[us, tz=UTC]"


def test_each_segment_has_its_event_in_the_same_transaction(ledger: Ledger):
    made = make_run(ledger, some_units(4), units_per_lease=2)
    cut_segments(ledger, everything=True)
    with ledger.read() as connection:
        (event,) = connection.scalars(select(events.c.body).where(events.c.kind == "segment.cut"))
        segment = connection.execute(select(segments)).one()
    body = json.loads(event)["body"]
    assert (body["digest"], body["rows"], body["bundles"]) == (segment.digest, 12, 2)
    assert json.loads(event)["run"] == made.run


def test_a_cut_waits_for_size_or_age(ledger: Ledger):
    made = make_run(ledger, some_units(4))
    with ledger.write() as connection:
        connection.execute(update(bundles).values(admitted=now() - 30))
    assert cut_segments(ledger, min_rows=13, max_age_seconds=60) == 0
    assert cut_segments(ledger, min_rows=13, max_age_seconds=60, run=made.run) == 0
    assert cut_segments(ledger, min_rows=12, max_age_seconds=60, run="another") == 0
    assert cut_segments(ledger, min_rows=12, max_age_seconds=60, run=made.run) == 1
    add_part(ledger, made, made_unit("u0", [Case("S.t0_0")]))
    with ledger.write() as connection:
        connection.execute(update(bundles).where(bundles.c.segment.is_(None)).values(admitted=now() - 30))
    assert cut_segments(ledger, min_rows=13, max_age_seconds=20) == 1


def test_a_bundle_without_rows_is_marked_too(ledger: Ledger):
    make_run(ledger, [made_unit("command", [Case("command")], kind="command", suite="tools")])
    with ledger.write() as connection:
        connection.execute(update(bundles).values(rows=0))
    assert cut_segments(ledger, everything=True) == 0
    assert files_of(ledger) == []
    with ledger.read() as connection:
        assert connection.scalars(select(bundles.c.segment)).all() == [EMPTY]


def test_much_that_waits_is_cut_into_files_of_bounded_size(ledger: Ledger, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cutting, "_MOST_ROWS", 10)
    make_run(ledger, some_units(10), units_per_lease=1)
    before = run_query(ledger, ALL_ROWS)
    assert cut_segments(ledger, everything=True) == 3
    assert_whole(ledger, before)


def test_a_tampered_bundle_is_told_and_the_rest_is_cut(ledger: Ledger):
    made = make_run(ledger, some_units(3), units_per_lease=1)
    sound = run_query(ledger, "SELECT * FROM all_results WHERE unit_name <> 'u1' ORDER BY ALL")
    path = ledger.store.path(made.bundles[1])
    raw = path.read_bytes()
    path.write_bytes(raw[:40] + bytes([raw[40] ^ 1]) + raw[41:])
    with pytest.raises(TrustError) as caught:
        cut_segments(ledger, everything=True)
    assert made.bundles[1].removeprefix("sha256:") in caught.value.what
    assert made.bundles[0].removeprefix("sha256:") not in caught.value.what
    assert uncut_count(ledger) == 1
    assert_whole(ledger, sound)
    path.write_bytes(raw)
    assert cut_segments(ledger, everything=True) == 1
    assert len(run_query(ledger, ALL_ROWS)) == 9


CHILD = """
    import os, signal, sys, time
    from pathlib import Path
    from blocks.ledger import files
    from tasks.collect import segments
    from tests.ledger_rows import open_made
    root, url, where = sys.argv[1:4]
    def die(*_, **__):
        os.kill(os.getpid(), signal.SIGKILL)
    def die_after(step):
        def replaced(*args, **kwargs):
            step(*args, **kwargs)
            die()
        return replaced
    if where == "file written":
        segments._commit = die
    elif where == "half of the file":
        files.digest_file = die
    elif where == "bundles marked":
        segments._mark = die_after(segments._mark)
    elif where == "event written":
        segments.record = die_after(segments.record)
    ledger = open_made(Path(root), url or None)
    print("ready", flush=True)
    segments.cut_segments(ledger, everything=True)
"""
MOMENTS = ["half of the file", "file written", "bundles marked", "event written"]


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_cutter_that_is_killed_loses_nothing_and_shows_nothing_twice(
    ledger: Ledger, database_url: str | None, tmp_path: Path, moment: str
):
    make_run(ledger, some_units(4), units_per_lease=2)
    before = run_query(ledger, ALL_ROWS)
    child = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(CHILD), str(tmp_path / "home"), database_url or "", moment],
        cwd=Path(__file__).parents[3], env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}, timeout=60,
        check=False, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert child.stdout == b"ready\n"
    assert child.returncode == -signal.SIGKILL
    assert_whole(ledger, before)
    assert uncut_count(ledger) == 2
    assert len(files_of(ledger)) == 1  # garbage, which nobody reads
    assert cut_segments(ledger, everything=True) == 1
    assert_whole(ledger, before)
    assert len(sweep_orphans(ledger, older_than_seconds=0)) == 1
    assert_whole(ledger, before)


def test_a_disk_that_takes_no_more_is_told_in_words_and_the_bundles_wait(ledger: Ledger):
    make_run(ledger, some_units(2), units_per_lease=1)
    ledger.results.parent.mkdir(parents=True, exist_ok=True)
    if ledger.results.exists():
        ledger.results.rmdir()
    ledger.results.write_text("no folder")

    with pytest.raises(LedgerError, match=r"cannot be written.*Everything recorded before is safe"):
        cut_segments(ledger, everything=True)

    assert uncut_count(ledger) == 2
    ledger.results.unlink()
    assert cut_segments(ledger, everything=True)


def test_a_fresh_file_is_not_swept_because_its_cutter_may_be_at_work(ledger: Ledger):
    make_run(ledger, some_units(2))
    cut_segments(ledger, everything=True)
    stray = files_of(ledger)[0].with_name("0" * 64 + ".parquet")
    stray.write_bytes(b"not finished")
    assert sweep_orphans(ledger) == []
    os.utime(stray, (time.time() - 7200, time.time() - 7200))
    assert sweep_orphans(ledger) == [stray]
    assert len(files_of(ledger)) == 1


def test_a_file_that_was_swept_under_a_slow_cutter_never_counts(ledger: Ledger, monkeypatch: pytest.MonkeyPatch):
    make_run(ledger, some_units(2))
    before = run_query(ledger, ALL_ROWS)
    take_turn = cutting.take_turn

    def swept_first(connection: object) -> None:
        for path in files_of(ledger):
            path.unlink()
        take_turn(connection)

    monkeypatch.setattr(cutting, "take_turn", swept_first)
    with pytest.raises(Exception, match="vanished before it counted"):
        cut_segments(ledger, everything=True)
    monkeypatch.undo()
    assert_whole(ledger, before)
    assert cut_segments(ledger, everything=True) == 1
    assert_whole(ledger, before)


def test_of_two_cutters_with_the_same_bundles_one_gives_way(ledger: Ledger, monkeypatch: pytest.MonkeyPatch):
    make_run(ledger, some_units(6), units_per_lease=2)
    before = run_query(ledger, ALL_ROWS)
    both_have_written = threading.Barrier(2, timeout=30)
    write = cutting._write

    def write_and_wait(*args: object) -> object:
        written = write(*args)
        both_have_written.wait()
        return written

    monkeypatch.setattr(cutting, "_write", write_and_wait)
    made: list[int] = []
    cutters = [threading.Thread(target=lambda: made.append(cut_segments(ledger, everything=True))) for _ in range(2)]
    for cutter in cutters:
        cutter.start()
    for cutter in cutters:
        cutter.join(60)
    assert sorted(made) == [0, 1]
    assert len(files_of(ledger)) == 1  # the one that gave way removed its own
    assert_whole(ledger, before)


def cut_and_die(root: str, url: str | None, seed: int) -> None:
    ledger = open_made(Path(root), url)
    threading.Timer(random.Random(seed).uniform(0.0, 0.25), lambda: os.kill(os.getpid(), signal.SIGKILL)).start()
    while True:
        cut_segments(ledger, everything=True)


def test_cutters_killed_at_random_moments_while_bundles_arrive(
    ledger: Ledger, database_url: str | None, tmp_path: Path
):
    seed = int(os.environ.get("SOAK_SEED", random.SystemRandom().randrange(1 << 30)))
    print(f"SOAK_SEED={seed}")
    make_run(ledger, some_units(1), run="r-0")
    spawn = multiprocessing.get_context("fork")
    for round_number in range(4):
        cutters = [
            spawn.Process(target=cut_and_die, args=(str(tmp_path / "home"), database_url, seed + round_number * 2 + n))
            for n in range(2)
        ]
        for cutter in cutters:
            cutter.start()
        for number in range(3):
            make_run(ledger, some_units(3), run=f"r-{round_number}-{number}", units_per_lease=1)
        for cutter in cutters:
            cutter.join(30)
    counts = "SELECT count(*) AS rows, count(DISTINCT (attempt, test_id)) AS different FROM all_results"
    expected = [{"rows": 3 + 4 * 3 * 9, "different": 3 + 4 * 3 * 9}]
    assert run_query(ledger, counts) == expected
    cut_segments(ledger, everything=True)
    assert uncut_count(ledger) == 0
    assert run_query(ledger, counts) == expected
    with ledger.read() as connection:
        assert connection.scalar(select(func.sum(segments.c.rows))) == expected[0]["rows"]
