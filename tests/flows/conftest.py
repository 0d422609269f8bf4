"""One real installation (database, Prefect server, worker, upkeep) for all tests of this folder."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from blocks.home import Home, open_home
from deployments.up.leftovers import Record, marked, read_record
from flows.server import ServerAddress, read_address

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
    process: subprocess.Popen[bytes] | None = None
    seconds: list[float] = field(default_factory=list)

    def start(self) -> None:
        """Start it and wait until it says that it is up."""
        began = time.monotonic()
        environment = {**os.environ, "COMMONFLEET_HOME": str(self.home.root)}
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-c", START, str(self.port)], env=environment, stdout=output, stderr=output
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

    def call(self, path: str, body: Any = None, *, auth: str | None = None) -> tuple[int, Any]:
        """A call of the API as any client makes it: status and body."""
        credential = self.address.auth if auth is None else auth
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}")
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

    def deployment(self, name: str) -> dict[str, Any]:
        _, found = self.call("/api/deployments/filter", {"deployments": {"name": {"any_": [name]}}})
        assert len(found) == 1
        return dict(found[0])

    def processes(self, record: Record) -> list[int]:
        """What still runs of the installation that this record describes."""
        return [process.pid for process in (*marked(record.mark), *record.children.values()) if alive_now(process.pid)]


def alive_now(pid: int) -> bool:
    from blocks.process import identify

    return identify(pid) is not None


@pytest.fixture(scope="session")
def _installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    home = open_home(tmp_path_factory.mktemp("operator") / "home")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    made = Installation(home, port, home.root.parent / "output")
    try:
        yield made
    finally:
        if made.process:
            made.ended(signal.SIGINT)
        outside = home.prefect / "database-folder"
        if outside.exists():
            shutil.rmtree(outside.read_text().strip())


@pytest.fixture
def installation(_installation: Installation) -> Installation:
    """The running installation; started again where a test has stopped it."""
    if _installation.process is None:
        _installation.start()
    return _installation
