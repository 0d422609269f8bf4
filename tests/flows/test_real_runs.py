"""Real runs under the real installation: by form, by schedule and from a terminal; cancelled, orphaned, unserved."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flows.request import Suite
from flows.server import running_server
from tests.flows.conftest import Installation, until
from tests.flows.gated import SUITES, names

pytestmark = pytest.mark.prefect


@pytest.fixture
def terminals() -> Iterator[list[subprocess.Popen[str]]]:
    """What was started in terminals; ended with the test."""
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        process.kill()
        process.wait()


def in_terminal(installation: Installation, *arguments: str) -> subprocess.Popen[str]:
    program = Path(sys.executable).with_name("commonfleet")
    return subprocess.Popen(
        [str(program), *arguments],
        env=installation.environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def artifacts(installation: Installation, flow_run: str) -> dict[str, dict[str, Any]]:
    wanted = {"artifacts": {"flow_run_id": {"any_": [flow_run]}}}
    return {row["type"]: row for row in installation.call("/api/artifacts/filter", wanted)[1]}


def task_runs(installation: Installation, flow_run: str) -> dict[str, str]:
    wanted = {"flow_runs": {"id": {"any_": [flow_run]}}}
    return {row["name"]: row["state_type"] for row in installation.call("/api/task_runs/filter", wanted)[1]}


def named(installation: Installation, flow: str, states: list[str]) -> list[dict[str, Any]]:
    """The flow runs of that flow in one of these states, newest first."""
    wanted = {
        "flows": {"name": {"any_": [flow]}},
        "flow_runs": {"state": {"type": {"any_": states}}},
        "sort": "START_TIME_DESC",
    }
    return list(installation.call("/api/flow_runs/filter", wanted)[1])


def set_slots(installation: Installation, **values: Any) -> None:
    """Change the block of this machine, as a person does in the UI."""
    _, blocks = installation.call("/api/block_documents/filter", {})
    installation.call(f"/api/block_documents/{blocks[0]['id']}", {"data": values}, method="PATCH")


def conclusion(installation: Installation, run: str) -> str:
    (row,) = installation.rows("select conclusion from runs where id = ?", run)
    return str(json.loads(row[0])["sentence"])


def overlaps(installation: Installation) -> int:
    """How often two leases had the same slot at the same time."""
    sql = """
        select count(*) from leases a join leases b on a.machine = b.machine and a.slot = b.slot and a.id < b.id
        where a.granted < b.ended and b.granted < a.ended
    """
    return int(installation.rows(sql)[0][0])


def test_a_run_from_the_form_has_its_stages_progress_figures_and_report(installation: Installation) -> None:
    flow_run = installation.asks("on-demand", suites=["libtorch", "consumer"])
    state = installation.state(flow_run)
    run = installation.newest_run()

    assert (state["type"], state["message"]) == ("COMPLETED", conclusion(installation, run))
    shown = artifacts(installation, flow_run)
    assert shown["progress"]["data"] == 100
    assert shown["progress"]["description"].startswith("**over** · 8 of 8 units")
    assert {row["suite"]: row["passed"] for row in json.loads(shown["table"]["data"])} == {"libtorch": 4, "consumer": 4}
    assert state["message"] in shown["markdown"]["data"]
    report = shown["markdown"]["data"].split("Report: `")[1].split("`")[0]
    assert run in Path(report).read_text()
    machine = installation.rows("select id from machines")[0][0]
    stages = {"build", f"unpack on {machine}", "plan", f"machine {machine}", "judge and report"}
    until(lambda: task_runs(installation, flow_run) == dict.fromkeys(stages, "COMPLETED"))


def test_runs_by_schedule_form_and_terminal_share_the_slots_and_all_end(
    installation: Installation, terminals: list[subprocess.Popen[str]]
) -> None:
    for suite in SUITES:
        installation.work.hold(suite)
    installation.work.break_benchmark()
    before = installation.newest_run()
    night = installation.asks("nightly")
    nightly = until(lambda: (newest := installation.newest_run()) != before and newest)
    second = installation.asks("nightly")
    asked = installation.asks("on-demand", suites=["inductor"])
    terminals.append(in_terminal(installation, "run", "--suite", "consumer", "--json"))
    until(lambda: len(installation.rows("select id from runs where state = 'running'")) == 3)
    installation.work.release()

    told, said = terminals[0].communicate(timeout=60)
    assert terminals[0].returncode == 0, said
    assert installation.state(asked)["type"] == "COMPLETED"
    state = installation.state(night)
    assert (state["type"], state["message"]) == ("FAILED", conclusion(installation, nightly))
    assert overlaps(installation) == 0
    refused = installation.state(second)
    assert (refused["type"], nightly in refused["message"]) == ("CANCELLED", True)
    page = named(installation, "on-demand", ["COMPLETED"])
    (ours,) = [flow_run for flow_run in page if flow_run["parameters"].get("request", {}).get("suites") == ["consumer"]]
    assert set(artifacts(installation, ours["id"])) == {"progress", "table", "markdown"}
    assert json.loads(told)["sentence"] in artifacts(installation, ours["id"])["markdown"]["data"]
    until(lambda: "judge and report" in task_runs(installation, ours["id"]))


def test_cancelling_in_the_ui_and_in_a_terminal_stops_the_slots_and_leaves_every_unit_terminal(
    installation: Installation, terminals: list[subprocess.Popen[str]]
) -> None:
    for suite in ("libtorch", "consumer"):
        installation.work.hold(suite)
    before = installation.newest_run()
    flow_run = installation.asks("on-demand", suites=["libtorch"])
    run = installation.held(before, "libtorch")
    terminals.append(in_terminal(installation, "run", "--suite", "consumer"))
    until(lambda: len(installation.rows("select id from runs where state = 'running'")) == 2)
    other = installation.newest_run()
    page = until(lambda: named(installation, "on-demand", ["RUNNING"]))[0]

    asked = time.monotonic()
    installation.call(f"/api/flow_runs/{flow_run}/set_state", {"state": {"type": "CANCELLING"}})
    terminals[0].send_signal(signal.SIGTERM)
    until(lambda: not installation.work.running())
    assert time.monotonic() - asked < 15

    assert installation.state(flow_run)["type"] == "CANCELLED"
    _, said = terminals[0].communicate(timeout=30)
    assert (terminals[0].returncode, "was cancelled" in said) == (1, True)
    assert installation.state(page["id"])["type"] == "CANCELLED"
    for identity in (run, other):
        assert installation.run_state(identity) == "cancelled"
        assert not installation.rows("select name from units where run = ? and state != 'terminal'", identity)


def test_a_server_that_hangs_and_then_dies_costs_no_work(
    installation: Installation, terminals: list[subprocess.Popen[str]]
) -> None:
    for suite in ("libtorch", "consumer"):
        installation.work.hold(suite)
    before = installation.newest_run()
    flow_run = installation.asks("on-demand", suites=["libtorch"], slots=1)
    run = until(lambda: (newest := installation.newest_run()) != before and newest)
    terminals.append(in_terminal(installation, "run", "--suite", "consumer", "--slots", "1"))
    installation.held(run, "consumer")
    server = installation.address
    os.kill(server.pid, signal.SIGSTOP)
    installation.work.release()
    began = time.monotonic()

    until(lambda: installation.run_state(run) == "complete", seconds=20)
    _, said = terminals[0].communicate(timeout=30)
    assert terminals[0].returncode == 0, said
    assert time.monotonic() - began < 20
    assert installation.work.ended("libtorch") == names("libtorch")
    assert installation.work.ended("consumer") == names("consumer")
    os.kill(server.pid, signal.SIGKILL)
    until(lambda: installation.address.pid != server.pid and running_server(installation.home))
    # The flow's own process has waited for it, and tells it the end.
    assert installation.state(flow_run)["message"] == conclusion(installation, run)


def test_a_run_whose_driver_is_killed_is_finished_by_upkeep_and_nothing_runs_twice(
    installation: Installation,
) -> None:
    installation.work.hold("inductor")
    before = installation.newest_run()
    flow_run = installation.asks("on-demand", suites=["inductor"])
    run = installation.held(before, "inductor")
    killed = installation.driver(run)

    os.kill(killed, signal.SIGKILL)
    until(lambda: installation.driver(run) != killed, seconds=30)
    assert installation.driver(run) == installation.record.children["upkeep"].pid
    installation.work.release()

    until(lambda: installation.run_state(run) == "complete", seconds=30)
    assert installation.work.ended("inductor") == names("inductor")
    assert installation.state(flow_run)["type"] == "CRASHED"


@pytest.mark.parametrize(("values", "code", "slots"), [({"state": "closed"}, 2, set()), ({"slots": 1}, 0, {0})])
def test_a_run_in_a_terminal_keeps_to_what_the_machine_s_block_says(
    installation: Installation, values: dict[str, Any], code: int, slots: set[int]
) -> None:
    before = installation.newest_run()
    set_slots(installation, **values)
    try:
        terminal = in_terminal(installation, "run", "--suite", "libtorch")
        _, said = terminal.communicate(timeout=60)
    finally:
        set_slots(installation, slots=0, state="open")
    assert terminal.returncode == code, said
    if code:
        assert "pool is closed" in said
        assert installation.newest_run() == before
    used = {slot for (slot,) in installation.rows("select slot from leases where run = ?", installation.newest_run())}
    assert code or used == slots


def test_the_work_of_these_tests_has_the_suites_of_the_forms() -> None:
    assert set(SUITES) == {suite.value for suite in Suite}
