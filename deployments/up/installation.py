"""`commonfleet up`: the whole installation as children of this process, until somebody stops it.

Order of starting: database, server, registration, worker and upkeep. Order of stopping: the opposite. What stops in
between is restarted; what cannot be kept running ends all of it with the end of its log.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from blocks.errors import CommonfleetError
from blocks.home import Home
from blocks.process import Process, alive, identify
from deployments.up import database as postgres
from deployments.up import leftovers, ports, settings
from deployments.up.announce import announcement, came_up
from deployments.up.schedule import check_schedule
from deployments.up.secrets import secret
from deployments.up.supervise import Component, Supervised, tail
from flows.server import ServerAddress, address_file, answers, write_address

REGISTRATION_SECONDS = 120.0
RUNNER_SECONDS = 3.0
"""What a runner gets that nobody drives (its driver was killed): what it has finished is in its spool."""


def aloud(text: str) -> None:
    """To the terminal, or at once to whoever collects our output."""
    print(text, flush=True)


async def up(
    home: Home,
    *,
    ui_port: int = 4200,
    schedule: str = "0 2 * * *",
    say: Callable[[str], None] = aloud,
) -> None:
    """Run the installation until SIGINT or SIGTERM; a second signal cuts the graces short.

    `ui_port` is where UI and API listen, on 127.0.0.1 only; `schedule` is the nightly's cron line, in UTC. Raises
    CommonfleetError when another one runs for this state folder, the port is taken, or a component cannot be kept up.
    """
    await asyncio.to_thread(check_schedule, schedule)
    home.prefect.mkdir(exist_ok=True, mode=0o700)
    lock = leftovers.hold(home)
    try:
        place = await asyncio.to_thread(postgres.locate, home)
        for line in await asyncio.to_thread(leftovers.end_leftovers, home, lambda: postgres.postmaster(place)):
            say(line)
        clean_folders(home)
        ports.check_free(ui_port)
        await until_stopped(Installation(home, place, ui_port, schedule, say))
    finally:
        os.close(lock)


def clean_folders(home: Home) -> None:
    """The folders of the children; temporary files of an installation that no longer runs are removed."""
    shutil.rmtree(settings.temporary_folder(home), ignore_errors=True)
    for folder in (settings.temporary_folder(home), home.prefect / "work", home.prefect / "logs"):
        folder.mkdir(exist_ok=True, mode=0o700)


async def until_stopped(installation: Installation) -> None:
    """Run it until it fails or somebody asks it to stop; then stop it, in any case."""
    loop, stopping = asyncio.get_running_loop(), asyncio.Event()

    def ask() -> None:
        if stopping.is_set():
            installation.hurry()
        stopping.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, ask)
    running = asyncio.create_task(installation.run())
    asked = asyncio.create_task(stopping.wait())
    try:
        await asyncio.wait({running, asked}, return_when=asyncio.FIRST_COMPLETED)
        if stopping.is_set():
            installation.say("\nStopping.")
    finally:
        for task in (running, asked):
            task.cancel()
        ended = await asyncio.gather(running, return_exceptions=True)
        await installation.stop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
    if isinstance(ended[0], Exception):
        raise ended[0]
    installation.say(await asyncio.to_thread(farewell, installation.home))


def farewell(home: Home) -> str:
    """The last words of `up`: what is left to do, and how."""
    from flows.drive import stalled  # heavy, and only needed once

    told = "Everything is stopped. The ledger keeps every run; `commonfleet up` goes on from here"
    left = stalled(home)
    if not left:
        return f"{told}."
    return f"{told} and finishes what is open: {', '.join(left)}. (Without it: `commonfleet resume RUN`.)"


class Installation:
    """The components over the life of one `up`."""

    def __init__(
        self, home: Home, place: postgres.Database, port: int, schedule: str, say: Callable[[str], None]
    ) -> None:
        self.home, self.place, self.schedule, self.say = home, place, schedule, say
        self.mark = secrets.token_hex(16)
        self.address = ServerAddress(
            api_url=settings.api_url(port),
            ui_url=settings.ui_url(port),
            auth=secret(home, "prefect-login"),
            prefect_home=str(home.prefect),
            pid=0,
            start_time=0,
        )
        self.port = port
        itself = identify(os.getpid())
        assert itself is not None, "this process is in /proc"
        # Written before the first child exists: the mark finds also a child that is not in the record yet.
        self.record = leftovers.write_record(home, leftovers.Record(itself.pid, itself.start_time, self.mark))
        self.parts: list[Supervised] = []

    def child(self, role: str, process: Process | None) -> None:
        """Keep the record of children true."""
        self.record = leftovers.write_record(self.home, leftovers.with_child(self.record, role, process))
        if role == "server" and process:
            self.address = replace(self.address, pid=process.pid, start_time=process.start_time)
            write_address(self.home, self.address)

    async def run(self) -> None:
        """Start everything in order, say so, and keep it running. Returns only by an error or a cancellation."""
        began = time.monotonic()
        await self.begin(self.database())
        await self.begin(self.server())
        registered = await self.register()
        await asyncio.gather(self.begin(self.worker()), self.begin(self.upkeep()))
        login = secret(self.home, "prefect-login")
        self.say(announcement(self.home, self.address.ui_url, login, registered, time.monotonic() - began))
        async with asyncio.TaskGroup() as group:
            for part in self.parts:
                group.create_task(part.keep())

    async def begin(self, component: Component) -> None:
        part = Supervised(component, self.child)
        self.parts.append(part)
        began = time.monotonic()
        await part.start()
        self.say(came_up(component.role, time.monotonic() - began))

    def log(self, role: str) -> Path:
        return self.home.prefect / "logs" / f"{role}.log"

    def database(self) -> Component:
        return Component(
            role="database",
            argv=postgres.command(self.place),
            # No mark: the database is known by its data folder, and must not be ended as the others are.
            environment={"PATH": os.defpath, "TZ": "UTC"},
            log=self.log("database"),
            ready=lambda: postgres.ready(self.place, self.home),
            stop=signal.SIGINT,  # PostgreSQL's fast shutdown: it does not wait for its clients to leave
            grace_seconds=5,
            account=self.place.account,
            prepare=lambda: postgres.prepare(self.place, self.home),
        )

    def server(self) -> Component:
        url = postgres.connection_url(self.place, self.home)
        return Component(
            role="server",
            argv=prefect("server", "start", "--host", "127.0.0.1", "--port", str(self.port)),
            environment=settings.server_environment(self.home, self.mark, self.port, url),
            log=self.log("server"),
            ready=lambda: asyncio.to_thread(answers, self.address),
            ready_seconds=180,  # the first start makes the tables: a quarter of a minute on an idle machine
            folder=self.home.prefect,
        )

    def worker(self) -> Component:
        log = self.log("worker")
        start = log.stat().st_size if log.exists() else 0
        arguments = ("--pool", settings.POOL, "--type", "process", "--name", "this-machine")
        return Component(
            role="worker",
            argv=prefect("worker", "start", *arguments, "--no-create-pool-if-not-found"),
            environment=settings.client_environment(self.home, self.mark, self.address, settings.WORKER),
            log=log,
            ready=lambda: asyncio.to_thread(says, log, start, "started!"),
            folder=self.home.prefect,
        )

    def upkeep(self) -> Component:
        return Component(
            role="upkeep",
            argv=(sys.executable, "-m", "deployments.up.upkeep"),
            environment=settings.ground(self.home, self.mark),
            log=self.log("upkeep"),
            ready=at_once,
            grace_seconds=leftovers.DRIVER_SECONDS,
            folder=self.home.prefect,
        )

    async def register(self) -> dict[str, Any]:
        """Tell the server what there is; gives what stands there now. Raises CommonfleetError with the reason."""
        environment = settings.client_environment(
            self.home, self.mark, self.address, {"COMMONFLEET_NIGHTLY_CRON": self.schedule}
        )
        component = Component(
            role="registration",
            argv=(sys.executable, "-m", "deployments.up.register"),
            environment=environment,
            log=self.log("registration"),
            ready=at_once,
            folder=self.home.prefect,
        )
        part = Supervised(component, self.child)
        began = time.monotonic()
        try:
            await part.start()
            assert part.child is not None
            code = await asyncio.wait_for(part.child.wait(), REGISTRATION_SECONDS)
        except TimeoutError:
            code = -1
        finally:
            await part.end()
        if code != 0:
            raise CommonfleetError(
                f"Blocks, work pool and deployments could not be registered: {tail(component.log)}",
                do=f"The whole log is {component.log}.",
            )
        self.say(came_up("registration", time.monotonic() - began))
        body: dict[str, Any] = json.loads((self.home.prefect / "registered.json").read_text())
        return body

    async def stop(self) -> None:
        """Stop everything: drivers let their machines go and leave their runs open for the next start, then the worker
        and what it has started meanwhile, runners that nobody drives, and the rest in the opposite order of starting.
        """
        with leftovers.stopping(self.home):
            for part in self.parts:
                if part.component.role == "upkeep":
                    part.ask()
            # Before the worker: that one kills its flow runs when it is asked to stop.
            await asyncio.to_thread(leftovers.end, self.others(), signal.SIGTERM, patience=leftovers.DRIVER_SECONDS)
            for part in self.parts:
                if part.component.role in ("upkeep", "worker"):
                    await part.end()
            await asyncio.to_thread(leftovers.end, self.others(runners=True), signal.SIGTERM, patience=RUNNER_SECONDS)
            for part in reversed(self.parts):
                await part.end()
        address_file(self.home).unlink(missing_ok=True)
        leftovers.record_file(self.home).unlink(missing_ok=True)

    def others(self, *, runners: bool = False) -> list[Process]:
        """What runs of this installation beside the components themselves."""
        children = {part.child.pid for part in self.parts if part.child}
        return [found for found in leftovers.marked(self.mark, runners=runners) if found.pid not in children]

    def hurry(self) -> None:
        """Somebody asked twice: end at once what still runs, except the database, which closes its files."""
        for process in leftovers.marked(self.mark):
            if alive(process):
                leftovers.send(process, signal.SIGKILL, group=True)


def prefect(*arguments: str) -> tuple[str, ...]:
    """A command of the Prefect that stands beside us, whatever is first on the path."""
    return (sys.executable, "-m", "prefect", *arguments)


def says(log: Path, start: int, word: str) -> bool:
    """Whether that word has been written since `start`."""
    with log.open("rb") as file:
        file.seek(start)
        return word.encode() in file.read()


async def at_once() -> bool:
    """Ready as soon as it runs."""
    return True
