"""One real installation (database, Prefect server, worker, upkeep) for all tests of this folder."""

from __future__ import annotations

import base64
import contextlib
import inspect
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from blocks.home import Home, open_home
from deployments.up.leftovers import Record, marked, read_record
from flows.server import ServerAddress, read_address
from tests.flows.gated import PASSES, Work, gated_work

START = (
    "import asyncio, sys; from blocks.home import open_home; from deployments.up.installation import up; "
    "asyncio.run(up(open_home(), ui_port=int(sys.argv[1])))"
)


@dataclass
class Installation:
    """A `commonfleet up` as a real process, over several lives of it."""

    home: Home
    port: int
    output: Path
    work: Work
    process: subprocess.Popen[bytes] | None = None
    seconds: list[float] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        """What a process of this installation, or a shell beside it, has."""
        return {**os.environ, "COMMONFLEET_HOME": str(self.home.root), "COMMONFLEET_CATALOG": str(self.work.catalog)}

    def start(self) -> None:
        """Start it and wait until it says that it is up."""
        began = time.monotonic()
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-c", START, str(self.port)], env=self.environment, stdout=output, stderr=output
            )
        while "Ctrl-C" not in self.said():
            assert self.process.poll() is None, self.said()
            assert time.monotonic() - began < 150, self.said()
            time.sleep(0.1)
        self.seconds.append(time.monotonic() - began)

    def said(self) -> str:
        return self.output.read_text()

    def ended(self, number: signal.Signals) -> float:
        """Send the signal and wait for the process of `up`; gives the seconds that it took."""
        assert self.process
        began = time.monotonic()
        self.process.send_signal(number)
        self.process.wait(60)
        self.process = None
        return time.monotonic() - began

    @property
    def record(self) -> Record:
        record = read_record(self.home)
        assert record
        return record

    @property
    def address(self) -> ServerAddress:
        address = read_address(self.home)
        assert address
        return address

    def call(
        self, path: str, body: Any = None, *, auth: str | None = None, method: str | None = None
    ) -> tuple[int, Any]:
        """A call of the API as any client makes it: status and body."""
        credential = self.address.auth if auth is None else auth
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", method=method)
        request.add_header("Content-Type", "application/json")
        if credential:
            request.add_header("Authorization", "Basic " + base64.b64encode(credential.encode()).decode())
        try:
            with urllib.request.urlopen(request, None if body is None else json.dumps(body).encode(), 20) as response:
                content = response.read()
                status = response.status
        except urllib.error.HTTPError as error:
            status, content = error.code, error.read()
        try:
            return status, json.loads(content)
        except ValueError:
            return status, content.decode(errors="replace")

    def asks(self, deployment: str, **parameters: Any) -> str:
        """Start a deployment as the UI's form does; gives the flow run's id."""
        path = f"/api/deployments/{self.deployment(deployment)['id']}/create_flow_run"
        status, run = self.call(path, {"parameters": parameters})
        assert status in (200, 201), run
        return str(run["id"])

    def flow_run(self, identity: str) -> dict[str, Any]:
        return dict(self.call(f"/api/flow_runs/{identity}")[1])

    def state(self, identity: str, *, seconds: float = 60) -> dict[str, Any]:
        """The state that the flow run ends in."""
        ended = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
        return dict(
            until(lambda: (state := self.flow_run(identity)["state"])["type"] in ended and state, seconds=seconds)
        )

    def rows(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        """What the ledger's records say."""
        with contextlib.closing(sqlite3.connect(f"file:{self.home.ledger}?mode=ro", uri=True)) as ledger:
            return ledger.execute(sql, values).fetchall()

    def newest_run(self) -> str:
        """The run that was opened last."""
        rows = self.rows("select id from runs order by created desc limit 1") if self.home.ledger.exists() else []
        return str(rows[0][0]) if rows else ""

    def held(self, before: str, suite: str) -> str:
        """Wait until the run after `before` has all that it can end of the held suite; gives its id."""
        run = until(lambda: (newest := self.newest_run()) != before and newest)
        sql = "select name from units where run = ? and state = 'terminal' and suite = ?"
        until(lambda: len(self.rows(sql, run, suite)) == PASSES and self.work.running())
        return str(run)

    def run_state(self, run: str) -> str:
        return str(self.rows("select state from runs where id = ?", run)[0][0])

    def driver(self, run: str) -> int:
        """The process that drives the run."""
        return int(self.rows("select driver from runs where id = ?", run)[0][0].split(":")[1])

    def deployment(self, name: str) -> dict[str, Any]:
        _, found = self.call("/api/deployments/filter", {"deployments": {"name": {"any_": [name]}}})
        assert len(found) == 1
        return dict(found[0])

    def processes(self, record: Record) -> list[int]:
        """What still runs of the installation that this record describes."""
        found = (*marked(record.mark, runners=True), *record.children.values())
        return [process.pid for process in found if alive_now(process.pid)]


def until(condition: Callable[[], Any], *, seconds: float = 60.0) -> Any:
    """Wait until it gives something true, and return that."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.1)
    raise AssertionError(f"it did not come true within {seconds} s: {inspect.getsource(condition).strip()}")


def alive_now(pid: int) -> bool:
    from blocks.process import identify

    return identify(pid) is not None


@pytest.fixture(scope="session")
def _installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    home = open_home(tmp_path_factory.mktemp("operator") / "home")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    made = Installation(home, port, home.root.parent / "output", gated_work(home.root.parent / "work"))
    try:
        yield made
    finally:
        if made.process:
            made.ended(signal.SIGINT)
        outside = home.prefect / "database-folder"
        if outside.exists():
            shutil.rmtree(outside.read_text().strip())


@pytest.fixture
def installation(_installation: Installation) -> Iterator[Installation]:
    """The running installation; started again where a test has stopped it."""
    if _installation.process is None:
        _installation.start()
    yield _installation
    _installation.work.release()
