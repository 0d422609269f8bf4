"""Making a machine ready for a run: its builds and suites' files unpacked there, once per digest.

The agent checks signature and digests before the machine sees anything; the machine checks the digests again.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from blocks.accelerators.registry import for_slot
from blocks.build import Artifact, Build
from blocks.canonical import digest_json
from blocks.catalog.models import Catalog
from blocks.errors import HostError
from blocks.plan import Environment
from blocks.store import Store
from tasks.build.provenance import check_build
from tasks.plan.place import SourceTree, Unpacked
from tasks.provision.held import Held
from tasks.run.agent import Ready

UNPACK_SECONDS = 900.0
SOURCES = "sources"


async def unpack_build(held: Held, store: Store, build: Build, provenance: str, public: bytes) -> Path:
    """Check a build's signature and have the machine unpack it; gives its root. Raises TrustError, HostError."""
    envelope = json.loads(await asyncio.to_thread(store.get, provenance))
    check_build(build, envelope, public)
    return await _unpack(held, store, build.digest, build.artifacts)


async def unpack_sources(held: Held, store: Store, digest: str) -> SourceTree:
    """Have the machine unpack a suite's own files, packed in the store under `digest`.

    Suites with the same files share them: where they stand has no suite's name in it. The key is not `digest` itself,
    under which earlier versions left a folder named after one of the suites.
    """
    tree = Artifact("tree", f"{SOURCES}.tar.gz", digest, await asyncio.to_thread(store.size, digest))
    return SourceTree(digest, await _unpack(held, store, digest_json([SOURCES, digest]), (tree,)) / SOURCES)


async def _unpack(held: Held, store: Store, digest: str, artifacts: tuple[Artifact, ...]) -> Path:
    listed = []
    for a in artifacts:
        file = await asyncio.to_thread(store.local_copy, a.digest)
        listed.append({"role": a.role, "name": a.name, "digest": a.digest, "path": await held.bring(file)})
    answer = await held.pipe.call("unpack", timeout=UNPACK_SECONDS, digest=digest, artifacts=listed)
    root = answer.get("root")
    if not isinstance(root, str):
        raise HostError(f"{held.machine} does not say where it has unpacked {digest}.", do="The run can be resumed.")
    return Path(root)


def ready(
    held: Held,
    catalog: Catalog,
    environments: Mapping[str, Unpacked],
    sources: Mapping[str, SourceTree],
    slots: int,
) -> Ready:
    """All that an agent needs to know of a prepared machine. `slots` 0 means all of them."""
    lanes = min(slots or held.slots, held.slots)
    return Ready(
        machine=held.machine,
        pipe=held.pipe,
        slots=lanes,
        threads=held.threads,
        python=held.hello["runtime"]["python"],
        builds={name: str(place.root) for name, place in environments.items()},
        sources={suite: str(tree.root) for suite, tree in sources.items()},
        accelerators={name: _devices(place.environment, held.slots) for name, place in environments.items()},
        environments={name: _facts(place.environment, catalog) for name, place in environments.items()},
        suites={name: {"env": suite.env, "retry_alone": suite.retry_alone} for name, suite in catalog.suites.items()},
        sandbox=held.sandbox,
    )


def _facts(environment: Environment, catalog: Catalog) -> dict[str, Any]:
    spec = catalog.environments.get(environment.name)
    return {"python": environment.python, "env": spec.env if spec else {}}


def _devices(environment: Environment, slots: int) -> list[dict[str, Any]]:
    return [for_slot(environment.accelerator, slot) for slot in range(slots)]
