"""This machine as a machine of the fleet: its pipe, its fingerprint, its row in the records.

Taking it means starting the far end of the pipe; there is nothing to create and nothing to release but that.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, insert, select, update

from blocks.canonical import canonical_json
from blocks.catalog.models import PoolSpec
from blocks.errors import HostError
from blocks.home import Home
from blocks.ledger import Ledger, now, record
from blocks.ledger.schema import machines
from tasks.run.pipe import Pipe, local_pipe
from tasks.run.zipapp import make_zipapp


@dataclass(frozen=True)
class Held:
    """A machine that is held: its name in the ledger, the pipe to it, and what it said about itself."""

    machine: str
    pool: str
    pipe: Pipe
    hello: Mapping[str, Any]
    slots: int
    threads: int
    sandbox: str


@contextlib.asynccontextmanager
async def take_local(home: Home, ledger: Ledger, run: str | None, pool: str, spec: PoolSpec) -> AsyncIterator[Held]:
    """Hold this machine for a while. Raises HostError when it does not answer."""
    machine = f"{pool}-{socket.gethostname()}"
    async with local_pipe(runner_file(home.machine), home.machine, machine) as pipe:
        hello = await pipe.call("hello", timeout=60)
        cores = int(hello["slots_hint"])
        threads = spec.threads_per_slot or 1
        devices = sum(int(found["count"]) for found in hello["accelerators"] if found["class"] != "cpu")
        slots = spec.slots or devices or max(1, cores // threads)
        if spec.sandbox == "bubblewrap" and hello["sandbox"]["kind"] != "bubblewrap":
            raise HostError(
                f"The pool `{pool}` demands bubblewrap, and {machine} cannot use it: {hello['sandbox']['why']}.",
                do="Install bubblewrap, or let the pool's `sandbox` be `auto`.",
            )
        with ledger.write() as connection:
            _register(connection, run, machine, pool, spec.vendor, slots, hello)
        yield Held(machine, pool, pipe, hello, slots, threads, spec.sandbox)


def runner_file(folder: Path) -> Path:
    """The runner as one file, named by its digest: a running runner keeps the very file it was started from."""
    folder.mkdir(parents=True, exist_ok=True)
    fresh = folder / f".runner-{os.getpid()}.pyz"
    digest = make_zipapp(fresh)
    target = folder / f"runner-{digest.removeprefix('sha256:')[:12]}.pyz"
    fresh.replace(target)
    return target


def _register(
    connection: Connection, run: str | None, machine: str, pool: str, vendor: str, slots: int, hello: Mapping[str, Any]
) -> None:
    facts = {key: hello[key] for key in ("fingerprint", "runtime", "sandbox", "accelerators")}
    values = {"state": "ready", "slots": slots, "fingerprint": canonical_json(facts).decode(), "updated": now()}
    if connection.scalar(select(machines.c.id).where(machines.c.id == machine)) is None:
        row = {"id": machine, "pool": pool, "vendor": vendor, "created": now()}
        connection.execute(insert(machines).values(**row, **values))
    else:
        connection.execute(update(machines).where(machines.c.id == machine).values(**values))
    record(connection, "machine.ready", run=run, machine=machine, pool=pool, slots=slots)
