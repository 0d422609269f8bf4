"""Our end of a pipe: what happens to calls that are given up."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tasks.provision.local import runner_file
from tasks.run.pipe import local_pipe


async def test_a_cancel_in_the_instant_of_the_answer_is_not_lost(tmp_path: Path) -> None:
    async with local_pipe(runner_file(tmp_path), tmp_path, "here") as pipe:
        calling = asyncio.create_task(pipe.call("status"))
        await asyncio.sleep(0)
        (answer,) = pipe._waiting.values()
        answer.set_result({"ok": True})
        calling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await calling
