"""Tell the Prefect server what there is: the block of this machine, the work pool and the deployments.

A process of its own (`python -m deployments.up.register`), started by `up` once the server answers, with the
server's address in its environment: Prefect reads its settings when it is imported, and `up` itself stays small.
Run twice it changes nothing that a person has set since (a paused schedule stays paused, the block keeps its values).
"""

from __future__ import annotations

import asyncio
import datetime
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prefect import get_client
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.client.schemas.filters import FlowRunFilter, WorkPoolFilter
from prefect.client.schemas.objects import DeploymentSchedule, FlowRun, StateType
from prefect.client.schemas.schedules import CronSchedule
from prefect.client.schemas.sorting import FlowRunSort
from prefect.exceptions import ObjectNotFound
from prefect.server.schemas.schedules import CronSchedule as ServerCronSchedule
from prefect.states import Cancelled, Crashed

from blocks.home import open_home
from blocks.pools.block import THIS_MACHINE, LocalPool
from deployments.up.settings import POOL
from flows.server import write_private

PREFECT_YAML = Path(__file__).parents[1] / "prefect.yaml"
MISSED = datetime.timedelta(minutes=15)
"""A scheduled run this late was missed while nothing ran here; it is not made up for."""


def job_template(working_folder: Path) -> dict[str, Any]:
    """The work pool's template: no variables at all.

    The stock template lets any client of the API put a `command` or an `env` into a flow run, that is, run anything
    on this machine. What has no placeholder cannot be overridden.
    """
    return {
        "variables": {"type": "object", "properties": {}},
        "job_configuration": {"stream_output": True, "working_dir": str(working_folder)},
    }


async def register(working_folder: Path) -> None:
    """Make or bring up to date everything that a person sees in the UI before the first run."""
    async with get_client() as client:
        await register_block()
        await register_pool(client, working_folder)
        await tidy(client)


async def register_block() -> None:
    """The block type with its form, and one document of it for this machine."""
    await LocalPool.register_type_and_schema()
    try:
        await LocalPool.aload(THIS_MACHINE)
    except ValueError:  # Prefect's word for: there is none of that name
        await LocalPool().asave(THIS_MACHINE)


async def register_pool(client: PrefectClient, working_folder: Path) -> None:
    template = job_template(working_folder)
    about = "Flow runs as processes beside the server, started by `commonfleet up`."
    try:
        await client.read_work_pool(POOL)
        await client.update_work_pool(POOL, WorkPoolUpdate(base_job_template=template, description=about))
    except ObjectNotFound:
        await client.create_work_pool(
            WorkPoolCreate(name=POOL, type="process", base_job_template=template, description=about)
        )


async def tidy(client: PrefectClient) -> None:
    """Close what an earlier installation left open in Prefect's books. (What became of the work stands in the ledger.)

    Only this installation's worker serves the pool and it has not started yet, so nothing of the pool runs now.
    """
    pool = WorkPoolFilter.model_validate({"name": {"any_": [POOL]}})
    open_types = [StateType.PENDING, StateType.RUNNING, StateType.CANCELLING]
    for flow_run in await flow_runs(client, pool, {"state": {"type": {"any_": open_types}}}):
        message = "The installation stopped while this ran. Upkeep resumes the run itself from the ledger."
        await client.set_flow_run_state(flow_run.id, Crashed(message=message), force=True)
    before = datetime.datetime.now(datetime.UTC) - MISSED
    late = {"state": {"type": {"any_": [StateType.SCHEDULED]}}, "expected_start_time": {"before_": before}}
    for flow_run in await flow_runs(client, pool, late):
        if flow_run.auto_scheduled:
            message = "Its time passed while the installation was stopped."
            await client.set_flow_run_state(flow_run.id, Cancelled(message=message), force=True)


async def flow_runs(client: PrefectClient, pool: WorkPoolFilter, wanted: dict[str, Any]) -> list[FlowRun]:
    """Flow runs of the pool, at most the 200 that one page holds."""
    chosen = FlowRunFilter.model_validate(wanted)
    return list(
        await client.read_flow_runs(
            work_pool_filter=pool, flow_run_filter=chosen, sort=FlowRunSort.START_TIME_ASC, limit=200
        )
    )


def deploy() -> int:
    """Register every deployment of prefect.yaml, as the Prefect command line does it."""
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(PREFECT_YAML)]
    return subprocess.run(command, check=False).returncode


async def registered() -> dict[str, Any]:
    """What stands on the server now, for `up` to show: each deployment with its id and its next time."""
    async with get_client() as client:
        deployments = await client.read_deployments(
            work_pool_filter=WorkPoolFilter.model_validate({"name": {"any_": [POOL]}})
        )
    return {
        "deployments": [
            {"name": deployment.name, "id": str(deployment.id), "next": await next_time(deployment.schedules)}
            for deployment in deployments
        ]
    }


async def next_time(schedules: Sequence[DeploymentSchedule]) -> str | None:
    """When the first active cron schedule is due next, in UTC; None without one."""
    for schedule in schedules:
        if schedule.active and isinstance(schedule.schedule, CronSchedule):
            cron = ServerCronSchedule(cron=schedule.schedule.cron, timezone=schedule.schedule.timezone or "UTC")
            moments = await cron.get_dates(1)
            return f"{moments[0].astimezone(datetime.UTC):%Y-%m-%d %H:%M} UTC"
    return None


def main() -> int:
    home = open_home()
    asyncio.run(register(home.prefect / "work"))
    code = deploy()
    if code == 0:
        write_private(home.prefect / "registered.json", json.dumps(asyncio.run(registered())))
    return code


if __name__ == "__main__":
    sys.exit(main())
