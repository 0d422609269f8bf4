"""The pipe: every request is answered, whatever came before it."""

from __future__ import annotations

import json
import os
import random
import time
from pathlib import Path
from typing import Any

from tests.tasks.run.conftest import BASE_PYTHON, Wire, order_of

SEED = int(os.environ.get("COMMONFLEET_SEED", "20260"))


def test_malformed_lines_are_answered_and_do_no_harm(wire: Wire) -> None:
    bad = [
        b"\n", b"{", b"null", b"[]", b'"x"', b"1", b"{}", b'{"op":"status"}', b'{"id":null,"op":"status"}',
        b'{"id":true,"op":"status"}', b'{"id":[1],"op":"status"}', b"\xff\xfe", b"[" * 100_000, b'{"id":"a","op":5}',
        b'{"id":"b"}',
    ]  # fmt: skip
    for line in bad:
        wire.write(line + b"\n")
    assert wire.ok("status")["runners"] == []
    assert wire.wait("a")["ok"] is False
    assert wire.wait("b")["ok"] is False
    assert len(wire.strays) == 12
    assert all(not stray["ok"] and stray["kind"] == "protocol" and stray["error"] for stray in wire.strays)


def test_operations_with_nonsense_in_them_are_refused_and_not_died_of(wire: Wire) -> None:
    print("seed", SEED)
    dice = random.Random(SEED)
    values = [None, True, -1, 1e308, "", "x", "../..", "/etc", ".", "a/b", [], [1], {}, {"op": 1}, "\0", "x" * 5000]
    fields = [
        "lease",
        "acked",
        "order",
        "digest",
        "artifacts",
        "kind",
        "build",
        "binary",
        "file",
        "grace_seconds",
        "run",
        "epoch",
    ]
    good_order = order_of()
    numbers = []
    for _ in range(300):
        request = {name: dice.choice(values) for name in dice.sample(fields, dice.randint(0, 5))}
        if dice.random() < 0.3:
            request["order"] = {**good_order, dice.choice(list(good_order)): dice.choice(values)}
            if request["order"]["lease"] in ("lease-1", "x"):  # Else it might be an order after all.
                request["order"]["lease"] = "../lease-1"
        op = dice.choice(["unpack", "discover", "start", "claim", "collect", "stop", "forget", "nonsense", ""])
        if op == "discover" and request.get("kind") not in (None, "x", ""):
            request["kind"] = "gtest"
        numbers.append((wire.send(op, **request), op, request))
    for number, op, request in numbers:
        answer = wire.wait(number)
        # To forget what is not there is no error, and neither is a claim by chance.
        harmless = op in ("discover", "claim") or (op == "forget" and str(request.get("lease")).startswith("x"))
        assert answer["ok"] is False or harmless, (op, request, answer)
        assert answer["ok"] or answer["kind"] != "internal", (op, request, answer)
    assert wire.ok("status")["runners"] == []


def test_a_lease_that_is_no_plain_name_touches_nothing(wire: Wire, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "order.json").write_text('{"units": []}')
    for lease in ("../../precious", str(precious), "..", "", ".hidden", "a\nb", 7, None):
        for op in ("forget", "stop", "collect"):
            assert not wire.ask(op, lease=lease, acked=0)["ok"]
        assert not wire.ask("start", order=order_of(lease=lease))["ok"]
    assert (precious / "order.json").exists()


def test_a_slow_discovery_holds_up_no_collection(wire: Wire, fake_gtest: Any, fake_build: Path) -> None:
    wire.run(order_of(fake_gtest({"A.One": ""}), build=fake_build))
    slow = fake_build / "slow"
    slow.write_text(f"#!{BASE_PYTHON} -IS\nimport time; time.sleep(2)\n")
    slow.chmod(0o755)
    numbers = [wire.send("discover", kind="gtest", build=str(fake_build), binary="slow") for _ in range(6)]
    began = time.monotonic()
    for _ in range(20):
        wire.ok("collect", lease="lease-1", acked=1)
    assert time.monotonic() - began < 1.5
    assert not wire.answers.keys() & set(numbers)


def test_serve_ends_with_its_pipe_and_takes_its_discoveries_along(wire: Wire, fake_build: Path) -> None:
    fake_build.mkdir()
    slow = fake_build / "slow"
    mark = f"{time.time_ns() % 10**8}.5"
    slow.write_text(f"#!/bin/sh\nexec sleep {mark}\n")
    slow.chmod(0o755)
    wire.send("discover", kind="gtest", build=str(fake_build), binary="slow", sandbox="none")
    until = time.monotonic() + 10
    while not running(mark) and time.monotonic() < until:
        time.sleep(0.02)
    assert running(mark)
    began = time.monotonic()
    wire.close()
    assert time.monotonic() - began < 5
    until = time.monotonic() + 3
    while running(mark) and time.monotonic() < until:
        time.sleep(0.02)
    assert not running(mark)


def test_what_was_asked_just_before_the_pipe_closed_is_still_answered(wire: Wire) -> None:
    numbers = [wire.send("status") for _ in range(50)]
    wire.close()
    assert all(wire.wait(number, 5)["ok"] for number in numbers)


def running(mark: str) -> bool:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if path.read_bytes().split(b"\0")[:2] == [b"sleep", mark.encode()]:
                return True
        except OSError:
            continue
    return False


def test_hello_tells_what_a_plan_needs_to_know(wire: Wire) -> None:
    hello = wire.ok("hello")
    assert hello["protocol"] == 1
    assert hello["fingerprint"]["cpu"]["usable_cores"] == hello["slots_hint"] >= 1
    assert hello["fingerprint"]["memory_bytes"] > 1 << 28
    assert hello["runtime"]["arch"] == os.uname().machine
    assert all(Path(path).is_absolute() for path in hello["runtime"]["python"].values())
    assert hello["sandbox"]["kind"] in ("bubblewrap", "none")
    assert hello["accelerators"][0]["class"] == "cpu"
    json.dumps(hello, allow_nan=False)
