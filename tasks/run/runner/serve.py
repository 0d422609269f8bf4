"""`serve --root DIR`: the far end of a pipe. Lines of JSON come in on stdin, lines of JSON go out on stdout.

Requests are answered at the same time, so answers may overtake each other: a slow discovery holds up no collection.
Malformed input is answered with an error. When stdin ends we end; the runners that we started live on.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Sequence

from . import claims, fingerprint, posix, spool
from .operations import SLOW, Machine
from .records import Json

LINE_BYTES = 256 << 20
QUICK_THREADS = 8


def serve(root: str, program: Sequence[str]) -> int:
    """Answer until stdin ends."""
    root = os.path.abspath(root)
    for name in ("builds", "leases", "runs", "discover"):
        os.makedirs(os.path.join(root, name), mode=0o700, exist_ok=True)
    claims.forget_old(root)
    posix.set_limits()
    pipe = _Pipe(Machine(root, program))
    # What a library prints must not get between the answers.
    os.dup2(sys.stderr.fileno(), 1)
    pipe.answer_all()
    pipe.end()
    return 0


class _Pipe:
    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.writing = threading.Lock()
        self.out = os.dup(1)
        os.set_inheritable(self.out, False)
        # Threads that live as long as we do: a sandbox dies with the thread that started it.
        self.slow = ThreadPoolExecutor(max(2, fingerprint.cores()))
        self.quick = ThreadPoolExecutor(QUICK_THREADS)

    def answer_all(self) -> None:
        while True:
            line = sys.stdin.buffer.readline(LINE_BYTES)
            if not line:
                return
            if len(line) == LINE_BYTES and not line.endswith(b"\n"):
                self.skip_line()
                self.refuse(None, f"a request is at most {LINE_BYTES} bytes")
            elif line.strip():
                self.take(line)

    def skip_line(self) -> None:
        while True:
            line = sys.stdin.buffer.readline(LINE_BYTES)
            if not line or line.endswith(b"\n"):
                return

    def take(self, line: bytes) -> None:
        try:
            request = json.loads(line)
        except (ValueError, RecursionError) as error:
            return self.refuse(None, f"not JSON: {error}")
        number = request.get("id") if isinstance(request, dict) else None
        if isinstance(number, bool) or not isinstance(number, (int, str)):
            return self.refuse(None, "a request is an object with an id, a number or a string")
        if not isinstance(request.get("op"), str):
            return self.refuse(number, "a request names its operation in op")
        pool = self.slow if request["op"] in SLOW else self.quick
        pool.submit(self.work, number, request)
        return None

    def work(self, number: Any, request: Json) -> None:
        answer = self.machine.answer(request)
        try:
            data = spool.encode({"id": number, **answer})
        except (TypeError, ValueError) as error:
            data = spool.encode(
                {"id": number, "ok": False, "error": f"unprintable answer: {error}", "kind": "internal"}
            )
        self.write(data)

    def refuse(self, number: Any, why: str) -> None:
        self.write(spool.encode({"id": number, "ok": False, "error": why, "kind": "protocol"}))

    def write(self, data: bytes) -> None:
        data += b"\n"
        with self.writing:
            try:
                while data:
                    data = data[os.write(self.out, data) :]
            except BrokenPipeError:
                return  # Nobody listens any more; stdin will end too.

    def end(self) -> None:
        """Leave: what is quick is still answered, what a slow operation had started goes with us. A runner is in a
        session of its own."""
        self.quick.shutdown(wait=True)
        posix.end_running()
        sys.stderr.flush()
        os._exit(0)
