"""Commands that drive a run from a terminal: with progress, under Prefect when the operator's server is there."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from blocks.errors import CommonfleetError, StaleDriver
from blocks.home import Home, open_home
from deployments.cli.progress import shown
from flows.conclude import Conclusion
from flows.drive import drive, ledger_of, plainly, resume
from flows.request import Request
from flows.server import TERMINAL, ServerAddress, prefect_environment, running_server
from tasks.run.watch import Watch


def drive_here(request: Request, *, flow: str, as_json: bool) -> int:
    """A new run, from this terminal."""
    home = open_home()
    return _finish(home, as_json, lambda watch: _with_prefect(home, request, flow, watch))


def resume_here(run: str, *, as_json: bool) -> int:
    """An open run, taken over by this terminal."""
    from tasks.publish.summary import resolve_run

    home = open_home()
    ledger = ledger_of(home)
    run = resolve_run(ledger, run)
    ledger.close()
    return _finish(home, as_json, lambda watch: resume(run, home=home, watch=watch))


def plan_here(profile: str, *, as_json: bool) -> int:
    """The plan of a profile, made and shown, not recorded."""
    from deployments.cli.planning import plan_only
    from tasks.plan.summary import plan_summary

    home = open_home()
    watch = Watch()
    with shown(watch, quiet=as_json):
        made = asyncio.run(plan_only(home, Request(profile=profile), watch))
    summary = plan_summary(made)
    if as_json:
        print(json.dumps(summary, indent=1))
        return 0
    from deployments.cli.tables import print_plan

    print_plan(summary)
    return 0


async def _with_prefect(home: Home, request: Request, flow: str, watch: Watch) -> Conclusion:
    """Drive under the operator's Prefect server when it is up, plainly when it is not."""
    address = await asyncio.to_thread(running_server, home)
    if address is None:
        return await drive(request, home=home, flow=flow, watch=watch, stage=plainly)
    return await _as_flow_run(address, home, request, flow, watch)


async def _as_flow_run(address: ServerAddress, home: Home, request: Request, flow: str, watch: Watch) -> Conclusion:
    # Prefect reads its settings when it is imported, so they are set before that.
    os.environ.update(prefect_environment(address) | TERMINAL)
    from flows.from_terminal import drive_as_flow

    return await drive_as_flow(request, home=home, name=flow, watch=watch)


def _finish(home: Home, as_json: bool, start: Callable[[Watch], Awaitable[Conclusion]]) -> int:
    """Drive to the end with progress shown, then print what came of it."""
    from deployments.cli.tables import print_conclusion

    watch = Watch()
    try:
        with shown(watch, quiet=as_json):
            conclusion = asyncio.run(_interruptible(start, watch))
    except (asyncio.CancelledError, KeyboardInterrupt):
        told = f"The run {watch.run} was cancelled: its machines are stopped and every unit has a terminal state."
        print(told if watch.run else "Stopped before a run was opened.", file=sys.stderr)
        return 1
    except CommonfleetError as error:
        if watch.run and not isinstance(error, StaleDriver):
            error.do = " ".join(filter(None, [error.do, f"The run is {watch.run}: `commonfleet resume {watch.run}`."]))
        raise
    if as_json:
        print(json.dumps(_as_json(conclusion), indent=1))
    else:
        print_conclusion(conclusion)
    return conclusion.exit_code


async def _interruptible(start: Callable[[Watch], Awaitable[Conclusion]], watch: Watch) -> Conclusion:
    """SIGTERM stops a run as Ctrl-C does. Ctrl-C itself is turned into a cancel by asyncio.run."""
    us = asyncio.current_task()
    assert us is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, us.cancel)
    return await start(watch)


def _as_json(conclusion: Conclusion) -> dict[str, Any]:
    return {
        "run": conclusion.run,
        "exit_code": conclusion.exit_code,
        "sentence": conclusion.sentence,
        "report": str(conclusion.report) if conclusion.report else None,
        "summary": conclusion.summary,
    }
