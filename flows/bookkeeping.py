"""What Prefect is told about a run: stages as task runs, progress and summary as artifacts.

Bookkeeping and nothing else: no decision is read back from Prefect, and none of this may hold up the work. A stage
starts its work first and tells Prefect beside it; an artifact that cannot be written within a few seconds is left
out. So a server that is slow or gone costs pictures, not tests.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, TypeVar
from uuid import UUID

from prefect import task
from prefect.artifacts import (
    acreate_markdown_artifact,
    acreate_progress_artifact,
    acreate_table_artifact,
    aupdate_progress_artifact,
)
from prefect.logging import get_run_logger

from blocks.lease import OUTCOMES
from flows.conclude import Conclusion
from tasks.run.watch import Watch

Made = TypeVar("Made")

PERIOD_SECONDS = 5.0
"""How often the progress artifact is brought up to date at most."""
CALL_SECONDS = 4.0
"""What one call to Prefect may take before it is given up."""
LINGER_SECONDS = 2.0
"""How long a stage's task run may take to close after its work has ended."""


async def prefect_stage(name: str, function: Callable[..., Awaitable[Made]], *arguments: Any) -> Made:
    """Run the function and show it as a task run of that name.

    The task run only watches the work, which starts at once and ends with its own result or error: Prefect's engine
    may wait for a server. Cancelling the stage cancels the work.
    """
    work = asyncio.ensure_future(function(*arguments))

    @task(name=name, task_run_name=name, persist_result=False)
    async def shown() -> None:
        # Shielded: that Prefect gives up on the task run must not end the work.
        await asyncio.shield(work)

    shadow = asyncio.create_task(quiet(shown()))
    try:
        return await work
    finally:
        work.cancel()
        await asyncio.wait({shadow}, timeout=LINGER_SECONDS)
        shadow.cancel()


async def quiet(told: Awaitable[Any]) -> None:
    """Await it for its traces in Prefect; its error is the work's own (raised there) or Prefect's (of no account)."""
    with contextlib.suppress(Exception):
        await told


async def attempted(call: Awaitable[Made]) -> Made | None:
    """The result of a call to Prefect, or None where it fails or takes too long; the reason goes to the log."""
    try:
        async with asyncio.timeout(CALL_SECONDS):
            return await call
    except Exception as error:  # noqa: BLE001 - whatever Prefect's client raises, the work goes on
        get_run_logger().warning("Prefect could not be told: %s", str(error) or type(error).__name__)
        return None


@contextlib.asynccontextmanager
async def progress_shown(watch: Watch) -> AsyncIterator[None]:
    """Keep a progress artifact at what `watch` says, in the background, until the block ends."""
    over = asyncio.Event()
    shown = asyncio.create_task(show_progress(watch, over))
    try:
        yield
    finally:
        over.set()
        await asyncio.wait({shown}, timeout=LINGER_SECONDS)
        shown.cancel()


async def show_progress(watch: Watch, over: asyncio.Event) -> None:
    """Write the artifact when something has changed, at most every few seconds, and once more when it is over."""
    artifact: UUID | None = None
    told: tuple[float, str] | None = None
    last = False
    while not last:
        last = over.is_set()
        now = (share(watch), sentence(watch))
        if artifact is None:
            artifact = await attempted(made_artifact(*now))
        elif now != told:
            await attempted(updated_artifact(artifact, *now))
        told = now
        if not last:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PERIOD_SECONDS):
                    await over.wait()


async def made_artifact(percent: float, text: str) -> UUID:
    made: UUID = await acreate_progress_artifact(progress=percent, description=text)
    return made


async def updated_artifact(artifact: UUID, percent: float, text: str) -> None:
    await aupdate_progress_artifact(artifact_id=artifact, progress=percent, description=text)


def share(watch: Watch) -> float:
    """Percent of the planned units that have ended; 0 before there is a plan."""
    return round(100.0 * watch.finished / watch.planned, 1) if watch.planned else 0.0


def sentence(watch: Watch) -> str:
    """What the run is at, in one line of Markdown."""
    parts = [f"**{watch.phase}**" + (f": {watch.note}" if watch.note else "")]
    if watch.planned:
        parts.append(f"{watch.finished} of {watch.planned} units")
    if watch.outcomes:
        parts.append(", ".join(f"{count} {outcome}" for outcome, count in watch.outcomes.most_common()))
    left = watch.left_seconds()
    if left is not None:
        parts.append(f"about {left / 60:.0f} min left" if left > 90 else f"about {left:.0f} s left")
    return " · ".join(parts)


async def summary_written(conclusion: Conclusion) -> None:
    """The end of a run as artifacts: the sentence with the report's place, and the figures as a table."""
    report = f"\n\nReport: `{conclusion.report}` (on the machine that ran this)" if conclusion.report else ""
    text = f"# {conclusion.sentence}\n\nRun `{conclusion.run}`: `commonfleet show {conclusion.run}`{report}\n"
    await acreate_markdown_artifact(text, key=f"{key(conclusion.run)}-summary", description=conclusion.sentence)
    rows = table(conclusion.summary)
    if rows:
        await acreate_table_artifact(rows, key=f"{key(conclusion.run)}-figures", description="Units and tests by suite")


def key(run: str) -> str:
    """An artifact's key: small letters, digits and dashes."""
    return "".join(letter if letter.isalnum() else "-" for letter in run.lower())


def table(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row per suite: its units by terminal state, then its tests by outcome (after the retries alone)."""
    results: Mapping[str, Mapping[str, int]] = summary["after_retry"]
    outcomes = [outcome for outcome in OUTCOMES if any(outcome in counted for counted in results.values())]
    return [
        {
            "suite": suite,
            **{f"units {state}": count for state, count in units.items()},
            **{outcome: results.get(suite, {}).get(outcome, 0) for outcome in outcomes},
        }
        for suite, units in summary["suites"].items()
    ]
