"""The picture of a run: what was delivered, and how long the rest may take."""

from __future__ import annotations

import time

import pytest

from tasks.run.watch import Watch
from tests.tasks.collect.conftest import finished


def part(*records: dict[str, object]) -> dict[str, object]:
    return {"records": list(records)}


def test_a_part_counts_its_units_and_their_results_in_company() -> None:
    watch = Watch(planned=4, planned_seconds=40.0)
    alone = finished("u2", "passed")["attempts"][0] | {"mode": "alone", "ordinal": 2}
    second = finished("u2", "failed")
    watch.delivered(
        part(finished("u1", "passed", "skipped"), second | {"attempts": [*second["attempts"], alone]}), 20.0
    )
    assert (watch.finished, watch.finished_seconds) == (2, 20.0)
    assert watch.outcomes == {"passed": 1, "skipped": 1, "failed": 1}


def test_what_is_left_follows_how_the_estimates_have_held() -> None:
    watch = Watch(planned=4, planned_seconds=40.0)
    assert watch.left_seconds() is None
    watch.testing_since = time.monotonic() - 60
    assert watch.left_seconds() is None
    watch.delivered(part(finished("u1")), 10.0)
    assert watch.left_seconds() == pytest.approx(180, abs=2)  # 10 s of estimates took 60 s, and 30 s are left
    watch.delivered(part(finished("u2")), 35.0)
    assert watch.left_seconds() == 0


def test_a_resumed_run_shows_what_was_finished_before_and_judges_its_pace_by_its_own_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    watch = Watch(planned=4, planned_seconds=40.0)
    watch.resumed(2, 20.0)
    assert watch.finished == 2
    watch.testing_since = 100.0
    monkeypatch.setattr("time.monotonic", lambda: 105.0)
    assert watch.left_seconds() is None

    watch.delivered({"records": [{"attempts": []}]}, 10.0)

    assert watch.finished == 3
    assert watch.left_seconds() == pytest.approx(5.0)
