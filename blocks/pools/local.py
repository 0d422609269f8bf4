"""`local`: the machine that the orchestrator runs on. One offer, nothing to boot, nothing to pay.

Several submissions may hold it at once (runs share its slots; the desk sees to that). What holds it is a small file
each, so that a crash leaves the same thing to find and release as a cloud would.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from blocks.errors import HostError
from blocks.pools.base import Health, Machine, Offer, Submission
from blocks.requirement import MachineFacts, Requirement, facts_from_hello, why_not

FILE_SUFFIX = ".held.json"


@dataclass(frozen=True)
class Local:
    """This machine, with its state under `root`. `hello` is what its runner says about it."""

    name: str
    root: Path
    hello: Mapping[str, Any]
    slots: int

    @property
    def facts(self) -> MachineFacts:
        return facts_from_hello(self.hello)

    async def offers(self, requirement: Requirement) -> list[Offer]:
        if why_not(requirement, self.facts):
            return []
        host = socket.gethostname()
        return [Offer(self.name, self.facts.arch, host, "own", self.facts, self.slots, 0.0, 0.0)]

    async def submit(self, submission: Submission) -> Machine:
        held = await self.find(submission)
        if held is not None:
            return held
        machine = Machine(
            id=f"{self.name}-{socket.gethostname()}",
            pool=self.name,
            submission=submission.id,
            presence="here",
            address=str(self.root),
            expires=submission.expires,
        )
        self._write(submission.id, machine)
        return machine

    async def find(self, submission: Submission) -> Machine | None:
        return self._read(self._file(submission.id))

    async def observe(self, machine: Machine) -> Machine:
        return self._read(self._file(machine.submission)) or replace(machine, presence="gone")

    async def release(self, machine: Machine) -> Machine:
        self._file(machine.submission).unlink(missing_ok=True)
        return replace(machine, presence="gone")

    async def inventory(self) -> list[Machine]:
        files = sorted(self.root.glob(f"*{FILE_SUFFIX}"))
        return [machine for file in files if (machine := self._read(file)) is not None]

    async def health(self) -> Health:
        if not os.access(self.root, os.W_OK):
            return Health(False, f"{self.root} cannot be written.")
        return Health(True)

    def _file(self, submission: str) -> Path:
        if not submission or "/" in submission or submission.startswith("."):
            raise HostError(f"{submission!r} is no name of a submission.")
        return self.root / f"{submission}{FILE_SUFFIX}"

    def _write(self, submission: str, machine: Machine) -> None:
        """The file appears whole or not at all, also after a crash of the host."""
        target = self._file(submission)
        new = target.with_name(f".{target.name}.{os.getpid()}")
        try:
            with new.open("w") as file:
                json.dump(asdict(machine), file)
                file.flush()
                os.fsync(file.fileno())
            new.replace(target)
        except OSError as error:
            new.unlink(missing_ok=True)
            raise HostError(
                f"{self.root} cannot be written: {error.strerror}.", do="Free some space, or set COMMONFLEET_HOME."
            ) from error

    def _read(self, file: Path) -> Machine | None:
        try:
            return Machine(**json.loads(file.read_text()))
        except FileNotFoundError:
            return None
