"""What every kind of pool must do. A kind's test class derives from this and says how one is made."""

from __future__ import annotations

import time
from dataclasses import replace

from blocks.pools.base import Pool, Submission
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
