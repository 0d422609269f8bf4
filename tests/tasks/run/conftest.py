"""A real runner on this machine: the zipapp, served over a pipe, with programs that speak like GoogleTest."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tasks.run.runner import sandbox
from tasks.run.zipapp import make_zipapp

BASE_PYTHON = str(getattr(sys, "_base_executable", sys.executable))

FAKE_GTEST = """#!{python} -IS
import json, os, signal, subprocess, sys, time
TESTS = json.load(open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "tests.json")))
options = dict(word[2:].split("=", 1) if "=" in word else (word[2:], "") for word in sys.argv[1:])
say = lambda text: (sys.stdout.write(text), sys.stdout.flush())
if "gtest_list_tests" in options:
    say("CUDA not available. Disabling CUDA tests\\n")
    for name in TESTS:
        say(name.split(".")[0] + ".\\n  " + name.split(".")[1] + "\\n")
    sys.exit(0)
chosen = [name for name in TESTS if name in options["gtest_filter"].split(":")]
actions = dict(TESTS)
report = {{}}
if "dies_at_once" in actions.values():
    say("cannot load libmissing.so\\n"); sys.exit(127)
for name in chosen:
    if actions[name] == "unreported":
        continue
    say("[ RUN      ] %s\\n" % name)
    outcome = "OK"
    for action in actions[name].split("&&"):
        exec(action) if ";" in action else None
        if action == "segv" or action == "segv_in_company" and len(chosen) > 1:
            say("about to die\\n"); os.kill(os.getpid(), signal.SIGSEGV); time.sleep(5)
        elif action == "hang":
            time.sleep(600)
        elif action == "fail":
            outcome = "FAILED"
        elif action == "skip":
            outcome = "SKIPPED"
        elif action.startswith("sleep"):
            time.sleep(float(action[5:]))
        elif action.startswith("say:"):
            say(action[4:])
    say("[%s] %s (3 ms)\\n" % ({{"OK": "       OK ", "FAILED": "  FAILED  ", "SKIPPED": "  SKIPPED "}}[outcome], name))
    suite, _, test = name.partition(".")
    ended = "SKIPPED" if outcome == "SKIPPED" else "COMPLETED"
    body = {{"name": test, "status": "RUN", "result": ended, "time": "0.003s"}}
    if outcome == "FAILED":
        body["failures"] = [{{"failure": "f.cpp:1\\nexpected 1", "type": ""}}]
    report.setdefault(suite, []).append(body)
path = options["gtest_output"].split(":", 1)[1]
try:
    with open(path, "w") as file:
        json.dump({{"testsuites": [{{"name": s, "testsuite": t}} for s, t in report.items()]}}, file)
except OSError:
    pass
if "dies_at_exit" in actions.values():
    os.kill(os.getpid(), signal.SIGSEGV); time.sleep(5)
sys.exit(1 if any("failures" in t for s in report.values() for t in s) else 0)
"""


class Wire:
    """A served machine as an agent sees it."""

    def __init__(self, pyz: Path, root: Path, python: str = sys.executable) -> None:
        self.root = root
        argv = [python, str(pyz), "serve", "--root", str(root)]
        self.process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.numbers = itertools.count(1)
        self.answers: dict[Any, dict[str, Any]] = {}
        self.strays: list[dict[str, Any]] = []
        self.arrived = threading.Condition()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            body = json.loads(line)
            with self.arrived:
                self.strays.append(body) if body["id"] is None else self.answers.update({body["id"]: body})
                self.arrived.notify_all()

    def write(self, line: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line)
        self.process.stdin.flush()

    def send(self, op: str, **fields: Any) -> int:
        number = next(self.numbers)
        self.write(json.dumps({"id": number, "op": op, **fields}).encode() + b"\n")
        return number

    def wait(self, number: Any, seconds: float = 60) -> dict[str, Any]:
        with self.arrived:
            assert self.arrived.wait_for(lambda: number in self.answers, seconds), f"no answer to {number}"
            return self.answers.pop(number)

    def ask(self, op: str, **fields: Any) -> dict[str, Any]:
        return self.wait(self.send(op, **fields))

    def ok(self, op: str, **fields: Any) -> dict[str, Any]:
        answer = self.ask(op, **fields)
        assert answer["ok"], answer
        return answer

    def close(self) -> None:
        assert self.process.stdin is not None
        try:
            self.process.stdin.close()
        except BrokenPipeError:
            pass
        self.process.wait(20)

    def collect_all(self, lease: str, seconds: float = 60, acked: int = 0) -> tuple[list[Any], dict[str, Any]]:
        """(unit records, last answer), once the runner has ended and everything was given out."""
        records: list[Any] = []
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            answer = self.ok("collect", lease=lease, acked=acked)
            if answer["part"] is not None:
                acked = answer["part"]["part"]
                records += answer["part"]["records"]
            elif answer["done"] or not answer["alive"]:
                return records, answer
            else:
                time.sleep(0.02)
        raise AssertionError(f"lease {lease} did not end: {answer}")

    def run(self, order: dict[str, Any], seconds: float = 60) -> list[Any]:
        """Start the order and give its unit records; the runner must end by itself with all of them."""
        self.ok("start", order=order)
        records, answer = self.collect_all(order["lease"], seconds)
        assert answer["reason"] == "finished", answer
        return records


@pytest.fixture(scope="session")
def runner_pyz(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("pyz") / "runner.pyz"
    make_zipapp(target)
    return target


@pytest.fixture
def runner_root(tmp_path: Path) -> Path:
    return tmp_path / "machine"


@pytest.fixture
def wires(runner_pyz: Path, runner_root: Path) -> Iterator[Any]:
    """Opens pipes to this machine, as often as asked; whatever still runs is ended with the test."""
    opened: list[Wire] = []

    def another() -> Wire:
        opened.append(Wire(runner_pyz, runner_root))
        return opened[-1]

    yield another
    last = another()
    for runner in last.ok("status")["runners"]:
        last.ok("stop", lease=runner["lease"], grace_seconds=0)
    for wire in opened:
        wire.close()


@pytest.fixture
def wire(wires: Any) -> Wire:
    return wires()


@pytest.fixture(scope="session")
def sandboxed() -> str:
    """The isolation to ask for in tests of the sandbox; without bubblewrap on this host they cannot be run."""
    found = sandbox.probe()
    if found.kind == "none":
        pytest.skip(found.why)
    return "bubblewrap"


@pytest.fixture
def fake_build(tmp_path: Path) -> Path:
    return tmp_path / "build"


@pytest.fixture
def fake_gtest(fake_build: Path) -> Any:
    """Makes a binary with these tests, and the unit for it: name -> action (see FAKE_GTEST)."""

    def make(tests: dict[str, str], name: str = "fake", **fields: Any) -> dict[str, Any]:
        folder = fake_build / name
        folder.mkdir(parents=True)
        binary = folder / "binary"
        binary.write_text(FAKE_GTEST.format(python=BASE_PYTHON))
        binary.chmod(0o755)
        (folder / "tests.json").write_text(json.dumps(tests))
        return unit(f"u-{name}", "gtest", {"binary": f"{name}/binary"}, tests=list(tests), **fields)

    return make


def unit(number: str, kind: str, spec: dict[str, Any], **fields: Any) -> dict[str, Any]:
    body = {
        "unit": number,
        "name": number,
        "kind": kind,
        "spec": spec,
        "tests": [],
        "suite": "suite",
        "timeout_seconds": 30.0,
        "test_timeout_seconds": 20.0,
        "memory_bytes": 1 << 30,
        "exclusive": False,
    }
    return {**body, **fields}


def order_of(*units: dict[str, Any], build: Path | None = None, sources: Path | None = None, **fields: Any) -> Any:
    body = {
        "protocol": 1,
        "lease": "lease-1",
        "run": "run-1",
        "slot": 0,
        "units": list(units),
        "build": str(build) if build else None,
        "sources": {"suite": str(sources)} if sources else {},
        "python": BASE_PYTHON,
        "accelerator": {"class": "cpu", "devices": [], "env": {}, "nodes": []},
        "threads": 1,
        "deadline_seconds": 300.0,
        "sandbox": "auto",
        "retry_alone": 10,
        "output_cap_bytes": 65536,
        "env": {},
    }
    return {**body, **fields}


def outcomes(attempt: dict[str, Any]) -> dict[str, str]:
    """name -> outcome of an attempt, and every name only once."""
    found = {".".join(filter(None, (one["cls"], one["name"]))): one["outcome"] for one in attempt["results"]}
    assert len(found) == len(attempt["results"])
    return found


def message(attempt: dict[str, Any], name: str) -> str:
    return next(one.get("message", "") for one in attempt["results"] if one["name"] == name)
