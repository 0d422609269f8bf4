"""Sequencers that are killed, that race, and that are written to: no hole, and nothing twice."""

from __future__ import annotations

import multiprocessing
import os
import random
import time
from collections.abc import Callable
from pathlib import Path

from blocks.ledger import Ledger, open_ledger
from blocks.store import Store
from tasks.publish.log.findings import Audit
from tasks.publish.log.sequence import Signer, sequence_all
from tests.tasks.publish.log.conftest import event_ids, leaf_order, write_events

ROUNDS = 12
FORK = multiprocessing.get_context("fork")  # a tenth of a spawned process's time, and nothing else runs here


def _opened(url: str, root: Path) -> Ledger:
    return open_ledger(url, root / "results", Store(root / "store"))


def _sequence(url: str, root: Path, signer: Signer, seconds: float, ready: object) -> None:
    ledger = _opened(url, root)
    ready.set()  # type: ignore[attr-defined]
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if not sequence_all(ledger, signer, batch=3):
            time.sleep(0.002)
    os._exit(0)


def _write(url: str, root: Path, events: int) -> None:
    ledger = _opened(url, root)
    for first in range(0, events, 5):
        write_events(ledger, 5, first=first)
    os._exit(0)


def test_a_sequencer_that_is_killed_at_any_moment_leaves_no_hole_and_nothing_twice(
    ledger: Ledger, signer: Signer, check: Callable[..., Audit], tmp_path: Path
) -> None:
    url = ledger.engine.url.render_as_string(hide_password=False)
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    moments = random.Random(seed)
    for number in range(ROUNDS):
        write_events(ledger, 40, first=40 * number)
        ledger.close()  # a forked process must not share a connection
        ready = FORK.Event()
        victim = FORK.Process(target=_sequence, args=(url, tmp_path / "home", signer, 10.0, ready))
        victim.start()
        assert ready.wait(30)
        time.sleep(moments.uniform(0, 0.04))
        victim.kill()
        victim.join(30)
        found = check()
        assert found.good, f"seed {seed}: {found.findings}"
        assert found.size == len(leaf_order(ledger))
    sequence_all(ledger, signer)
    assert leaf_order(ledger) == event_ids(ledger)
    assert len(leaf_order(ledger)) == 40 * ROUNDS


def test_sequencers_and_writers_at_once_lose_and_repeat_nothing(
    ledger: Ledger, signer: Signer, check: Callable[..., Audit], tmp_path: Path
) -> None:
    url, root = ledger.engine.url.render_as_string(hide_password=False), tmp_path / "home"
    ledger.close()
    racers = [FORK.Process(target=_sequence, args=(url, root, signer, 1.5, FORK.Event())) for _ in range(2)]
    writers = [FORK.Process(target=_write, args=(url, root, 150)) for _ in range(2)]
    for process in (*racers, *writers):
        process.start()
    for process in (*racers, *writers):
        process.join(60)
        assert process.exitcode == 0
    sequence_all(ledger, signer)
    assert sorted(leaf_order(ledger)) == sorted(event_ids(ledger))
    assert len(set(leaf_order(ledger))) == 300
    found = check()
    assert found.good, found.findings
