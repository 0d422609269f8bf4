"""The far end of a channel, without a process: what is written to it is answered by a function, or not at all."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

Answer = Callable[[dict[str, Any]], dict[str, Any] | None]
"""From a request to the fields of its answer; None for silence."""


def refusing(request: dict[str, Any]) -> dict[str, Any]:
    """A far end that knows no operation."""
    return {"ok": False, "error": "a request names its operation in op"}


class FarEnd:
    """A channel. `pieces` is how the bytes of an answer are cut up on their way."""

    def __init__(self, answer: Answer, pieces: Callable[[bytes], list[bytes]] = lambda data: [data]) -> None:
        self.answer, self.pieces = answer, pieces
        self.asked: list[dict[str, Any]] = []
        self.closed = False
        self._coming: asyncio.Queue[bytes] = asyncio.Queue()

    async def read(self) -> bytes:
        return await self._coming.get()

    async def write(self, data: bytes) -> None:
        if self.closed:
            raise BrokenPipeError("nobody reads")
        for line in data.splitlines():
            request = json.loads(line)
            self.asked.append(request)
            answer = self.answer(request)
            if self.closed or answer is None:
                continue
            for piece in self.pieces(json.dumps({"id": request["id"], **answer}).encode() + b"\n"):
                self._coming.put_nowait(piece)

    async def close(self, grace_seconds: float) -> None:
        self.die()

    def die(self) -> None:
        """End: whoever reads sees it."""
        self.closed = True
        self._coming.put_nowait(b"")

    @property
    def operations(self) -> list[str]:
        return [request.get("op", "") for request in self.asked]


async def until(condition: Callable[[], Any], seconds: float = 20.0) -> None:
    """Let others work until it is true."""
    for _ in range(int(seconds / 0.002)):
        if condition():
            return
        await asyncio.sleep(0.002)
    raise AssertionError("it did not come true")
