"""The stages before a run's units are planned and leased: builds, and the machine made ready.

Each is a sentence over tasks. A resumed run reads its plan and builds from the ledger and makes nothing again.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import select

from blocks.build import Build, build_from_manifest
from blocks.catalog.load import default_root, load_catalog
from blocks.catalog.models import Catalog
from blocks.errors import BuildError, LedgerError
from blocks.home import Home
from blocks.ledger import Ledger
from blocks.ledger.schema import builds
from blocks.plan import Environment
from blocks.signing import Key
from flows.request import Request
from tasks.build.make import make_build
from tasks.plan.make import chosen_profile
from tasks.plan.narrow import narrow
from tasks.plan.place import SourceTree, Unpacked
from tasks.plan.sources import pack_sources
from tasks.plan.write import Planned
from tasks.provision.held import Held
from tasks.run.prepare import unpack_build, unpack_sources
from tasks.run.watch import Watch
from tasks.threads import in_daemon_thread


@dataclass(frozen=True)
class Signed:
    """A build with the digest of its signed provenance."""

    build: Build
    provenance: str


@dataclass(frozen=True)
class Desired:
    """What a run is about, before any machine is involved."""

    request: Request
    catalog: Catalog
    root: Path

    @property
    def environments(self) -> list[str]:
        return sorted({cell.environment for cell in chosen_profile(self.catalog, self.request.profile).matrix})

    @property
    def pools(self) -> list[str]:
        return list(chosen_profile(self.catalog, self.request.profile).pools)

    @property
    def lease_seconds(self) -> float:
        return chosen_profile(self.catalog, self.request.profile).lease_target_seconds


def desired(request: Request) -> Desired:
    """Read the catalog and narrow it to the request. Raises CatalogError, PlanError."""
    root = default_root()
    catalog = narrow(
        load_catalog(root),
        request.profile,
        suites=request.suites,
        environments=request.environments,
        include=request.include,
        sample=request.sample,
        retry_alone=request.retry_alone,
    )
    return Desired(request, catalog, root)


async def build_all(want: Desired, home: Home, ledger: Ledger, key: Key, watch: Watch) -> dict[str, Signed]:
    """Make (or find) each environment's build: environment -> build."""
    made: dict[str, Signed] = {}
    stopped = threading.Event()

    def told(note: str) -> None:
        if stopped.is_set():
            raise BuildError("The build was cancelled.")  # ends the program that it is running, too
        watch.tell(note)

    for environment in want.environments:
        name = want.catalog.environments[environment].build
        watch.at("build", name)
        result = await in_daemon_thread(
            lambda name=name: make_build(  # type: ignore[misc]
                name,
                want.catalog.builds[name],
                ledger=ledger,
                store=ledger.store,
                key=key,
                workshop=home.workshop,
                catalog_root=want.root,
                progress=told,
            ),
            stopped,
        )
        made[environment] = Signed(result.build, result.provenance)
    return made


def builds_of(ledger: Ledger, plan: Planned) -> dict[str, Signed]:
    """The builds that a written plan refers to. Raises LedgerError when the store has lost one."""
    found: dict[str, Signed] = {}
    with ledger.read() as connection:
        for environment in plan.environments:
            row = connection.execute(
                select(builds.c.manifest, builds.c.provenance).where(builds.c.digest == environment.build_digest)
            ).first()
            build = build_from_manifest(json.loads(row.manifest)) if row else None
            if row is None or build is None or not all(ledger.store.has(a.digest) for a in build.artifacts):
                raise LedgerError(
                    f"This run's build {environment.build} ({environment.build_digest[7:19]}) is not in the store.",
                    kept="Everything recorded is safe.",
                    do="Restore the store from a backup, or start a new run.",
                )
            found[environment.name] = Signed(build, row.provenance)
    return found


async def ready_builds(
    held: Held, want: Desired, made: Mapping[str, Signed], ledger: Ledger, key: Key, watch: Watch
) -> dict[str, Unpacked]:
    """Have the machine unpack the builds: environment -> where its build stands."""
    places: dict[str, Unpacked] = {}
    for name, signed in made.items():
        watch.at("unpack", f"{signed.build.name} on {held.machine}")
        root = await unpack_build(held, ledger.store, signed.build, signed.provenance, key.public)
        spec = want.catalog.environments[name]
        python = spec.python or signed.build.runtime.python
        environment = Environment(
            name=name,
            build=spec.build,
            build_digest=signed.build.digest,
            accelerator=spec.accelerator,
            os=spec.os,
            python=python,
            config=spec.config,
        )
        places[name] = Unpacked(environment, root, held.hello["runtime"]["python"].get(python, ""))
    return places


async def ready_sources(held: Held, want: Desired, ledger: Ledger, plan: Planned | None) -> dict[str, SourceTree]:
    """Have the machine unpack the suites' own files: suite -> where they stand.

    With a plan, they are the files that were planned, whatever the catalog holds today. Raises LedgerError when the
    store has lost them.
    """
    trees: dict[str, SourceTree] = {}
    if plan is not None:
        for suite, digest in plan.sources.items():
            if not ledger.store.has(digest):
                raise LedgerError(f"The files of suite {suite} that this run has planned are not in the store.")
            trees[suite] = await unpack_sources(held, ledger.store, digest)
        return trees
    for suite in sorted({cell.suite for cell in chosen_profile(want.catalog, want.request.profile).matrix}):
        folder = want.catalog.suites[suite].sources
        if folder is not None:
            digest, _ = pack_sources(want.root / folder, ledger.store)
            trees[suite] = await unpack_sources(held, ledger.store, digest)
    return trees
