"""What happens to an installation when things die: components, the whole, and on purpose."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from deployments.up import database, leftovers
from flows.server import running_server
from tests.flows.conftest import START, Installation

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
    environment = {**os.environ, "COMMONFLEET_HOME": str(installation.home.root)}
    second = subprocess.run(
        [sys.executable, "-c", START, str(installation.port)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert second.returncode != 0
    assert f"process {installation.process.pid}" in second.stderr
    assert installation.call("/api/health", auth="")[0] == 200


@pytest.mark.parametrize("role", ["database", "server", "worker"])
def test_a_component_that_dies_is_started_again(installation: Installation, role: str) -> None:
    before = installation.record.children[role]
    os.kill(before.pid, signal.SIGKILL)
    until = time.monotonic() + 60
    while time.monotonic() < until:
        after = installation.record.children.get(role)
        back = after is not None and after != before and running_server(installation.home) is not None
        # The server has found its database again, too.
        if back and installation.call("/api/deployments/filter", {})[0] == 200:
            return
        time.sleep(0.2)
    raise AssertionError(f"{role} did not come back: {installation.said()}")


def test_what_a_killed_one_left_behind_is_ended_and_its_database_goes_on(installation: Installation) -> None:
    mark = installation.deployment("nightly")["id"]
    record = installation.record
    place = database.locate(installation.home)
    installation.ended(signal.SIGKILL)
    assert set(record.children) == {"database", "server", "worker", "upkeep"}
    assert len(installation.processes(record)) >= 4  # that they outlived it is what the next start must deal with
    installation.start()
    assert installation.processes(record) == []
    assert "left behind by an earlier `up`" in installation.said()
    assert installation.deployment("nightly")["id"] == mark
    assert database.postmaster(place) == installation.record.children["database"].pid


def test_ctrl_c_leaves_no_process_behind(installation: Installation) -> None:
    record = installation.record
    place = database.locate(installation.home)
    assert installation.ended(signal.SIGINT) < 20
    assert "Everything is stopped." in installation.said()
    assert installation.processes(record) == []
    assert database.postmaster(place) is None
    assert not (place.data / "postmaster.pid").exists()  # PostgreSQL removes it when it has closed its files
    assert running_server(installation.home) is None
    assert leftovers.read_record(installation.home) is None
