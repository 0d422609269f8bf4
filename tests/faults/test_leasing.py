"""Eight processes that lease, admit and settle at once, killed at random moments: no update lost, nothing twice."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import time
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
from sqlalchemy import func, select

from blocks.canonical import canonical_json
from blocks.ledger import Ledger
from blocks.ledger.schema import attempts, bundles, events, leases, settlements, units
from blocks.signing import BUNDLE_TYPE, Key, sign
from tasks.collect.driver import Seat
from tasks.collect.grant import Asking
from tasks.collect.leases import DEATHS
from tasks.collect.turn import asked, turn
from tests.faults.rounds import rounds
from tests.ledger_fixtures import database_url as database_url
from tests.ledger_fixtures import ledger as ledger
from tests.ledger_fixtures import postgres as postgres
from tests.ledger_rows import new_key, open_made
from tests.tasks.collect.conftest import Night, finished, open_night, unit

PROCESSES, UNITS = 8, 3000
KILLS = 25  # in a round, at most


def work(root: Path, url: str | None, key: Key, seat: Seat, machine: str, told: Path) -> None:
    """A slot's life. What was answered to it goes to `told` before it goes on."""
    ledger = open_made(root, url)
    asking = Asking(seat.run, machine, key.id, ("e",), target_seconds=10.0)
    answer = asked(ledger, asking, seat)
    with told.open("a", buffering=1) as file:
        while "lease" in answer or not answer["dry"]:
            if "lease" not in answer:
                time.sleep(0.02)
                answer = asked(ledger, asking, seat)
                continue
            lease, records = answer["lease"], [finished(granted["id"]) for granted in answer["units"]]
            part = {"protocol": 1, "lease": lease, "part": 1, "records": records}
            _, answer = turn(ledger, sign(key, BUNDLE_TYPE, canonical_json(part)), key.public, asking, seat)
            file.write(f"{lease}\n")
    os._exit(0)


def machine_names() -> Iterator[str]:
    """A killed process's lease lives on for a while, and holds its slot: each process has a machine of its own."""
    return (f"m{number}" for number in range(PROCESSES + KILLS))


def end_what_died(night: Night, machine: str) -> None:
    """The deadline of the dead process's lease passes; it holds one at most."""
    query = select(leases.c.id).where(leases.c.machine == machine, leases.c.state == "live")
    with night.ledger.read() as connection:
        dead = connection.scalars(query).all()
    assert len(dead) <= 1
    for lease in dead:
        night.overdue(lease)


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_kill_9_of_processes_that_lease_loses_no_update_and_doubles_nothing(
    ledger: Ledger, database_url: str | None, tmp_path: Path
) -> None:
    key, fork = new_key(), multiprocessing.get_context("fork")
    for number, dice in rounds(f"leasing-kill, {ledger.engine.dialect.name}", full=40, sample=1):
        planned = [unit(1_000_000 + number * UNITS + n, estimate_seconds=1.0) for n in range(UNITS)]
        names = machine_names()
        night = open_night(ledger, key, planned, slots=1, machines_=tuple(machine_names()))
        told = tmp_path / f"told-{number}"
        told.touch()

        def start(machine: str) -> BaseProcess:
            arguments = (ledger.results.parent, database_url, key, night.seat, machine, told)  # noqa: B023
            process = fork.Process(target=work, args=arguments)
            process.start()
            return process

        at_work = {machine: start(machine) for machine in itertools.islice(names, PROCESSES)}
        for machine in names:
            time.sleep(dice.uniform(0.0, 0.2))
            victim = dice.choice(sorted(at_work))
            process = at_work.pop(victim)
            alive = process.is_alive()
            process.kill()
            process.join()
            assert alive or process.exitcode == 0, "a process gave up"
            end_what_died(night, victim)
            if not alive:
                break  # the queue is dry
            at_work[machine] = start(machine)
        for process in at_work.values():
            process.join(120)
            assert process.exitcode == 0
        check(night, told.read_text().split())


def check(night: Night, answered: list[str]) -> None:
    """All that can be said of the books once every unit has ended."""
    run = night.seat.run
    with night.ledger.read() as connection:

        def count(query: object) -> int:
            return connection.scalar(query) or 0  # type: ignore[call-overload, no-any-return]

        mine = select(func.count()).select_from(units).where(units.c.run == run)
        assert count(mine.where(units.c.state == "terminal")) == count(mine) == UNITS
        settled = connection.execute(
            select(settlements.c.unit, settlements.c.terminal, units.c.deaths)
            .join(units, (units.c.run == settlements.c.run) & (units.c.unit == settlements.c.unit))
            .where(settlements.c.run == run)
        ).all()
        assert len(settled) == len({row.unit for row in settled}) == UNITS
        # By chance one unit may have been in hand at three of the kills: then it is lost(poison), and rightly so.
        ran = {row.unit for row in settled if row.deaths < DEATHS}
        assert {row.terminal for row in settled if row.unit in ran} == {"ran"}
        assert {row.terminal for row in settled if row.unit not in ran} <= {"lost"}
        counted = connection.scalars(select(attempts.c.unit).where(attempts.c.run == run, attempts.c.counted)).all()
        assert len(counted) == len(set(counted))
        assert set(counted) == ran
        kept = set(connection.scalars(select(bundles.c.lease).where(bundles.c.run == run)))
        assert set(answered) <= kept, "a part that was answered for is not there"
        told = select(func.count()).select_from(events).where(events.c.run == run, events.c.kind == "bundle.admitted")
        assert count(told) == len(kept)
        lives = select(func.count()).select_from(leases).where(leases.c.run == run, leases.c.state == "live")
        assert count(lives) == 0
