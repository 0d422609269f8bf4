"""What happens to an installation when things die: components, the whole, and on purpose."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from deployments.up import database, leftovers
from flows.server import is_stopping, running_server
from tests.flows.conftest import START, Installation, until
from tests.flows.gated import names

pytestmark = pytest.mark.prefect


def test_other_shells_find_the_server(installation: Installation) -> None:
    address = running_server(installation.home)
    assert address
    assert address.api_url == f"http://127.0.0.1:{installation.port}/api"


def test_a_server_that_does_not_answer_is_soon_left_alone(installation: Installation) -> None:
    os.kill(installation.address.pid, signal.SIGSTOP)
    try:
        began = time.monotonic()
        assert running_server(installation.home) is None
        assert time.monotonic() - began < 2
    finally:
        os.kill(installation.address.pid, signal.SIGCONT)


def test_a_second_one_for_the_same_folder_is_refused_naming_the_first(installation: Installation) -> None:
    assert installation.process
    second = subprocess.run(
        [sys.executable, "-c", START, str(installation.port)],
        env=installation.environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert second.returncode != 0
    assert f"process {installation.process.pid}" in second.stderr
    assert installation.call("/api/health", auth="")[0] == 200


@pytest.mark.parametrize("role", ["database", "worker"])
def test_a_component_that_dies_is_started_again(installation: Installation, role: str) -> None:
    before = installation.record.children[role]
    os.kill(before.pid, signal.SIGKILL)
    until = time.monotonic() + 60
    while time.monotonic() < until:
        after = installation.record.children.get(role)
        back = after is not None and after != before and running_server(installation.home) is not None
        # The server has found its database again, too. (That the server itself comes back: test_real_runs.py.)
        if back and installation.call("/api/deployments/filter", {})[0] == 200:
            return
        time.sleep(0.2)
    raise AssertionError(f"{role} did not come back: {installation.said()}")


def test_what_a_killed_one_left_behind_is_ended_and_its_database_and_its_run_go_on(installation: Installation) -> None:
    installation.work.hold("inductor")
    before = installation.newest_run()
    flow_run = installation.asks("on-demand", suites=["inductor"])
    run = installation.held(before, "inductor")
    mark = installation.deployment("nightly")["id"]
    record = installation.record
    place = database.locate(installation.home)
    installation.ended(signal.SIGKILL)
    assert set(record.children) == {"database", "server", "worker", "upkeep"}
    # That they outlived it is what the next start must deal with: the flow and its runners too.
    assert len(installation.processes(record)) >= 7
    installation.start()
    assert installation.processes(record) == []
    assert "left behind by an earlier `up`" in installation.said()
    assert installation.deployment("nightly")["id"] == mark
    assert database.postmaster(place) == installation.record.children["database"].pid
    assert installation.state(flow_run)["name"] == "Interrupted"
    until(lambda: installation.driver(run) == installation.record.children["upkeep"].pid)
    installation.work.release()
    until(lambda: installation.run_state(run) == "complete")
    assert installation.work.ended("inductor") == names("inductor")


def test_ctrl_c_leaves_no_process_behind_and_the_next_start_finishes_the_run(installation: Installation) -> None:
    installation.work.hold("libtorch")
    before = installation.newest_run()
    flow_run = installation.asks("on-demand", suites=["libtorch"])
    run = installation.held(before, "libtorch")
    record = installation.record
    place = database.locate(installation.home)
    assert installation.ended(signal.SIGINT) < 20
    assert "Everything is stopped." in installation.said()
    assert run in installation.said()
    assert (installation.processes(record), installation.work.running()) == ([], [])
    assert database.postmaster(place) is None
    assert not (place.data / "postmaster.pid").exists()  # PostgreSQL removes it when it has closed its files
    assert running_server(installation.home) is None
    assert leftovers.read_record(installation.home) is None
    assert installation.run_state(run) == "running"
    assert not is_stopping(installation.home)

    installation.start()
    assert installation.state(flow_run)["name"] == "Interrupted"
    installation.work.release()
    until(lambda: installation.run_state(run) == "complete")
    assert installation.work.ended("libtorch") == names("libtorch")
    deaths = installation.rows("select max(deaths) from units where run = ?", run)
    assert deaths == [(0,)]  # that we stopped it is not held against a unit
