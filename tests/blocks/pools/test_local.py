"""The machine that the orchestrator runs on, as a pool."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from blocks.catalog.models import PoolSpec
from blocks.errors import HostError
from blocks.pools.base import Ground
from blocks.pools.local import Child, Local
from blocks.pools.registry import open_pool
from blocks.requirement import Requirement
from tasks.provision.held import runner_file
from tests.blocks.pools.conformance import Conformance

HELLO = {
    "runtime": {"arch": "x86_64", "libc": "glibc 2.36", "python": {"cp311": "/usr/bin/python3"}, "toolchain": ["c++"]},
    "fingerprint": {"memory_bytes": 8 << 30, "cpu": {"isa": ["avx2", "fma"]}},
    "accelerators": [{"class": "cpu", "count": 2}],
    "slots_hint": 2,
}


class TestLocal(Conformance):
    servable = Requirement(arch="x86_64", os="linux", python="cp311", cpus=2, memory_bytes=4 << 30)
    unservable = Requirement(accelerator="cuda", devices=1)

    @pytest.fixture
    async def pool(self, tmp_path: Path) -> AsyncIterator[Local]:
        root = tmp_path / "machine"
        made = Local("here", Ground(root, runner_file(root)), hello=HELLO)
        yield made
        await made.close()

    async def test_a_crash_before_the_file_is_whole_leaves_nothing(self, pool: Local) -> None:
        submission = await self.submission(pool)
        pool.folder.mkdir()
        (pool.folder / ".s-1.held.json.99").write_text("{half")
        assert await pool.inventory() == []
        assert (await pool.submit(submission)).presence == "here"

    @pytest.mark.parametrize("name", ["../elsewhere", "", ".hidden"])
    async def test_a_submission_cannot_name_a_file_elsewhere(self, pool: Local, name: str) -> None:
        with pytest.raises(HostError, match="no name of a submission"):
            await pool.submit(replace(await self.submission(pool), id=name))

    async def test_a_folder_that_is_not_there_is_told(self, pool: Local, tmp_path: Path) -> None:
        health = await replace(pool, ground=Ground(tmp_path / "missing", pool.ground.runner)).health()
        assert not health.usable
        assert "missing" in health.why_not

    async def test_the_slots_are_the_catalog_s_or_one_for_each_device_or_core(self, pool: Local) -> None:
        devices = [{"class": "cpu", "count": 2}, {"class": "cuda", "count": 8}]
        for settings, hello, slots in (
            ({}, HELLO, 2),
            ({"threads_per_slot": 2}, HELLO, 1),
            ({"slots": 5}, HELLO, 5),
            ({}, {**HELLO, "accelerators": devices}, 8),
        ):
            other = replace(pool, spec=PoolSpec(kind="local", **settings), hello=hello)
            assert [offer.slots for offer in await other.offers(Requirement())] == [slots]

    async def test_this_machine_says_itself_what_it_has_and_is_started_once_for_that(self, pool: Local) -> None:
        asked = replace(pool, hello=None)
        (offer,) = await asked.offers(Requirement())
        assert offer.facts.cpus == len(os.sched_getaffinity(0))
        assert asked.hello is not None
        on = asked._asked_on
        assert await asked.connect(asked.machine("s", 0.0)) is on
        assert on is not None
        await on.close(0)

    async def test_a_runner_that_cannot_be_started_is_told(self, tmp_path: Path) -> None:
        broken = Local("here", Ground(tmp_path, tmp_path / "missing.pyz"))
        with pytest.raises(HostError, match="it ended at once") as error:
            await broken.offers(Requirement())
        assert "serve.log" in error.value.do

    async def test_a_channel_that_is_closed_ends_its_process_even_one_that_hangs(self, pool: Local) -> None:
        channel = await pool.connect(pool.machine("s", 0.0))
        assert isinstance(channel, Child)
        os.kill(channel.process.pid, signal.SIGSTOP)
        async with asyncio.timeout(10):
            await channel.close(0.2)
        assert channel.process.returncode == -signal.SIGKILL

    def test_its_kind_is_in_the_registry(self, tmp_path: Path) -> None:
        assert isinstance(open_pool("x", PoolSpec(kind="local"), Ground(tmp_path, tmp_path)), Local)
