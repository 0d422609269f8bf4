"""The machine that the orchestrator runs on, as a pool."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from blocks.errors import HostError
from blocks.pools.local import Local
from blocks.requirement import Requirement
from tests.blocks.pools.conformance import Conformance

HELLO = {
    "runtime": {"arch": "x86_64", "libc": "glibc 2.36", "python": {"cp311": "/usr/bin/python3"}, "toolchain": ["c++"]},
    "fingerprint": {"memory_bytes": 8 << 30},
    "accelerators": [{"class": "cpu", "count": 2}],
    "slots_hint": 2,
}


class TestLocal(Conformance):
    servable = Requirement(arch="x86_64", os="linux", python="cp311", cpus=2, memory_bytes=4 << 30)
    unservable = Requirement(accelerator="cuda", devices=1)

    @pytest.fixture
    def pool(self, tmp_path: Path) -> Local:
        return Local("here", tmp_path, HELLO, slots=2)

    async def test_a_crash_before_the_file_is_whole_leaves_nothing(self, pool: Local) -> None:
        submission = await self.submission(pool)
        (pool.root / ".s-1.held.json.99").write_text("{half")
        assert await pool.inventory() == []
        assert (await pool.submit(submission)).presence == "here"

    @pytest.mark.parametrize("name", ["../elsewhere", "", ".hidden"])
    async def test_a_submission_cannot_name_a_file_elsewhere(self, pool: Local, name: str) -> None:
        with pytest.raises(HostError, match="no name of a submission"):
            await pool.submit(replace(await self.submission(pool), id=name))

    async def test_a_folder_that_is_not_there_is_told(self, pool: Local) -> None:
        health = await replace(pool, root=pool.root / "missing").health()
        assert not health.usable
        assert "missing" in health.why_not
