"""Planning without a run: builds are made or found, tests are listed, and nothing is written to the ledger's runs."""

from __future__ import annotations

from blocks.home import Home
from blocks.plan import Plan
from blocks.signing import load_or_make_key
from flows.drive import ledger_of
from flows.planning import Planning, discovery_on, plan_of, progress_to
from flows.request import Request
from flows.stages import build_all, desired, ready_builds, ready_sources
from tasks.provision.local import take_local
from tasks.run.watch import Watch


async def plan_only(home: Home, request: Request, watch: Watch) -> Plan:
    """The plan that a run of this request would write down now."""
    ledger = ledger_of(home)
    try:
        want = desired(request)
        key = load_or_make_key(home.keys / "agent.key")
        made = await build_all(want, home, ledger, key, watch)
        pool = want.pools[0]
        async with take_local(home, pool, want.catalog.pools[pool]) as held:
            places = await ready_builds(held, want, made, ledger, key, watch)
            trees = await ready_sources(held, want, ledger, None)
            planning = Planning(want, made, places, trees, held.machine, held.hello, held.slots, home.discovery)
            watch.at("plan", "listing the tests")
            return await plan_of(planning, ledger, discovery_on(held), progress_to(watch))
    finally:
        ledger.close()
