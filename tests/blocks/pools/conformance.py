"""What every kind of pool must do. A kind's test class derives from this and says how one is made."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

from blocks.canonical import canonical_json
from blocks.pools.base import Channel, Pool, Submission, offer_from_json, offer_to_json
from blocks.requirement import Requirement


class Conformance:
    """Subclasses give `pool` as a fixture, and requirements that it can and cannot serve."""

    servable = Requirement()
    unservable = Requirement(accelerator="tpu", devices=4096)

    async def submission(self, pool: Pool, identity: str = "s-1") -> Submission:
        (offer, *_) = await pool.offers(self.servable)
        return Submission(identity, f"cf-{identity}", f"token-{identity}", "run-1", offer, time.time() + 3600)

    async def test_it_offers_only_what_it_can_serve(self, pool: Pool) -> None:
        offers = await pool.offers(self.servable)
        assert offers
        assert {offer.pool for offer in offers} == {pool.name}
        assert all(offer.slots > 0 for offer in offers)
        assert await pool.offers(self.unservable) == []

    async def test_a_repeated_submission_makes_no_second_machine(self, pool: Pool) -> None:
        submission = await self.submission(pool)
        assert await pool.find(submission) is None
        first = await pool.submit(submission)
        assert await pool.submit(submission) == first
        assert await pool.find(submission) == first
        assert await pool.inventory() == [first]

    async def test_what_the_call_made_is_found_by_the_submission_alone(self, pool: Pool) -> None:
        one, two = await self.submission(pool, "s-1"), await self.submission(pool, "s-2")
        await pool.submit(one)
        assert await pool.find(two) is None
        made = await pool.submit(two)
        assert await pool.find(two) == made
        assert {machine.submission for machine in await pool.inventory()} == {"s-1", "s-2"}

    async def test_a_released_machine_is_gone_and_releasing_again_changes_nothing(self, pool: Pool) -> None:
        machine = await pool.submit(await self.submission(pool))
        assert (await pool.observe(machine)).presence == "here"
        assert (await pool.release(machine)).presence == "gone"
        assert (await pool.release(machine)).presence == "gone"
        assert (await pool.observe(machine)).presence == "gone"
        assert await pool.inventory() == []

    async def test_the_machine_carries_its_hard_end(self, pool: Pool) -> None:
        submission = replace(await self.submission(pool), expires=1_900_000_000.0)
        assert (await pool.submit(submission)).expires == 1_900_000_000.0

    async def test_it_says_that_it_is_usable(self, pool: Pool) -> None:
        assert (await pool.health()).usable

    async def test_an_offer_is_the_same_when_it_was_written_down(self, pool: Pool) -> None:
        for offer in await pool.offers(self.servable):
            assert offer_from_json(canonical_json(offer_to_json(offer)).decode()) == offer

    async def test_its_machines_are_reached_as_often_as_asked_and_say_what_they_are(self, pool: Pool) -> None:
        machine = await pool.submit(await self.submission(pool))
        one, two = await pool.connect(machine), await pool.connect(machine)
        for channel in (one, two):
            assert (await said(channel, "hello"))["protocol"] == 1
        await one.close(5)
        assert (await said(two, "status"))["runners"] == []
        await two.close(0)
        assert await two.read() == b""

    async def test_a_file_that_was_brought_can_be_read_there_by_its_path(self, pool: Pool, tmp_path: Path) -> None:
        machine = await pool.submit(await self.submission(pool))
        (tmp_path / "file").write_text("not what was promised")
        path = await pool.bring(machine, tmp_path / "file")
        channel = await pool.connect(machine)
        artifact = {"role": "tree", "name": "a.tar.gz", "digest": "sha256:" + "0" * 64, "path": path}
        answer = await said(channel, "unpack", digest="sha256:" + "1" * 64, artifacts=[artifact])
        assert "has the digest" in answer["error"]  # so it has been read
        await channel.close(5)

    async def test_it_can_be_closed_twice_and_keeps_its_machines(self, pool: Pool) -> None:
        machine = await pool.submit(await self.submission(pool))
        await pool.close()
        await pool.close()
        assert await pool.inventory() == [machine]


async def said(channel: Channel, op: str, **arguments: object) -> dict[str, object]:
    """One request over a channel, and its answer."""
    await channel.write(json.dumps({"id": 1, "op": op, **arguments}).encode() + b"\n")
    line = b""
    while not line.endswith(b"\n"):
        piece = await channel.read()
        assert piece, "the far end is gone"
        line += piece
    answer: dict[str, object] = json.loads(line)
    return answer
