"""Compaction: the same rows in fewer files, whatever happens in between, and nobody waits."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from sqlalchemy import func, select, update

from blocks.errors import TrustError
from blocks.ledger import Ledger
from blocks.ledger.keep_schema import replacements
from blocks.ledger.query import open_query, run_query
from blocks.ledger.schema import bundles, events, segments
from tasks.keep import compact as compaction
from tasks.keep.compact import Limits, compact
from tasks.keep.sweep import sweep_orphans
from tests.faults.rounds import rounds
from tests.ledger_fixtures import database_url as database_url
from tests.ledger_fixtures import ledger as ledger
from tests.ledger_fixtures import postgres as postgres
from tests.ledger_rows import open_made
from tests.tasks.keep.cut import cut_runs, everything, files_of, live

SOON = Limits(files=2)


def test_the_rows_are_the_same_in_one_file_sorted_by_test(ledger: Ledger) -> None:
    cut_runs(ledger, 3)
    before = everything(ledger)
    assert len(compact(ledger, SOON)) == 2  # results, metrics
    assert everything(ledger) == before
    (segment,) = live(ledger)
    ids = pq.ParquetFile(ledger.results / segment.path).read(columns=["test_id"]).column(0).to_pylist()
    assert (ids, len(ids), segment.rows) == (sorted(ids), 27, 27)
    assert compact(ledger, SOON) == []
    assert run_query(ledger, "SELECT count(*) AS n FROM segments") == [{"n": 2}]


def test_a_file_of_several_runs_still_answers_for_one(ledger: Ledger) -> None:
    made = cut_runs(ledger, 3)
    sql = "SELECT * FROM results ORDER BY ALL"

    def asked(run: str) -> list[dict[str, object]]:
        with open_query(ledger, sql, runs=[run]) as reader:
            return reader.dicts(sql)

    before = [asked(run.run) for run in made]
    compact(ledger, SOON)
    assert [asked(run.run) for run in made] == before
    assert [len(rows) for rows in before] == [9, 9, 9]


def test_row_groups_stay_small_enough_to_skip(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction, "ROW_GROUP", 2048)
    cut_runs(ledger, 2)
    (segment,) = live(ledger)[:1]
    for number in range(3):  # a file of 4,608 rows, from the one that there is
        source = "SELECT t.* FROM read_parquet($files) t, range(512) ORDER BY test_id"
        file = compaction.written(
            ledger.results, ledger.results / f"x{number}", "results", source, [ledger.results / segment.path]
        )
        assert pq.read_metadata(file.path).num_row_groups == 3


def test_an_event_tells_what_went_in_and_what_came_out(ledger: Ledger) -> None:
    cut_runs(ledger, 3)
    sources = {segment.digest: segment.rows for segment in live(ledger)}
    compact(ledger, SOON)
    (segment,) = live(ledger)
    with ledger.read() as connection:
        told = [json.loads(body)["body"] for body in
                connection.scalars(select(events.c.body).where(events.c.kind == "segment.compacted"))]  # fmt: skip
        replaced = dict(connection.execute(select(replacements.c.segment, replacements.c.by)).all())
        pointed = set(connection.scalars(select(bundles.c.segment)))
    (body,) = [body for body in told if body["content"] == "results"]
    assert {entry["digest"]: entry["rows"] for entry in body["replaced"]} == sources
    assert (body["digest"], body["rows"], body["runs"]) == (segment.digest, 27, 3)
    assert {replaced[digest] for digest in sources} == {segment.digest}
    assert segment.digest in pointed
    assert not pointed & set(replaced)


@pytest.mark.parametrize(
    ("limits", "made"),
    [
        (Limits(files=4), 0),
        (Limits(files=3), 1),
        (Limits(files=9, rows=18), 1),
        (Limits(files=9, rows=19), 0),
        (Limits(files=9, age_seconds=0), 1),
        (Limits(files=3, most_rows=18), 0),  # each is half a file already
        (Limits(files=3, most_rows=20), 1),  # two of them fill a file
    ],
)
def test_a_group_is_due_by_count_size_or_age(tmp_path: Path, limits: Limits, made: int) -> None:
    ledger = open_made(tmp_path)
    cut_runs(ledger, 3)
    with ledger.write() as connection:
        connection.execute(segments.delete().where(segments.c.kind == "metrics"))
    assert len(compact(ledger, limits)) == made
    ledger.close()


def test_what_was_compacted_is_not_written_again_for_one_new_file(tmp_path: Path) -> None:
    ledger = open_made(tmp_path)
    cut_runs(ledger, 3)
    with ledger.write() as connection:
        connection.execute(segments.delete().where(segments.c.kind == "metrics"))
    assert len(compact(ledger, Limits(files=3))) == 1
    with ledger.write() as connection:
        connection.execute(update(segments).values(created=segments.c.created - 5.0))  # within the week, mostly
    cut_runs(ledger, 1, first=3)
    assert compact(ledger, Limits(files=9, rows=27, age_seconds=4.0)) == []
    ledger.close()


def test_environments_and_weeks_stay_apart(tmp_path: Path) -> None:
    ledger = open_made(tmp_path)
    monday = 1_790_553_600.0  # 2026-09-28
    cut_runs(ledger, 10, at=monday)
    cut_runs(ledger, 2, environment="cuda", at=monday)
    before = everything(ledger)
    compact(ledger, SOON)
    assert [str(Path(s.path).parent) for s in sorted(live(ledger), key=lambda s: s.path)] == [
        "kind=results/week=2026-W40/environment=cpu",
        "kind=results/week=2026-W40/environment=cuda",
        "kind=results/week=2026-W41/environment=cpu",
    ]
    assert everything(ledger) == before
    ledger.close()


def test_a_reader_that_began_before_goes_on_until_the_grace_is_over(ledger: Ledger) -> None:
    cut_runs(ledger, 3)
    sql = "SELECT count(*) AS n, count(DISTINCT test_id) AS tests FROM all_results"
    with open_query(ledger, sql) as reader:
        before = reader.dicts(sql)
        compact(ledger, SOON)
        assert sweep_orphans(ledger) == []
        assert reader.dicts(sql) == before
    assert len(files_of(ledger)) == 8
    assert len(sweep_orphans(ledger, grace_seconds=0)) == 6
    assert len(files_of(ledger)) == 2
    assert run_query(ledger, sql) == before


def test_a_damaged_file_is_told_and_never_sorted_into_a_sound_one(ledger: Ledger) -> None:
    cut_runs(ledger, 3)
    bad = live(ledger)[1]
    path = ledger.results / bad.path
    raw = path.read_bytes()
    path.write_bytes(raw[:60] + bytes([raw[60] ^ 1]) + raw[61:])
    with pytest.raises(TrustError) as caught:
        compact(ledger, SOON)
    assert bad.path in caught.value.what
    assert {segment.digest for segment in live(ledger)} > {bad.digest}
    assert len(live(ledger)) == 2
    path.write_bytes(raw)
    compact(ledger, SOON)
    assert len(live(ledger)) == 1


def test_without_its_event_nothing_is_compacted(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    cut_runs(ledger, 2)
    before = live(ledger), files_of(ledger)

    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("no event")

    monkeypatch.setattr(compaction, "record", refuse)
    with pytest.raises(RuntimeError, match="no event"):
        compact(ledger, SOON)
    assert (live(ledger), files_of(ledger)) == before


def test_a_second_compactor_gives_way_at_once(ledger: Ledger) -> None:
    cut_runs(ledger, 2)
    with compaction.alone(ledger.results) as first:
        assert first
        assert compact(ledger, SOON) == []
    assert len(compact(ledger, SOON)) == 2


def test_of_two_compactors_on_two_hosts_one_gives_way(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    cut_runs(ledger, 2)
    before = everything(ledger)
    (group, _) = (live(ledger), live(ledger, "metrics"))
    both_have_written = threading.Barrier(2, timeout=60)
    publish = compaction.publish

    def publish_and_wait(*args: object) -> None:
        publish(*args)  # type: ignore[arg-type]
        both_have_written.wait()

    monkeypatch.setattr(compaction, "publish", publish_and_wait)
    ended: list[str] = []

    def one() -> None:
        try:
            ended.append(compaction._compacted(ledger, group))
        except compaction.Overtaken:
            ended.append("overtaken")

    compactors = [threading.Thread(target=one) for _ in range(2)]
    for compactor in compactors:
        compactor.start()
    for compactor in compactors:
        compactor.join(60)
    assert sorted(ended) == sorted([live(ledger)[0].digest, "overtaken"])
    assert len(files_of(ledger)) == 5  # the one that gave way removed its own
    assert everything(ledger) == before


def compact_and_die(root: str, url: str | None, after: float) -> None:
    ledger = open_made(Path(root), url)
    threading.Timer(after, lambda: os.kill(os.getpid(), signal.SIGKILL)).start()
    while True:
        compact(ledger, SOON)
        time.sleep(0.01)


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_compactors_killed_at_random_moments_lose_nothing_and_show_nothing_twice(
    ledger: Ledger, database_url: str | None, tmp_path: Path
) -> None:
    fork = multiprocessing.get_context("fork")
    for number, dice in rounds(f"compactor-kill, {ledger.engine.dialect.name}", full=50, sample=3):
        cut_runs(ledger, 2, first=number * 2)
        before = everything(ledger)
        after = dice.uniform(0.02, 0.4)
        victims = [fork.Process(target=compact_and_die, args=(str(tmp_path / "home"), database_url, after))
                   for _ in range(2)]  # fmt: skip
        for victim in victims:
            victim.start()
        while any(victim.is_alive() for victim in victims):
            assert everything(ledger) == before
        for victim in victims:
            victim.join(30)
        assert everything(ledger) == before
    compact(ledger, SOON)
    sweep_orphans(ledger, older_than_seconds=0, grace_seconds=0)
    assert everything(ledger) == before
    with ledger.read() as connection:
        weeks = connection.scalar(select(func.count()).select_from(segments).where(~compaction.REPLACED))
    assert len(files_of(ledger)) == weeks == 2
