"""The build stage: make a build, or find that it is already made.

    inputs -> key -> in the ledger? -> reuse
                          └─ no ─► make -> artifacts into the store -> sign -> one row and one event

Everything happens in a temporary folder of the workshop, so an interrupted build leaves nothing that the next one
could take for a result; the row, written last, is what makes a build exist.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import delete, insert, select

from blocks.build import Artifact, Build, build_from_manifest
from blocks.canonical import canonical_json, digest_json, short
from blocks.catalog.models import SourceBuild, WheelBuild
from blocks.errors import BuildError, TrustError
from blocks.ledger import Ledger, now, record
from blocks.ledger.schema import builds
from blocks.signing import Key
from blocks.store import Store, free_bytes
from tasks.build.base import Bench, Inputs, Made, Product
from tasks.build.indexes import redacted
from tasks.build.kinds import source, wheel
from tasks.build.provenance import attest, check_build
from tasks.build.workshop import one_maker, sweep, temporary_folder

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR)


@dataclass(frozen=True)
class MadeBuild:
    """A build that is in the store and in the ledger. `provenance` is the digest of its signed statement."""

    build: Build
    provenance: str
    reused: bool
    seconds: float


def make_build(
    name: str,
    spec: WheelBuild | SourceBuild,
    *,
    ledger: Ledger,
    store: Store,
    key: Key,
    workshop: Path,
    catalog_root: Path,
    progress: Callable[[str], None],
) -> MadeBuild:
    """The build `name` as the catalog describes it, made only when an unchanged one is not there already.

    Two processes that want the same build at once: one makes it, the other waits and reuses it. Raises BuildError
    (with the first error of the tool and the file of its whole log), TrustError for a wheel that is not what its
    index promised.
    """
    began = time.monotonic()
    with _explained(name, workshop):
        sweep(workshop)
        with (
            one_maker(workshop, digest_json([name, spec.model_dump(mode="json")]), progress),
            temporary_folder(workshop) as folder,
        ):
            bench = Bench(folder, workshop / "logs" / name, catalog_root, progress)
            inputs = _inputs(name, spec, bench)
            build_key = digest_json(inputs.body)
            found = _look_up(build_key, ledger, store, key)
            if found:
                return MadeBuild(*found, reused=True, seconds=time.monotonic() - began)
            build, provenance = _make(name, spec, inputs, build_key, bench, store, key)
            _write_down(build, provenance, ledger)
    progress(f"{name} is ready: {short(build.digest)}, {_megabytes(build)} MB")
    return MadeBuild(build, provenance, reused=False, seconds=time.monotonic() - began)


def _inputs(name: str, spec: WheelBuild | SourceBuild, bench: Bench) -> Inputs:
    return wheel.inputs(name, spec, bench) if isinstance(spec, WheelBuild) else source.inputs(name, spec, bench)


def _make(
    name: str, spec: WheelBuild | SourceBuild, inputs: Inputs, build_key: str, bench: Bench, store: Store, key: Key
) -> tuple[Build, str]:
    started = datetime.datetime.now(datetime.UTC)
    if isinstance(spec, WheelBuild):
        made = wheel.make(name, spec, inputs, bench)
    else:
        made = source.make(name, spec, inputs, bench)
    bench.progress(f"storing {len(made.products)} artifacts")
    build = Build(name, build_key, _stored(made, store), made.runtime, made.version)
    provenance = attest(
        build,
        kind=spec.kind,
        parameters=_parameters(spec),
        ingredients=made.ingredients,
        started=started,
        finished=datetime.datetime.now(datetime.UTC),
        key=key,
        store=store,
    )
    return build, provenance


def _stored(made: Made, store: Store) -> tuple[Artifact, ...]:
    def artifact(product: Product) -> Artifact:
        return Artifact(product.role, product.name, store.put_file(product.path), product.path.stat().st_size)

    return tuple(artifact(product) for product in sorted(made.products, key=lambda product: product.name))


def _parameters(spec: WheelBuild | SourceBuild) -> dict[str, Any]:
    """The spec as provenance shows it to everybody: without passwords in URLs."""
    body = spec.model_dump(mode="json")
    body["indexes"] = [redacted(index) for index in body["indexes"]]
    if "repository" in body:
        body["repository"] = redacted(body["repository"])
    return body


def _look_up(build_key: str, ledger: Ledger, store: Store, key: Key) -> tuple[Build, str] | None:
    """The build of this key, if all of it is still in the store and its provenance is signed with our key."""
    with ledger.read() as connection:
        row = connection.execute(select(builds).where(builds.c.key == build_key)).one_or_none()
    if row is None:
        return None
    build = build_from_manifest(json.loads(row.manifest))
    if not all(_is_whole(artifact, store) for artifact in build.artifacts) or not store.has(row.provenance):
        return None
    try:
        check_build(build, json.loads(store.get(row.provenance)), key.public)
    except TrustError:
        return None  # signed with a key that is not ours (any more): made and signed again
    return build, str(row.provenance)


def _is_whole(artifact: Artifact, store: Store) -> bool:
    """Present at its full length. (Whoever unpacks it checks its digest.)"""
    try:
        return store.size(artifact.digest) == artifact.bytes
    except FileNotFoundError:
        return False


def _write_down(build: Build, provenance: str, ledger: Ledger) -> None:
    manifest = canonical_json(build.manifest()).decode()
    with ledger.write() as connection:
        # A row of this key may be left from artifacts that somebody deleted since.
        connection.execute(delete(builds).where(builds.c.key == build.key))
        connection.execute(
            insert(builds).values(
                key=build.key,
                digest=build.digest,
                name=build.name,
                manifest=manifest,
                provenance=provenance,
                created=now(),
            )
        )
        record(
            connection,
            "build.made",
            build=build.name,
            key=build.key,
            digest=build.digest,
            version=build.version,
            provenance=provenance,
            artifacts={artifact.name: artifact.digest for artifact in build.artifacts},
        )


def _megabytes(build: Build) -> int:
    return round(sum(artifact.bytes for artifact in build.artifacts) / 1e6)


@contextlib.contextmanager
def _explained(name: str, workshop: Path) -> Iterator[None]:
    """A disk that is full, or a workshop that cannot be written, said in words."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise BuildError(
                f"The build {name} could not be written: {error.strerror} ({free_bytes(workshop) >> 20} MiB free).",
                kept="Nothing half-made was left; everything made before is safe.",
                do=f"Free some space on the disk of {workshop}, then start again.",
            ) from error
        if error.errno in _REFUSED and error.filename:
            raise BuildError(
                f"The build {name} could not be made: {error.filename}: {error.strerror}.",
                kept="Nothing half-made was left.",
                do="Make that path readable and writable, then start again.",
            ) from error
        raise
