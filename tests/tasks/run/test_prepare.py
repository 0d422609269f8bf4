"""A machine is made ready: what is unpacked there, and where."""

from __future__ import annotations

import asyncio
from pathlib import Path

from blocks.pools.base import Ground
from blocks.pools.local import Local
from blocks.store import Store
from tasks.plan.sources import pack_sources
from tasks.provision.held import Held, runner_file
from tasks.run.pipe import open_pipe
from tasks.run.prepare import unpack_sources


def test_suites_with_the_same_files_both_find_them(tmp_path: Path) -> None:
    """Two suites over one folder (a checkout's test/) have one digest."""
    store, folder = Store(tmp_path / "store"), tmp_path / "test"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "test_a.py").write_text("def test_a(): pass\n")
    pool = Local("here", Ground(tmp_path, runner_file(tmp_path)))
    machine = pool.machine("s", 0.0)

    async def bring(path: Path) -> str:
        return await pool.bring(machine, path)

    async def unpack_twice() -> list[Path]:
        async with open_pipe("m", lambda: pool.connect(machine)) as pipe:
            held = Held("m", "here", pipe, bring, {}, 1, 1, "auto")
            digests = [pack_sources(folder, store)[0] for _ in ("one suite", "another")]
            return [(await unpack_sources(held, store, digest)).root for digest in digests]

    one, another = asyncio.run(unpack_twice())
    assert one == another
    assert (one / "sub" / "test_a.py").read_text() == "def test_a(): pass\n"
