"""With a store in a bucket the segments are there too, and what stands on a machine is a copy that may go."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from blocks import copies
from blocks.errors import LedgerError, TrustError
from blocks.ledger import Ledger, open_ledger
from blocks.ledger import files as files_module
from blocks.ledger.query import run_query
from blocks.store import open_store
from tasks.collect.segments import cut_segments
from tasks.keep.compact import Limits, compact
from tasks.keep.sweep import sweep_orphans
from tests.ledger_rows import Case, made_unit, make_run
from tests.s3 import Faults
from tests.s3 import bucket_url as bucket_url
from tests.s3 import faults as faults
from tests.s3 import s3_server as s3_server
from tests.tasks.keep.conftest import cut_runs, everything, files_of, live


def on_a_machine(root: Path, database: Path, bucket_url: str) -> Ledger:
    root.mkdir()
    return open_ledger(f"sqlite:///{database}", root / "results", open_store(bucket_url, root / "store"))


@pytest.fixture
def ledger(tmp_path: Path, bucket_url: str) -> Iterator[Ledger]:
    opened = on_a_machine(tmp_path / "one", tmp_path / "ledger.db", bucket_url)
    yield opened
    opened.close()


@pytest.fixture
def other(tmp_path: Path, bucket_url: str, ledger: Ledger) -> Iterator[Ledger]:
    """The same ledger, seen from a machine that has no copies."""
    opened = on_a_machine(tmp_path / "two", tmp_path / "ledger.db", bucket_url)
    yield opened
    opened.close()


def names(ledger: Ledger) -> set[str]:
    assert ledger.store.bucket is not None
    return {found.name for found in ledger.store.bucket.names("results/")}


def test_what_one_machine_cuts_and_compacts_another_reads(ledger: Ledger, other: Ledger) -> None:
    cut_runs(ledger, 2)
    before = everything(ledger)
    assert everything(other) == before
    assert names(ledger) == {f"results/{s.path}" for kind in ("results", "metrics") for s in live(ledger, kind)}
    assert len(compact(other, Limits(files=2))) == 2
    shutil.rmtree(ledger.results)
    assert everything(ledger) == before


def test_bundles_that_wait_are_read_from_the_bucket_too(ledger: Ledger, other: Ledger) -> None:
    make_run(ledger, [made_unit("u", [Case("S.t")])])
    assert run_query(other, "SELECT test FROM results") == run_query(ledger, "SELECT test FROM results") != []
    assert cut_segments(other, everything=True) == 1


def test_a_segment_that_was_changed_in_the_bucket_is_refused(ledger: Ledger, other: Ledger) -> None:
    cut_runs(ledger, 1)
    (segment,) = live(ledger)
    bucket = ledger.store.bucket
    assert bucket is not None
    bucket.delete(f"results/{segment.path}")
    bucket.put(f"results/{segment.path}", b"x" * segment.bytes)
    with pytest.raises(TrustError, match="does not have its digest"):
        run_query(other, "SELECT * FROM results")
    assert files_of(other) == []
    bucket.delete(f"results/{segment.path}")
    with pytest.raises(TrustError, match="is not in"):
        run_query(other, "SELECT * FROM results")


def test_a_cut_whose_upload_fails_loses_nothing(
    ledger: Ledger, faults: Faults, bucket_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run(ledger, [made_unit("u", [Case("S.t")])])
    before = run_query(ledger, "SELECT * FROM all_results")
    object.__setattr__(ledger.store.bucket, "patience_seconds", 0.5)
    faults.script("PUT", *["503"] * 1000)
    with pytest.raises(LedgerError, match="could not put"):
        cut_segments(ledger, everything=True)
    faults.script("PUT")
    assert (live(ledger), names(ledger), files_of(ledger)) == ([], set(), [])
    assert run_query(ledger, "SELECT * FROM all_results") == before
    assert cut_segments(ledger, everything=True) == 1
    assert run_query(ledger, "SELECT * FROM all_results") == before


def test_copies_go_and_come_again(ledger: Ledger, faults: Faults) -> None:
    cut_runs(ledger, 2)
    before = everything(ledger)
    for path in files_of(ledger):
        os.utime(path, (time.time() - 7200, time.time() - 7200))
    assert copies.trim(ledger.results, most_bytes=0) == 4
    assert everything(ledger) == before
    faults.asked.clear()
    assert everything(ledger) == before
    assert not faults.asked  # all of it is here again


def test_a_sweep_takes_from_the_bucket_what_nobody_names(ledger: Ledger) -> None:
    cut_runs(ledger, 2)
    before = everything(ledger)
    bucket = ledger.store.bucket
    assert bucket is not None
    bucket.put("results/kind=results/stray.parquet", b"garbage")
    compact(ledger, Limits(files=2))
    assert sweep_orphans(ledger) == []
    assert len(names(ledger)) == 7
    swept = sweep_orphans(ledger, older_than_seconds=-5, grace_seconds=0)
    assert ledger.results / "kind=results/stray.parquet" in swept
    assert len(swept) == 5
    assert len(names(ledger)) == 2
    assert everything(ledger) == before


def test_a_file_that_took_too_long_to_count_never_does(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    make_run(ledger, [made_unit("u", [Case("S.t")])])
    monkeypatch.setattr(files_module, "SLOWEST_SECONDS", -1.0)
    with pytest.raises(LedgerError, match="too long ago"):
        cut_segments(ledger, everything=True)
    assert (live(ledger), names(ledger)) == ([], set())
