"""Planning beside the driver: cancelled, refused, orphaned, overtaken; and nothing of the plan stays behind."""

from __future__ import annotations

import gc
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from sqlalchemy import func, select, update

from blocks.errors import PlanError, StaleDriver
from blocks.home import open_home
from blocks.ledger import Ledger
from blocks.ledger.schema import runs, units
from blocks.plan import Environment
from flows.drive import ledger_of
from flows.planning import PLANNING, Planning, write_down_plan
from flows.request import Request
from flows.stages import desired
from tasks.beside import Beside, beside
from tasks.collect.driver import Seat, open_run
from tasks.plan.place import Unpacked
from tasks.plan.write import Planned
from tasks.run.watch import Watch
from tests.flows.test_drive import start, wait_for
from tests.small import asked, commonfleet, small_catalog, surroundings
from tests.tasks.plan.test_check import HELLO

MANY = 20_000


# -- as people meet it -------------------------------------------------------------------------------------------------


@pytest.fixture
def listing(tmp_path: Path) -> dict[str, str]:
    """A project whose tests take for ever to be listed, until there is a file `go` beside the script."""
    catalog = small_catalog(tmp_path, {}, sandbox="none")
    script = tmp_path / "project" / "slow"
    script.write_text(SLOW)
    script.chmod(0o755)
    git = ["git", "-C", str(tmp_path / "project"), "-c", "user.name=t", "-c", "user.email=t@example.org"]
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "-qm", "slow to list"], check=True)
    suite = {"kind": "gtest", "files": ["project/slow"], "memory_gib": 0.5, "retry_alone": 0}
    change(catalog, {"suites": {"commands": suite}, "builds": {"project": {"command": COMMAND}}})
    return surroundings(tmp_path, catalog)


COMMAND = ["tar", "czf", "project.tar.gz", "slow"]
SLOW = """#!/bin/sh
case "$1" in
--gtest_list_tests)
    while [ ! -e "${0%/*}/go" ]; do sleep 0.1; done
    printf 'T.\\n  one\\n' ;;
esac
"""


def change(catalog: Path, changes: Mapping[str, Mapping[str, Any]]) -> None:
    """Change entries of a catalog; a suite that is given is given whole."""
    file = catalog / "catalog.yaml"
    document = yaml.safe_load(file.read_text())
    for kind, entries in changes.items():
        for name, entry in entries.items():
            document[kind][name] = entry if kind == "suites" else {**document[kind][name], **entry}
    file.write_text(yaml.safe_dump(document))


def planners(env: Mapping[str, str]) -> list[str]:
    """The processes that plan for this installation."""
    shown = subprocess.run(["ps", "-ww", "-eo", "pid,args"], capture_output=True, text=True).stdout
    found = [line.split()[0] for line in shown.splitlines() if line.endswith(f"main() {PLANNING}")]
    return [pid for pid in found if f"COMMONFLEET_HOME={env['COMMONFLEET_HOME']}" in environment_of(pid)]


def is_listing(root: Path) -> bool:
    """Whether the tests of the project below `root` are being listed."""
    shown = subprocess.run(["ps", "-ww", "-eo", "args"], capture_output=True, text=True).stdout
    return any("--gtest_list_tests" in line and str(root) in line for line in shown.splitlines())


def environment_of(pid: str) -> list[str]:
    try:
        return Path(f"/proc/{pid}/environ").read_text().split("\0")
    except OSError:
        return []  # it has ended meanwhile


def test_a_run_that_is_cancelled_while_it_is_planned_ends_at_once(tmp_path: Path, listing: dict[str, str]) -> None:
    driver = start(listing, "run", "--profile", "small")
    wait_for(lambda: is_listing(tmp_path) and planners(listing))

    driver.send_signal(signal.SIGINT)
    driver.communicate(timeout=15)

    assert asked("show", "latest", env=listing)["state"] == "cancelled"
    assert planners(listing) == []


def test_a_killed_driver_leaves_no_planner_and_the_next_driver_plans(tmp_path: Path, listing: dict[str, str]) -> None:
    driver = start(listing, "run", "--profile", "small")
    wait_for(lambda: is_listing(tmp_path) and planners(listing))

    driver.kill()
    driver.communicate()

    wait_for(lambda: not planners(listing), seconds=10)
    for script in tmp_path.glob("home/machine/builds/**/slow"):
        script.with_name("go").touch()
    commonfleet("resume", "latest", env=listing)
    shown = asked("show", "latest", env=listing)
    assert (shown["state"], shown["units"]["planned"]) == ("complete", 1)


def test_a_plan_that_cannot_be_carried_out_is_refused_in_words(tmp_path: Path) -> None:
    env = surroundings(tmp_path, small_catalog(tmp_path, {"true": ["true"]}, memory_gib=1 << 20))

    refused = commonfleet("run", "--profile", "small", env=env)

    assert refused.returncode == 2
    assert "The plan cannot be carried out here" in refused.stderr
    assert "Nothing was started." in refused.stderr
    assert "Install what is missing" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_driver_needs_no_duckdb() -> None:
    said = "import flows.drive, sys; sys.exit('duckdb' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", said]).returncode == 0


# -- by itself ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = ledger_of(open_home(tmp_path / "home"))
    yield opened
    opened.close()


@pytest.fixture
def planning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Planning:
    """A suite of one binary, whose tests are a unit each."""
    catalog = small_catalog(tmp_path, {})
    suite = {"kind": "gtest", "files": ["bin"], "target_seconds": 1, "default_seconds_per_test": 1, "start_seconds": 0}
    change(catalog, {"suites": {"commands": suite}})
    monkeypatch.setenv("COMMONFLEET_CATALOG", str(catalog))
    (tmp_path / "build").mkdir()
    (tmp_path / "build" / "bin").touch()
    place = Unpacked(Environment("here", "project", "sha256:" + "0" * 64), tmp_path / "build")
    want = desired(Request(profile="small"))
    return Planning(want, {}, {"here": place}, {}, "machine", HELLO, 2, tmp_path / "discovery")


async def listed(request: dict[str, Any]) -> Mapping[str, Any]:
    """What a machine answers that lists the binary's tests."""
    assert (request["kind"], request["binary"]) == ("gtest", "bin")
    return {"tests": [f"Suite.test{number}" for number in range(MANY)], "disabled": [], "error": None}


async def planned_beside(planning: Planning, other: Beside, ledger: Ledger, seat: Seat, watch: Watch) -> Planned:
    return await write_down_plan(planning, listed, other, ledger, seat, watch)


async def test_what_a_driver_keeps_of_a_plan_does_not_grow_with_it(planning: Planning, ledger: Ledger) -> None:
    seat, watch = open_run(ledger, "on_demand", {}), Watch()
    async with beside(PLANNING) as other:
        gc.collect()
        before = sys.getallocatedblocks()
        plan = await planned_beside(planning, other, ledger, seat, watch)
    gc.collect()
    kept = sys.getallocatedblocks() - before

    assert (plan.units, plan.estimate_seconds) == (MANY, MANY)
    assert kept < MANY / 4  # a unit alone takes some ten
    assert watch.note == "commands: 1 of 1 files listed"
    with ledger.read() as connection:
        assert connection.scalar(select(func.count()).select_from(units)) == MANY


async def test_a_driver_that_was_replaced_meanwhile_writes_no_plan(planning: Planning, ledger: Ledger) -> None:
    seat = open_run(ledger, "on_demand", {})
    with ledger.write() as connection:
        connection.execute(update(runs).values(epoch=2))
    async with beside(PLANNING) as other:
        with pytest.raises(StaleDriver, match="ours was 1"):
            await planned_beside(planning, other, ledger, seat, Watch())
    with ledger.read() as connection:
        assert connection.scalar(select(func.count()).select_from(units)) == 0


async def test_a_plan_without_any_unit_is_refused_as_such(planning: Planning, ledger: Ledger) -> None:
    async def none_of(request: dict[str, Any]) -> Mapping[str, Any]:
        return {"tests": [], "disabled": [], "error": None}

    async with beside(PLANNING) as other:
        with pytest.raises(PlanError, match="Nothing would run") as caught:
            await write_down_plan(planning, none_of, other, ledger, open_run(ledger, "on_demand", {}), Watch())
    assert "filters" in caught.value.do
