"""Stages as task runs, progress and summary as artifacts: told to Prefect, and never waited for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flows.conclude import Conclusion
from flows.request import Request
from tasks.run.watch import Watch
from tests.flows.conftest import Installation

pytestmark = pytest.mark.prefect


@pytest.fixture
def told(installation: Installation, tmp_path: Path) -> Iterator[Installation]:
    """The installation, as the Prefect that this process talks to."""
    from prefect.settings import (
        PREFECT_API_AUTH_STRING,
        PREFECT_API_URL,
        PREFECT_HOME,
        PREFECT_SERVER_EPHEMERAL_ENABLED,
        temporary_settings,
    )

    address = installation.address
    settings = {
        PREFECT_API_URL: address.api_url,
        PREFECT_API_AUTH_STRING: address.auth,
        PREFECT_HOME: tmp_path,
        PREFECT_SERVER_EPHEMERAL_ENABLED: False,
    }
    with temporary_settings(settings):
        yield installation


def books(
    installation: Installation, path: str, count: int, where: dict[str, Any] | None = None
) -> list[dict[str, Any]]:
    """What Prefect has written down, once it is at least `count` (it records task runs in batches)."""
    for _ in range(100):
        _, rows = installation.call(path, where or {})
        if len(rows) >= count:
            return list(rows)
        time.sleep(0.1)
    raise AssertionError(f"{path} did not reach {count}: {rows}")


def named(rows: list[dict[str, Any]], name: str) -> list[str]:
    return [row["state_type"] for row in rows if row["name"] == name]


async def test_a_stage_is_one_task_run_of_its_name_with_its_result_and_its_error(told: Installation) -> None:
    from prefect import flow

    from flows.bookkeeping import prefect_stage

    async def double(number: int) -> int:
        return 2 * number

    async def broken() -> None:
        raise ZeroDivisionError("really")

    @flow(name="test-stages")
    async def stages() -> int:
        doubled = await prefect_stage("stage double", double, 21)
        with pytest.raises(ZeroDivisionError, match="really"):
            await prefect_stage("stage broken", broken)
        return doubled

    assert await stages() == 42
    for _ in range(100):
        rows = books(told, "/api/task_runs/filter", 2)
        if named(rows, "stage double") == ["COMPLETED"] and named(rows, "stage broken") == ["FAILED"]:
            break
        await asyncio.sleep(0.1)
    assert named(rows, "stage double") == ["COMPLETED"]
    assert named(rows, "stage broken") == ["FAILED"]


async def test_a_cancelled_stage_ends_its_work_before_it_returns(told: Installation) -> None:
    from prefect import flow

    from flows.bookkeeping import prefect_stage

    ended = asyncio.Event()

    async def long() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()

    @flow(name="test-cancelled")
    async def cancelled() -> bool:
        stage = asyncio.create_task(prefect_stage("long", long))
        await asyncio.sleep(0.5)
        stage.cancel()
        with pytest.raises(asyncio.CancelledError):
            await stage
        return ended.is_set()

    assert await cancelled()


async def test_progress_and_summary_are_artifacts(told: Installation, tmp_path: Path) -> None:
    from prefect import flow
    from prefect.runtime import flow_run

    from flows.bookkeeping import progress_shown, summary_written

    summary = {
        "suites": {"libtorch": {"planned": 3, "ran": 3, "skipped": 0, "not_run": 0, "lost": 0}},
        "after_retry": {"libtorch": {"passed": 10, "failed": 1}},
    }
    conclusion = Conclusion("Run_7", 0, "Nothing new is broken.", tmp_path / "report.html", summary)

    @flow(name="test-artifacts")
    async def shown() -> str:
        watch = Watch()
        async with progress_shown(watch):
            watch.at("test")
            watch.planned, watch.finished = 4, 3
        await summary_written(conclusion)
        return str(flow_run.id)

    # Artifacts of the other tests are in the same books.
    ours = {"artifacts": {"flow_run_id": {"any_": [await shown()]}}}
    rows = {row["type"]: row for row in books(told, "/api/artifacts/filter", 3, ours)}
    assert rows["progress"]["data"] == 75
    assert rows["progress"]["description"] == "**test** · 3 of 4 units"
    assert rows["markdown"]["key"] == "run-7-summary"
    assert "commonfleet show Run_7" in rows["markdown"]["data"]
    assert str(tmp_path / "report.html") in rows["markdown"]["data"]
    assert '"passed": 10' in rows["table"]["data"]


@pytest.mark.parametrize(("exit_code", "expected"), [(0, "COMPLETED"), (1, "FAILED")])
def test_a_run_ends_as_a_state_with_its_sentence(exit_code: int, expected: str) -> None:
    from flows.shown import ended

    state = ended(Conclusion("r", exit_code, "One plain sentence.", None, {}))
    assert (state.type.value, state.message) == (expected, "One plain sentence.")


@pytest.mark.parametrize(
    ("asked", "allowed", "expected"), [(0, 0, 0), (0, 3, 3), (2, 0, 2), (2, 3, 2), (8, 3, 3)], ids=str
)
def test_a_run_takes_the_smaller_number_of_slots_and_zero_is_no_limit(asked: int, allowed: int, expected: int) -> None:
    from flows.shown import limited

    assert limited(Request(slots=asked), allowed).slots == expected
