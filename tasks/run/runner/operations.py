"""What can be asked of a machine over the pipe: each operation is a function from a request to the fields of its
answer.

An exception becomes an answer of `ok: false`; its class says whose fault it was (`kind`).
"""

from __future__ import annotations

import threading
from collections import defaultdict
from typing import Any, Callable, DefaultDict, Dict, Mapping, Optional, Sequence

from . import accelerators, claims, discover, fingerprint, leases, parts, sandbox, unpack, workplace
from .records import Json

Request = Mapping[str, Any]
SLOW = frozenset({"hello", "unpack", "discover", "stop", "forget"})
KINDS = (
    (unpack.UnpackError, "artifact"),
    (leases.LeaseError, "lease"),
    (parts.BadAcknowledgement, "protocol"),
    (workplace.NoIsolation, "sandbox"),
    (OSError, "os"),
    ((KeyError, TypeError, ValueError, AttributeError), "request"),
)


class Machine:
    """The operations of one machine, on its folder `root`. `program` is the command line of this very runner."""

    def __init__(self, root: str, program: Sequence[str]) -> None:
        self.root, self.program = root, list(program)
        self._asked = threading.Lock()
        self._sandbox: Optional[sandbox.Sandbox] = None
        self._runtime: Json = {}
        self._one_at_a_time: DefaultDict[str, threading.Lock] = defaultdict(threading.Lock)
        self.operations: Dict[str, Callable[[Request], Json]] = {
            "hello": self.hello,
            "unpack": self.unpack,
            "discover": self.discover,
            "claim": self.claim,
            "start": self.start,
            "status": self.status,
            "collect": self.collect,
            "stop": self.stop,
            "forget": self.forget,
        }

    def hello(self, request: Request) -> Json:
        cores = fingerprint.cores()
        return {
            "protocol": parts.PROTOCOL,
            "fingerprint": fingerprint.fingerprint(),
            "runtime": self.runtime(),
            "sandbox": self.sandbox().to_json(),
            "slots_hint": cores,
            "accelerators": accelerators.found(cores),
        }

    def unpack(self, request: Request) -> Json:
        with self.only_one("build " + str(request["digest"])):
            interpreters = self.runtime()["python"]
            return {"root": unpack.unpack(self.root, request["digest"], request["artifacts"], interpreters)}

    def discover(self, request: Request) -> Json:
        return discover.discover(self.root, request, self.sandbox())

    def claim(self, request: Request) -> Json:
        over = request.get("over", False) is True
        return {"epoch": claims.claim(self.root, request["run"], request["epoch"], over)}

    def start(self, request: Request) -> Json:
        return leases.start(self.root, request["order"], self.program)

    def status(self, request: Request) -> Json:
        return {"runners": leases.status(self.root)}

    def collect(self, request: Request) -> Json:
        return leases.collect(self.root, request["lease"], request["acked"])

    def stop(self, request: Request) -> Json:
        return leases.stop(self.root, request["lease"], request.get("grace_seconds", 5.0))

    def forget(self, request: Request) -> Json:
        leases.forget(self.root, request["lease"])
        return {}

    def sandbox(self) -> sandbox.Sandbox:
        """Probed once; a host's ability does not change under us."""
        with self._asked:
            if self._sandbox is None:
                self._sandbox = sandbox.probe()
            return self._sandbox

    def runtime(self) -> Json:
        with self._asked:
            if not self._runtime:
                self._runtime = fingerprint.runtime()
            return self._runtime

    def only_one(self, name: str) -> threading.Lock:
        """Two requests about one build wait for each other; others do not."""
        with self._asked:
            return self._one_at_a_time[name]

    def answer(self, request: Request) -> Json:
        """The fields of the answer, `ok` among them. Never raises."""
        try:
            operation = self.operations.get(request.get("op", ""))
            if operation is None:
                known = ", ".join(sorted(self.operations))
                return {"ok": False, "error": "no such operation; there are: " + known, "kind": "protocol"}
            return {"ok": True, **operation(request)}
        except Exception as error:  # noqa: BLE001  (every request is answered, whatever happened)
            return refusal(error)


def refusal(error: Exception) -> Json:
    """The answer that tells of an error."""
    kind = next((name for classes, name in KINDS if isinstance(error, classes)), "internal")
    text = str(error)
    if kind == "request":
        text = f"the request is malformed: {type(error).__name__}: {error}"
    elif kind == "internal":
        text = f"{type(error).__name__}: {error}"
    return {"ok": False, "error": text, "kind": kind}
