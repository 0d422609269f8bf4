"""Provenance: a signed statement of what was made, out of what, by whom and when.

in-toto Statement v1 (https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md) with a SLSA Provenance v1
predicate (https://slsa.dev/spec/v1.0/provenance), in a DSSE envelope. Its subjects are the build's manifest and each
artifact, so whoever holds the public key can check a build without asking us.
"""

from __future__ import annotations

import datetime
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from blocks.build import Build
from blocks.canonical import canonical_json
from blocks.errors import TrustError
from blocks.signing import STATEMENT_TYPE, Key, sign, verify_json
from blocks.store import Store
from tasks.build.base import Ingredient

STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "urn:commonfleet:build:{kind}:v1"
BUILDER = "urn:commonfleet:builder:{key}"
MANIFEST = "manifest"
"""Name of the subject that stands for the whole build: the digest of its manifest."""


def attest(
    build: Build,
    *,
    kind: str,
    parameters: Mapping[str, Any],
    ingredients: Sequence[Ingredient],
    started: datetime.datetime,
    finished: datetime.datetime,
    key: Key,
    store: Store,
) -> str:
    """Sign what was made and keep the envelope in the store; returns its digest."""
    statement = {
        "_type": STATEMENT,
        "subject": _subjects(build),
        "predicateType": PREDICATE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE.format(kind=kind),
                "externalParameters": dict(parameters),
                "internalParameters": {"key": build.key},
                "resolvedDependencies": [_dependency(ingredient) for ingredient in ingredients],
            },
            "runDetails": {
                "builder": {"id": BUILDER.format(key=key.id.removeprefix("sha256:")[:16])},
                "metadata": {
                    "invocationId": uuid.uuid4().urn,
                    "startedOn": _timestamp(started),
                    "finishedOn": _timestamp(finished),
                },
            },
        },
    }
    return store.put_bytes(canonical_json(sign(key, STATEMENT_TYPE, canonical_json(statement))))


def check_build(build: Build, envelope: Mapping[str, Any], public: bytes) -> None:
    """Raise TrustError unless the envelope is signed with `public` and says exactly what `build` says.

    That is: the digest of the manifest, and the name and digest of every artifact, none missing and none more.
    """
    statement = verify_json(dict(envelope), STATEMENT_TYPE, public)
    if not isinstance(statement, dict) or statement.get("_type") != STATEMENT:
        raise TrustError(f"The provenance of {build.name} is no in-toto statement.")
    if statement.get("predicateType") != PREDICATE:
        raise TrustError(f"The provenance of {build.name} is no SLSA provenance.")
    stated = statement.get("subject")
    if not isinstance(stated, list):
        raise TrustError(f"The provenance of {build.name} names no subject.")
    expected = _subjects(build)
    for subject in expected:
        if subject not in stated:
            raise TrustError(
                f"{subject['name']} of the build {build.name} is not what its provenance was signed for.",
                do="Do not use it: make the build again, and find out who changed it.",
            )
    if len(stated) != len(expected):
        raise TrustError(f"The provenance of {build.name} names files that the build does not have.")


def _subjects(build: Build) -> list[dict[str, Any]]:
    named = [(MANIFEST, build.digest), *((artifact.name, artifact.digest) for artifact in build.artifacts)]
    return [{"name": name, "digest": {"sha256": digest.removeprefix("sha256:")}} for name, digest in named]


def _dependency(ingredient: Ingredient) -> dict[str, Any]:
    body = {"uri": ingredient.uri, "digest": dict(ingredient.digest), "name": ingredient.name}
    return {**body, "downloadLocation": ingredient.source} if ingredient.source else body


def _timestamp(moment: datetime.datetime) -> str:
    return moment.astimezone(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
