"""Retention: what goes is said first, goes only when nothing is lost with it, and questions are still answered."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from sqlalchemy import select, update

from blocks.canonical import digest_json
from blocks.errors import TrustError
from blocks.ledger import Ledger, now
from blocks.ledger.keep_schema import dropped_bundles
from blocks.ledger.query import open_query, run_query
from blocks.ledger.schema import bundles, events, segments
from tasks.keep import retain
from tasks.keep.compact import Limits, compact
from tasks.keep.retain import Retention, drop_raw, sum_up
from tasks.keep.sweep import sweep_orphans
from tests.ledger_fixtures import database_url as database_url
from tests.ledger_fixtures import ledger as ledger
from tests.ledger_fixtures import postgres as postgres
from tests.ledger_rows import Case, made_unit, make_run
from tests.tasks.keep.conftest import DAY, cut_runs, everything, live

DAILY = "SELECT * FROM daily ORDER BY ALL"


def grow_old(ledger: Ledger, run: str, days: float) -> None:
    with ledger.write() as connection:
        connection.execute(update(bundles).where(bundles.c.run == run).values(admitted=now() - days * DAY))
        connection.execute(update(segments).where(segments.c.run == run).values(created=now() - days * DAY))


def kept(ledger: Ledger, digests: tuple[str, ...]) -> set[bool]:
    return {ledger.store.has(digest) for digest in digests}


def told(ledger: Ledger, kind: str) -> list[dict[str, object]]:
    with ledger.read() as connection:
        bodies = connection.scalars(select(events.c.body).where(events.c.kind == kind).order_by(events.c.seq))
        return [json.loads(body)["body"] for body in bodies]


def test_raw_bundles_go_when_their_time_is_over_and_the_rows_stay(ledger: Ledger) -> None:
    old, young = cut_runs(ledger, 2)
    grow_old(ledger, old.run, 91)
    grow_old(ledger, young.run, 89)
    before = everything(ledger)
    assert drop_raw(ledger) == len(old.bundles)
    assert (kept(ledger, old.bundles), kept(ledger, young.bundles)) == ({False}, {True})
    assert everything(ledger) == before
    (event,) = told(ledger, "bundles.dropped")
    assert (event["bundles"], event["rows"]) == (2, 10)
    assert event["digests"] == digest_json(sorted(old.bundles))
    with ledger.read() as connection:
        assert set(connection.scalars(select(dropped_bundles.c.digest))) == set(old.bundles)
    assert drop_raw(ledger) == 0
    assert len(told(ledger, "bundles.dropped")) == 1


def test_a_bundle_that_no_segment_holds_stays_however_old(ledger: Ledger) -> None:
    made = make_run(ledger, [made_unit("u", [Case("S.t")])])
    grow_old(ledger, made.run, 1000)
    assert drop_raw(ledger) == 0
    assert kept(ledger, made.bundles) == {True}


def test_raw_bundles_stay_while_the_file_with_their_rows_is_damaged(ledger: Ledger) -> None:
    bad, good = cut_runs(ledger, 2)
    path = ledger.results / next(segment.path for segment in live(ledger) if segment.run == bad.run)
    raw = path.read_bytes()
    path.write_bytes(raw[:50] + bytes([raw[50] ^ 1]) + raw[51:])
    for run in (bad, good):
        grow_old(ledger, run.run, 100)
    with pytest.raises(TrustError, match="does not have its digest"):
        drop_raw(ledger, Retention(at_once=1))
    assert (kept(ledger, bad.bundles), kept(ledger, good.bundles)) == ({True}, {False})
    path.write_bytes(raw)
    assert drop_raw(ledger) == 2


CHILD = """
    import os, signal, sys
    from pathlib import Path
    from blocks.store import Store
    from tasks.keep import retain
    from tests.ledger_rows import open_made
    root, url, where = sys.argv[1:4]
    discard, record = Store.discard, retain.record
    def die(*args, **kwargs):
        if where == "one gone":
            discard(*args)
        os.kill(os.getpid(), signal.SIGKILL)
    if where == "said":
        retain.record = die
    else:
        Store.discard = die
    retain.drop_raw(open_made(Path(root), url or None))
"""


@pytest.mark.parametrize("moment", ["said", "none gone", "one gone"])
def test_a_drop_that_is_killed_is_finished_by_the_next(
    ledger: Ledger, database_url: str | None, tmp_path: Path, moment: str
) -> None:
    (made,) = cut_runs(ledger, 1)
    grow_old(ledger, made.run, 100)
    before = everything(ledger)
    arguments = [str(tmp_path / "home"), database_url or "", moment]
    child = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(CHILD), *arguments],
        cwd=Path(__file__).parents[3], env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}, check=False,
        timeout=60,
    )  # fmt: skip
    assert child.returncode == -signal.SIGKILL
    with ledger.read() as connection:
        said = set(connection.scalars(select(dropped_bundles.c.digest)))
    gone = {digest for digest in made.bundles if not ledger.store.has(digest)}
    assert gone <= said  # nothing goes that was not said
    drop_raw(ledger)
    assert kept(ledger, made.bundles) == {False}
    assert len(told(ledger, "bundles.dropped")) == 1
    assert everything(ledger) == before


def test_rows_are_replaced_by_their_days_and_the_days_do_not_change(ledger: Ledger) -> None:
    old = cut_runs(ledger, 3)
    (young,) = cut_runs(ledger, 1, first=9)
    for run in old:
        grow_old(ledger, run.run, 401)
    grow_old(ledger, young.run, 399)
    compact(ledger, Limits(files=2))
    days = run_query(ledger, DAILY)
    assert len(days) == 9 * 4
    assert {(row["runs"], row["bad"]) for row in days if row["test"] == "u1::S.t1_1"} == {(1, 1)}
    assert len(sum_up(ledger)) == 1
    assert run_query(ledger, DAILY) == days
    assert run_query(ledger, "SELECT DISTINCT run FROM results WHERE suite <> 'benchmark'") == [{"run": young.run}]
    assert run_query(ledger, "SELECT count(*) AS n FROM metrics") == [{"n": 4}]  # kept for ever
    sweep_orphans(ledger, older_than_seconds=0, grace_seconds=0)
    assert run_query(ledger, DAILY) == days
    (event,) = told(ledger, "rows.summed_up")
    assert event["days"] == 27
    assert sum_up(ledger) == []


def test_without_its_event_nothing_is_let_go(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    (made,) = cut_runs(ledger, 1)
    grow_old(ledger, made.run, 500)
    before = everything(ledger), live(ledger)

    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("no event")

    monkeypatch.setattr(retain, "record", refuse)
    for let_go in (sum_up, drop_raw):
        with pytest.raises(RuntimeError, match="no event"):
            let_go(ledger)
    assert (everything(ledger), live(ledger)) == before
    assert kept(ledger, made.bundles) == {True}
    with ledger.read() as connection:
        assert connection.execute(select(dropped_bundles)).all() == []


def test_a_days_figures_are_those_of_its_final_rows(ledger: Ledger) -> None:
    cases = [Case("S.a", "failed", alone="passed", seconds=1.0), Case("S.b", seconds=None), Case("S.c", "skipped")]
    for number, seconds in enumerate((1.0, 2.0, 4.0)):
        made = make_run(ledger, [made_unit("u", [*cases, Case("S.d", seconds=seconds)])], run=f"r-{number}")
        assert made.run
    rows = {row["name"]: row for row in run_query(ledger, DAILY)}
    assert {name: (row["runs"], row["bad"], row["skipped"]) for name, row in rows.items()} == {
        "a": (3, 0, 0), "b": (3, 0, 0), "c": (3, 0, 3), "d": (3, 0, 0),
    }  # fmt: skip
    d = rows["d"]
    assert (d["seconds"], d["p50_seconds"], d["p90_seconds"], d["most_seconds"]) == (7.0, 2.0, pytest.approx(3.6), 4.0)
    assert rows["b"]["p90_seconds"] is None


def test_a_reader_of_one_run_does_not_see_the_days_of_others(ledger: Ledger) -> None:
    first, second = cut_runs(ledger, 2)
    grow_old(ledger, first.run, 500)
    sum_up(ledger)
    with open_query(ledger, DAILY, runs=[second.run]) as reader:
        assert len(reader.dicts(DAILY)) == 9
