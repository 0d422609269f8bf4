"""A lease whose folder is removed while its runner lives: what was in it runs again, and no part has two contents."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from blocks.plan import Unit
from blocks.signing import load_or_make_key
from tasks.run.runner import execute, parts
from tests.ledger_rows import open_made
from tests.tasks.collect.conftest import Night, open_night
from tests.tasks.run.conftest import Wire, order_of
from tests.tasks.run.waiting import shell, wait, wait_for

UNTIL = "until [ -e {} ]; do sleep 0.02; done; "


class Signs:
    """Files by which a test and its units wait for each other."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def unit(self, number: str, awaited: str) -> dict[str, Any]:
        """It passes, once the sign is there."""
        return shell(number, UNTIL.format(self.folder / awaited))

    def remover(self, number: str) -> dict[str, Any]:
        """It removes its lease's folder at the sign `remove`, says `removed`, and ends at the sign `end`."""
        gone = f'lease=$(realpath ../..) && rm -rf "$lease" && [ ! -e "$lease" ] && touch {self.folder}/removed; '
        ends = UNTIL.format(self.folder / "end") + f"[ -e {self.folder}/removed ]"
        return shell(number, UNTIL.format(self.folder / "remove") + gone + ends)

    def give(self, name: str) -> None:
        (self.folder / name).touch()

    def let_it_remove(self, wire: Wire, root: Path, number: str) -> None:
        """Only when nobody else has anything to write there: neither the runner nor this test by asking."""
        wait_for(wire, lambda line: line["in_hand"] == number)
        wait(lambda: json.loads((root / "leases/lease-1/in_hand.json").read_text())["process"])
        self.give("remove")
        wait((self.folder / "removed").exists)


def test_a_unit_that_removes_its_lease_takes_along_what_was_not_collected_and_nothing_else(
    wire: Wire, runner_root: Path, tmp_path: Path
) -> None:
    """What it took is told as never finished, so that the desk gives it to somebody else."""
    signs = Signs(tmp_path)
    units = [shell("u-told", "true"), signs.unit("u-taken", "go"), signs.remover("u-remover"), shell("u-last", "true")]
    wire.ok("start", order=order_of(*units, sandbox="none", retry_alone=0))
    wait_for(wire, lambda line: line["spooled"] == 1)
    first = wire.ok("collect", lease="lease-1", acked=0)["part"]
    assert [record["unit"] for record in first["records"]] == ["u-told"]
    signs.give("go")
    signs.let_it_remove(wire, runner_root, "u-remover")
    assert wire.ok("status")["runners"] == []
    assert wire.ask("collect", lease="lease-1", acked=1)["kind"] == "lease"
    signs.give("end")
    wait_for(wire, lambda line: line["done"])
    records, last = wire.collect_all("lease-1", acked=1)
    told = [(record["unit"], record["attempts"][0]["outcome"]) for record in records]
    assert told == [("u-remover", "passed"), ("u-last", "passed")]
    assert (last["reason"], last["in_hand"], last["not_started"]) == ("finished", None, [])
    wire.ok("forget", lease="lease-1")
    assert list((runner_root / "leases").iterdir()) == []


def test_units_whose_records_were_removed_go_back_to_the_queue(wire: Wire, runner_root: Path, tmp_path: Path) -> None:
    """The same seen from the desk: they are not lost, not missing, and run again."""
    signs, night = Signs(tmp_path), night_of(tmp_path, "told", "taken", "remover")
    grant = night.granted(target_seconds=1000)
    told, taken, remover = (one["id"] for one in sorted(grant["units"], key=lambda one: int(one["name"][0])))
    units = [shell(told, "true"), signs.unit(taken, "go"), signs.remover(remover)]
    wire.ok("start", order=order_of(*units, sandbox="none", retry_alone=0))
    wait_for(wire, lambda line: line["spooled"] == 1)
    part = wire.ok("collect", lease="lease-1", acked=0)["part"]
    night.deliver(grant["lease"], part["part"], part["records"])
    signs.give("go")
    signs.let_it_remove(wire, runner_root, remover)
    signs.give("end")
    wait_for(wire, lambda line: line["done"])
    part = wire.ok("collect", lease="lease-1", acked=1)["part"]
    night.deliver(grant["lease"], part["part"], part["records"])
    assert night.give_back(grant["lease"], died=False, in_hand=None) == 1
    assert night.states() == {told: "ran", taken: "open", remover: "ran"}
    assert [one["id"] for one in night.granted(target_seconds=1000)["units"]] == [taken]
    night.ledger.close()


def night_of(folder: Path, *names: str) -> Night:
    planned = [
        Unit("s", "e", f"{n} {name}", "command", {"argv": ["true"]}, estimate_seconds=0.1 - n / 100)
        for n, name in enumerate(names)
    ]
    ledger = open_made(folder / "ledger")
    return open_night(ledger, load_or_make_key(folder / "key"), planned, slots=1)


def test_no_part_number_has_two_contents_though_its_lease_was_removed(
    wires: Any, runner_root: Path, tmp_path: Path
) -> None:
    """Of three records two were given out, and one of those parts was acknowledged; then all of that is gone."""
    wire, signs = wires(), Signs(tmp_path)
    units = [*(signs.unit(f"u{n}", f"go{n}") for n in range(3)), signs.remover("u-remover"), shell("u-last", "true")]
    wire.ok("start", order=order_of(*units, sandbox="none", retry_alone=0))
    given = []
    for n in range(2):
        signs.give(f"go{n}")
        wait_for(wire, lambda line, n=n: line["spooled"] == n + 1)
        given.append(wire.ok("collect", lease="lease-1", acked=n)["part"])
    signs.give("go2")
    signs.let_it_remove(wire, runner_root, "u-remover")
    signs.give("end")
    wait_for(wire, lambda line: line["done"])
    for acked in (0, 1, 2):  # Whatever a driver, dead meanwhile or not, remembers.
        part = wires().ok("collect", lease="lease-1", acked=acked)["part"]
        assert part["part"] > 2
        assert [record["unit"] for record in part["records"]] == ["u-remover", "u-last"]
    assert [(part["part"], part["records"][0]["unit"]) for part in given] == [(1, "u0"), (2, "u1")]
    assert wire.ok("collect", lease="lease-1", acked=part["part"])["part"] is None
    assert not wire.ask("collect", lease="lease-1", acked=2)["ok"]


def test_a_runner_puts_nothing_back_while_its_unit_may_still_be_removing(tmp_path: Path) -> None:
    """Half of it would be removed again, and the rest taken for the whole."""
    folder = tmp_path / "lease"
    (folder / "spool").mkdir(parents=True)
    order = order_of(shell("u", "true"), sandbox="none")
    lease = execute._Lease(str(folder), order, SimpleNamespace(wanted=False, read=None), 1e9)  # type: ignore[arg-type]
    lease.in_hand, lease.seq, lease.recorded = "u", 2, 1
    lease.process_started(os.getpid())
    assert json.loads((folder / "in_hand.json").read_text())["process"]["pid"] == os.getpid()
    shutil.rmtree(folder)
    lease.process_started(os.getpid())
    assert not folder.exists()
    lease.take_in_hand("u", 3)
    assert parts.delivered(str(folder)) == {"part": 1, "seq": 1, "leapt": True}
