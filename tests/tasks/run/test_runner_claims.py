"""A driver that has lost its run starts nothing any more, and nobody does once the run is being stopped."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tasks.run.runner import claims, leases, spool
from tests.tasks.run.conftest import Wire, order_of, unit

PROGRAM = ("/bin/false",)


def order(lease: str, **fields: Any) -> Any:
    return order_of(unit("u", "command", {"argv": ["/bin/true"]}), lease=lease, sandbox="none", **fields)


def test_an_older_driver_starts_nothing_after_a_newer_one_has_claimed_the_run(wires: Any, runner_root: Path) -> None:
    old = wires()
    old.ok("start", order=order("a", epoch=1))
    new = wires()
    assert new.ok("claim", run="run-1", epoch=2)["epoch"] == 2
    refused = old.ask("start", order=order("b", epoch=1))
    assert (refused["ok"], refused["kind"]) == (False, "lease")
    assert "a newer driver has taken run run-1 over" in refused["error"]
    assert not old.ask("start", order=order("a", epoch=1))["ok"]
    assert not old.ask("start", order=order("b"))["ok"], "an order without an epoch is of epoch 0"
    assert [path.name for path in (runner_root / "leases").iterdir()] == ["a"]
    new.ok("start", order=order("a", epoch=2))  # The same lease, now followed by the new driver.
    new.ok("start", order=order("b", epoch=2))
    new.ok("start", order=order("c", run="another-run"))


def test_the_highest_epoch_is_told_and_survives_the_process_that_took_it(wires: Any) -> None:
    first = wires()
    assert first.ok("claim", run="r.1_x-y", epoch=5)["epoch"] == 5
    first.process.kill()
    first.process.wait()
    second = wires()
    assert second.ok("claim", run="r.1_x-y", epoch=3)["epoch"] == 5
    assert second.ok("claim", run="another", epoch=3)["epoch"] == 3
    assert not second.ask("start", order=order("a", run="r.1_x-y", epoch=4))["ok"]


def test_a_run_that_is_being_stopped_starts_nothing_until_a_newer_driver_takes_it(wire: Wire) -> None:
    assert wire.ok("claim", run="run-1", epoch=2, over=True)["epoch"] == 2
    wire.ok("claim", run="run-1", epoch=2)
    refused = wire.ask("start", order=order("a", epoch=2))
    assert (refused["kind"], refused["error"]) == ("lease", "run run-1 is being stopped")
    wire.ok("claim", run="run-1", epoch=3)
    wire.ok("start", order=order("a", epoch=3))


def test_claims_and_epochs_that_cannot_be_are_refused(wire: Wire, runner_root: Path) -> None:
    for run in ("../x", "a/b", "", "a b", "a\n", 7, None, "x" * 300):
        assert wire.ask("claim", run=run, epoch=1)["kind"] == "request", run
        assert wire.ask("start", order=order("a", run=run))["kind"] == "lease", run
    for epoch in (-1, True, "1", None, 1.5):
        assert wire.ask("claim", run="run-1", epoch=epoch)["kind"] == "request", epoch
        assert wire.ask("start", order=order("a", epoch=epoch))["kind"] == "lease", epoch
    assert list((runner_root / "runs").iterdir()) == list((runner_root / "leases").iterdir()) == []


def test_after_a_claim_is_answered_no_older_order_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The claim comes while a start has been allowed and has not written its order yet: the claim waits for it."""
    (tmp_path / "runs").mkdir()
    allowed, written = threading.Event(), threading.Event()
    real = spool.write_order

    def slowly(folder: str, body: Any) -> None:
        allowed.set()
        time.sleep(0.3)
        real(folder, body)
        written.set()

    monkeypatch.setattr(spool, "write_order", slowly)

    def start() -> None:
        with pytest.raises(leases.LeaseError, match="did not start"):  # There is no runner here, only its order.
            leases.start(str(tmp_path), order("a", epoch=1), PROGRAM)

    starting = threading.Thread(target=start)
    starting.start()
    assert allowed.wait(10)
    claims.claim(str(tmp_path), "run-1", 2, False)
    assert written.is_set()
    starting.join(10)
    with pytest.raises(leases.LeaseError, match="newer driver"):
        leases.start(str(tmp_path), order("b", epoch=1), PROGRAM)


def test_claims_of_long_ago_are_removed_when_a_machine_is_served_again(wires: Any, runner_root: Path) -> None:
    wire = wires()
    wire.ok("claim", run="old", epoch=2)
    wire.ok("claim", run="young", epoch=2)
    for name, days in (("old", 31), ("young", 29)):
        then = time.time() - days * 86400
        os.utime(runner_root / "runs" / f"{name}.json", (then, then))
    wires().ok("status")
    assert [path.name for path in (runner_root / "runs").iterdir()] == ["young.json"]
