"""A lease on a machine: its runner outlives whoever started it, and nothing finished is lost."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tasks.run.runner import posix
from tests.tasks.run.conftest import Wire, order_of, outcomes, unit
from tests.tasks.run.waiting import shell, wait, wait_for


def sleeps(fake_gtest: Any, count: int, seconds: float) -> list[dict[str, Any]]:
    return [fake_gtest({"A.One": f"sleep{seconds}"}, name=f"n{n}") for n in range(count)]


def test_a_runner_survives_the_death_of_serve_and_another_serve_adopts_it(
    wires: Any, fake_gtest: Any, fake_build: Path
) -> None:
    first = wires()
    units = sleeps(fake_gtest, 4, 0.5)
    started = first.ok("start", order=order_of(*units, build=fake_build))
    before = first.ok("status")["runners"][0]
    first.process.kill()
    first.process.wait()
    second = wires()
    after = second.ok("status")["runners"][0]
    assert after["alive"]
    assert (
        (after["pid"], after["start_time"])
        == (started["pid"], started["start_time"])
        == (before["pid"], before["start_time"])
    )
    records, _ = second.collect_all("lease-1")
    assert [record["unit"] for record in records] == [one["unit"] for one in units]


def test_a_runner_is_in_a_session_of_its_own_and_holds_none_of_our_pipes(
    wire: Wire, fake_gtest: Any, fake_build: Path, runner_root: Path
) -> None:
    pid = wire.ok("start", order=order_of(*sleeps(fake_gtest, 1, 5), build=fake_build))["pid"]
    assert os.getsid(pid) == os.getpgid(pid) == pid

    def ends_of(process: int) -> dict[str, str]:
        found = {}
        for path in Path(f"/proc/{process}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # closed while we looked
                found[path.name] = os.readlink(path)
        return found

    held, ours = ends_of(pid), ends_of(wire.process.pid)
    log = str(runner_root / "leases" / "lease-1" / "runner.log")
    assert (held["0"], held["1"], held["2"]) == ("/dev/null", log, log)
    pipes = {end for end in ours.values() if end.startswith(("pipe:", "socket:"))}
    assert pipes
    assert pipes.isdisjoint(held.values())


def test_starting_a_lease_twice_starts_one_runner(
    wires: Any, fake_gtest: Any, fake_build: Path, runner_root: Path
) -> None:
    wire, another = wires(), wires()
    order = order_of(*sleeps(fake_gtest, 1, 1), build=fake_build)
    asked = [(pipe, pipe.send("start", order=order)) for pipe in (wire, another) * 3]
    answers = [pipe.wait(number) for pipe, number in asked]
    assert len({answer["pid"] for answer in answers}) == 1, answers
    other = wire.ask("start", order={**order, "threads": 7})
    assert (other["ok"], other["kind"]) == (False, "lease")
    wire.collect_all("lease-1")
    said = (runner_root / "leases" / "lease-1" / "runner.log").read_text()
    assert said == "", "no second one was started only to find that it is one too many"


def test_two_runners_never_work_on_one_lease(
    wire: Wire, fake_gtest: Any, fake_build: Path, runner_pyz: Path, runner_root: Path
) -> None:
    wire.ok("start", order=order_of(*sleeps(fake_gtest, 1, 2), build=fake_build))
    argv = [sys.executable, str(runner_pyz), "run", str(runner_root / "leases" / "lease-1")]
    second = subprocess.run(argv, capture_output=True, text=True, timeout=20, check=False)
    assert second.returncode == 3
    assert "another runner" in second.stderr


def test_a_part_never_changes_once_it_was_given_out(wires: Any, fake_gtest: Any, fake_build: Path) -> None:
    wire = wires()
    wire.ok("start", order=order_of(*sleeps(fake_gtest, 4, 0.3), build=fake_build))
    wait_for(wire, lambda line: line["spooled"] >= 1)
    part = wire.ok("collect", lease="lease-1", acked=0)["part"]
    assert part["part"] == 1
    wire.process.kill()
    wire.process.wait()
    again = wires()
    wait_for(again, lambda line: line["spooled"] == 4)
    assert again.ok("collect", lease="lease-1", acked=0)["part"] == part
    records, _ = again.collect_all("lease-1", acked=1)
    seqs = [record["seq"] for record in part["records"] + records]
    assert seqs == [1, 2, 3, 4]


def test_acknowledgements_that_cannot_be_are_refused(wire: Wire, fake_gtest: Any, fake_build: Path) -> None:
    wire.run(order_of(*sleeps(fake_gtest, 1, 0), build=fake_build))
    wire.ok("collect", lease="lease-1", acked=1)
    for acked in (0, 2, -1, "1", None, True):
        answer = wire.ask("collect", lease="lease-1", acked=acked)
        assert not answer["ok"], acked
    assert wire.ok("collect", lease="lease-1", acked=1)["part"] is None


def test_no_unit_starts_after_the_deadline_and_what_was_not_started_is_named(
    wire: Wire, fake_gtest: Any, fake_build: Path
) -> None:
    units = sleeps(fake_gtest, 4, 1.0)
    wire.ok("start", order=order_of(*units, build=fake_build, deadline_seconds=1.2))
    records, last = wire.collect_all("lease-1")
    ran = [record["unit"] for record in records]
    assert last["reason"] == "deadline"
    assert 1 <= len(ran) < 4
    assert ran + last["not_started"] == [one["unit"] for one in units]


@pytest.mark.parametrize("seconds", [0, -5.5])
def test_a_lease_that_comes_too_late_starts_nothing(wire: Wire, tmp_path: Path, seconds: float) -> None:
    one = unit("u", "command", {"argv": ["/bin/touch", str(tmp_path / "started")]})
    wire.ok("start", order=order_of(one, deadline_seconds=seconds, sandbox="none"))
    records, last = wire.collect_all("lease-1")
    assert (records, last["reason"], last["not_started"]) == ([], "deadline", ["u"])
    assert not (tmp_path / "started").exists()


def test_stop_ends_the_unit_in_hand_within_seconds(wire: Wire, fake_gtest: Any, fake_build: Path) -> None:
    units = [
        fake_gtest({"A.One": ""}, name="quick"),
        fake_gtest({"A.One": "hang"}, name="slow"),
        *sleeps(fake_gtest, 1, 0),
    ]
    wire.ok("start", order=order_of(*units, build=fake_build))
    wait_for(wire, lambda line: line["in_hand"] == "u-slow")
    began = time.monotonic()
    wire.ok("stop", lease="lease-1", grace_seconds=5)
    assert time.monotonic() - began < 4
    records, last = wire.collect_all("lease-1")
    assert [record["unit"] for record in records] == ["u-quick"]
    assert (last["reason"], last["in_hand"], last["not_started"]) == ("stopped", "u-slow", ["u-n0"])


@pytest.mark.parametrize("isolation", ["auto", "none"])
def test_stop_ends_a_stopped_runner_and_every_process_of_its_unit(
    wire: Wire, fake_gtest: Any, fake_build: Path, isolation: str
) -> None:
    mark = f"8{time.time_ns() % 10**8}"
    daemon = f"subprocess.Popen(['sleep', '{mark}'], start_new_session=True); time.sleep(60);"
    started = wire.ok("start", order=order_of(fake_gtest({"A.One": daemon}), build=fake_build, sandbox=isolation))
    wait_for(wire, lambda line: line["in_hand"] and processes_with(mark))
    os.kill(started["pid"], signal.SIGSTOP)
    wire.ok("stop", lease="lease-1", grace_seconds=0.2)
    until = time.monotonic() + 5
    while processes_with(mark) and time.monotonic() < until:
        time.sleep(0.02)
    assert processes_with(mark) == []
    line = wait_for(wire, lambda line: not line["alive"])
    assert not line["done"]
    assert wire.ok("collect", lease="lease-1", acked=0)["reason"] == "died"


def test_stop_ends_nothing_of_a_lease_of_the_same_name_elsewhere_on_this_host(
    wire: Wire, runner_pyz: Path, tmp_path: Path
) -> None:
    mark = f"9{time.time_ns() % 10**8}"
    other = Wire(runner_pyz, tmp_path / "other")
    order = order_of(unit("u", "command", {"argv": ["sleep", mark]}), sandbox="none")
    for one in (wire, other):
        one.ok("start", order=order)
        wait_for(one, lambda line: line["in_hand"])
    wait(lambda: len(processes_with(mark)) == 2)
    assert wire.ok("stop", lease="lease-1", grace_seconds=5)["ended"] == 0
    left = processes_with(mark)
    other.ok("stop", lease="lease-1", grace_seconds=0)
    other.close()
    assert len(left) == 1


def processes_with(mark: str) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if words[:1] == [b"sleep"] and mark.encode() in words:
            found.append(path.parent.name)
    return found


def test_a_unit_that_kills_its_runner_loses_only_itself(wire: Wire, fake_gtest: Any, fake_build: Path) -> None:
    units = [
        fake_gtest({"A.One": ""}, name="before"),
        fake_gtest({"A.One": "os.kill(os.getppid(), signal.SIGKILL); time.sleep(30);"}, name="killer"),
        fake_gtest({"A.One": ""}, name="after"),
    ]
    wire.ok("start", order=order_of(*units, build=fake_build, sandbox="none"))
    records, last = wire.collect_all("lease-1")
    assert [record["unit"] for record in records] == ["u-before"]
    assert (last["alive"], last["done"], last["reason"]) == (False, False, "died")
    assert (last["in_hand"], last["not_started"]) == ("u-killer", ["u-after"])


def test_status_reads_no_orders(wire: Wire, runner_root: Path) -> None:
    """It is asked many times a second, and an order names each test of each of its units."""
    wire.run(order_of(shell("u", "true"), sandbox="none"))
    (runner_root / "leases" / "lease-1" / "order.json").write_text("no JSON")
    assert wire.ok("status")["runners"][0]["run"] == "run-1"


def test_in_the_sandbox_a_unit_cannot_reach_its_runner(
    wire: Wire, fake_gtest: Any, fake_build: Path, sandboxed: str
) -> None:
    attack = "[os.kill(p, 9) for p in range(2, 40000) if p != os.getpid() and os.path.exists('/proc/%d' % p)];"
    units = [fake_gtest({"A.One": attack}, name="killer"), fake_gtest({"A.One": ""}, name="after")]
    first, second = wire.run(order_of(*units, build=fake_build, sandbox=sandboxed))
    assert second["attempts"][0]["outcome"] == "passed"
    assert first["unit"] == "u-killer"


def test_a_lease_is_forgotten_only_when_its_runner_is_gone(
    wire: Wire, fake_gtest: Any, fake_build: Path, runner_root: Path
) -> None:
    wire.ok("start", order=order_of(*sleeps(fake_gtest, 1, 30), build=fake_build))
    refused = wire.ask("forget", lease="lease-1")
    assert (refused["ok"], refused["kind"]) == (False, "lease")
    wire.ok("stop", lease="lease-1", grace_seconds=2)
    wire.ok("forget", lease="lease-1")
    assert list((runner_root / "leases").iterdir()) == []
    assert not wire.ask("collect", lease="lease-1", acked=0)["ok"]
    wire.ok("forget", lease="lease-1")  # As who died before the answer came would ask again.


def test_a_lease_keeps_no_work_folders(wire: Wire, fake_gtest: Any, fake_build: Path, runner_root: Path) -> None:
    locked = "os.makedirs('a/b'); open('a/b/c', 'w').close(); os.chmod('a/b', 0); os.chmod('a', 0);"
    wire.run(order_of(fake_gtest({"A.One": locked}), build=fake_build))
    assert list((runner_root / "leases" / "lease-1" / "work").iterdir()) == []


def test_a_malformed_unit_ends_as_errors_and_the_next_one_runs(wire: Wire, fake_gtest: Any, fake_build: Path) -> None:
    good = fake_gtest({"A.One": ""})
    bad = [
        unit("u-kind", "nonsense", {}, tests=["A.x", "A.y"]),
        unit("u-spec", "gtest", {}, tests=["A.x"]),
        unit("u-outside", "gtest", {"binary": "../../../bin/sh"}, tests=["A.x"]),
        {"unit": "u-bare"},
    ]
    records = wire.run(order_of(*bad, good, build=fake_build))
    assert [record["attempts"][0]["outcome"] for record in records] == ["error"] * 4 + ["passed"]
    assert [len(record["attempts"][0]["results"]) for record in records] == [2, 1, 1, 1, 1]


def test_a_demanded_sandbox_that_cannot_be_had_is_an_error_and_not_a_run_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fake_gtest: Any, fake_build: Path
) -> None:
    from tasks.run.runner import attempts, process, sandbox

    none = sandbox.Sandbox("none", why="bubblewrap is not installed")
    one = fake_gtest({"A.One": "", "A.Two": ""})
    for wanted, outcome in (("bubblewrap", "error"), ("auto", "passed")):
        order = order_of(one, build=fake_build, sandbox=wanted)
        folder = tmp_path / wanted
        folder.mkdir()
        ground = attempts.Ground(order, str(folder), none, (), process.Surroundings(), posix.clock() + 60)
        (attempt, *_) = attempts.run_unit(ground, one, 1)
        assert set(outcomes(attempt).values()) == {outcome}
        assert attempt["isolation"] == "none (bubblewrap is not installed)"


def test_a_number_reused_by_another_process_is_not_taken_for_the_runner(
    wire: Wire, fake_gtest: Any, fake_build: Path, runner_root: Path
) -> None:
    wire.run(order_of(*sleeps(fake_gtest, 1, 0), build=fake_build))
    path = runner_root / "leases" / "lease-1" / "pid.json"
    mine = posix.identity(os.getpid())
    assert mine is not None
    assert posix.is_alive(mine)
    path.write_text(json.dumps({**mine, "start_time": mine["start_time"] - 1}))
    assert wire.ok("status")["runners"][0]["alive"] is False
    wire.ok("stop", lease="lease-1", grace_seconds=0)  # Which would otherwise have ended this very test.


def test_order_and_environment_of_a_unit_are_what_was_asked(wire: Wire, tmp_path: Path) -> None:
    show = unit("u-env", "command", {"argv": ["/usr/bin/env"]})
    (record,) = wire.run(
        order_of(
            show,
            threads=3,
            env={"ASKED": "yes"},
            accelerator={"class": "cuda", "devices": [1, 2], "env": {}, "nodes": []},
        )
    )
    printed = dict(line.split("=", 1) for line in record["attempts"][0]["output"].splitlines() if "=" in line)
    assert printed["OMP_NUM_THREADS"] == printed["MKL_NUM_THREADS"] == printed["TORCHINDUCTOR_COMPILE_THREADS"] == "3"
    assert printed["CUDA_VISIBLE_DEVICES"] == "1,2"
    assert printed["ASKED"] == "yes"
    assert printed["HOME"] == printed["TMPDIR"]
    ours = {"PATH", "HOME", "TMPDIR", "LANG", "ASKED", "PWD", "CUDA_VISIBLE_DEVICES", "COMMONFLEET_LEASE"}
    assert {name for name in printed if not name.endswith("_THREADS")} - ours == {
        "PYTHONDONTWRITEBYTECODE",
        "PYTHONNOUSERSITE",
        "TORCHINDUCTOR_CACHE_DIR",
    }
