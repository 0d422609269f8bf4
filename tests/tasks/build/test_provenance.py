"""Provenance says what was made out of what, and whatever was changed afterwards does not fit it."""

from __future__ import annotations

import base64
import datetime
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from blocks.build import Artifact, Build, Runtime
from blocks.canonical import canonical_json, digest_bytes
from blocks.catalog.models import WheelBuild
from blocks.errors import TrustError
from blocks.signing import BUNDLE_TYPE, STATEMENT_TYPE, load_or_make_key, sign
from blocks.store import Store
from tasks.build.base import Ingredient
from tasks.build.provenance import attest, check_build
from tests.tasks.build.place import Place, wheel

MOMENT = datetime.datetime(2026, 11, 23, 4, 0, tzinfo=datetime.UTC)
BUILD = Build(
    "torch",
    digest_bytes(b"key"),
    (Artifact("wheel", "a.whl", digest_bytes(b"a"), 1), Artifact("tree", "b.tar.gz", digest_bytes(b"b"), 1)),
    Runtime("x86_64", "cp311", "glibc 2.28", ("c++",)),
    "2.13.0",
)


@pytest.fixture
def signed(tmp_path: Path) -> tuple[dict[str, Any], bytes]:
    """An envelope for BUILD, and the public key."""
    store, key = Store(tmp_path / "store"), load_or_make_key(tmp_path / "key")
    digest = attest(
        BUILD,
        kind="wheel",
        parameters={"requirements": ["torch==2.13.0"]},
        ingredients=[Ingredient("pkg:pypi/torch@2.13.0", {"sha256": "ab"}, "a.whl", "https://host/a.whl")],
        started=MOMENT,
        finished=MOMENT,
        key=key,
        store=store,
    )
    return json.loads(store.get(digest)), key.public


def statement(envelope: dict[str, Any]) -> Any:
    return json.loads(base64.b64decode(envelope["payload"]))


def test_the_statement_is_in_toto_with_slsa_provenance(signed: tuple[dict[str, Any], bytes]) -> None:
    envelope, public = signed
    check_build(BUILD, envelope, public)
    body = statement(envelope)
    assert envelope["payloadType"] == "application/vnd.in-toto+json"
    assert body["_type"] == "https://in-toto.io/Statement/v1"
    assert body["predicateType"] == "https://slsa.dev/provenance/v1"
    assert [subject["name"] for subject in body["subject"]] == ["manifest", "a.whl", "b.tar.gz"]
    assert "sha256:" + body["subject"][0]["digest"]["sha256"] == BUILD.digest
    definition, details = body["predicate"]["buildDefinition"], body["predicate"]["runDetails"]
    assert definition["externalParameters"] == {"requirements": ["torch==2.13.0"]}
    assert definition["resolvedDependencies"][0]["uri"] == "pkg:pypi/torch@2.13.0"
    assert definition["resolvedDependencies"][0]["digest"] == {"sha256": "ab"}
    assert details["builder"]["id"]
    assert details["metadata"]["startedOn"] == "2026-11-23T04:00:00Z"
    assert details["metadata"]["invocationId"].startswith("urn:uuid:")


TAMPERED: dict[str, Callable[[Build], Build]] = {
    "an artifact's digest": lambda b: replace(
        b, artifacts=(replace(b.artifacts[0], digest=digest_bytes(b"evil")), b.artifacts[1])
    ),
    "an artifact's name": lambda b: replace(b, artifacts=(replace(b.artifacts[0], name="c.whl"), b.artifacts[1])),
    "an artifact more": lambda b: replace(b, artifacts=(*b.artifacts, Artifact("wheel", "c", digest_bytes(b"c"), 1))),
    "an artifact less": lambda b: replace(b, artifacts=b.artifacts[:1]),
    "the runtime": lambda b: replace(b, runtime=Runtime()),
    "the name": lambda b: replace(b, name="other"),
}


@pytest.mark.parametrize("change", TAMPERED)
def test_a_build_that_was_changed_does_not_fit_its_provenance(
    change: str, signed: tuple[dict[str, Any], bytes]
) -> None:
    envelope, public = signed
    with pytest.raises(TrustError):
        check_build(TAMPERED[change](BUILD), envelope, public)


def test_a_statement_that_was_changed_or_signed_by_somebody_else_is_refused(
    signed: tuple[dict[str, Any], bytes], tmp_path: Path
) -> None:
    envelope, public = signed
    body = statement(envelope)
    body["predicate"]["runDetails"]["builder"]["id"] = "somebody"
    edited = {**envelope, "payload": base64.b64encode(canonical_json(body)).decode()}
    with pytest.raises(TrustError):
        check_build(BUILD, edited, public)
    stranger = load_or_make_key(tmp_path / "stranger")
    with pytest.raises(TrustError):
        check_build(BUILD, sign(stranger, STATEMENT_TYPE, canonical_json(statement(envelope))), public)


@pytest.mark.parametrize(
    "body", [{}, [], {"_type": "x"}, {"subject": None}, {"predicateType": "https://slsa.dev/provenance/v0.2"}]
)
def test_another_kind_of_statement_is_refused_even_when_we_signed_it(
    body: Any, signed: tuple[dict[str, Any], bytes], tmp_path: Path
) -> None:
    key = load_or_make_key(tmp_path / "key")
    good = statement(signed[0])
    changed = {**good, **body} if isinstance(body, dict) and body else body
    with pytest.raises(TrustError):
        check_build(BUILD, sign(key, STATEMENT_TYPE, canonical_json(changed)), key.public)
    with pytest.raises(TrustError):
        check_build(BUILD, sign(key, BUNDLE_TYPE, canonical_json(good)), key.public)


def test_a_statement_about_more_than_the_build_is_refused(signed: tuple[dict[str, Any], bytes], tmp_path: Path) -> None:
    key = load_or_make_key(tmp_path / "key")
    body = statement(signed[0])
    body["subject"].append({"name": "c.whl", "digest": {"sha256": "0" * 64}})
    with pytest.raises(TrustError, match="files that the build does not have"):
        check_build(BUILD, sign(key, STATEMENT_TYPE, canonical_json(body)), key.public)


def test_the_provenance_of_a_real_build_names_each_wheel_with_its_digest(place: Place, links: Path) -> None:
    wheel(links, "apple", "1.0+cpu")
    made = place.make(WheelBuild(kind="wheel", requirements=["apple==1.0"]))
    body = statement(json.loads(place.store.get(made.provenance)))
    definition = body["predicate"]["buildDefinition"]
    (dependency,) = definition["resolvedDependencies"]
    assert dependency["uri"] == "pkg:pypi/apple@1.0%2Bcpu"
    assert "sha256:" + dependency["digest"]["sha256"] == made.build.artifacts[0].digest
    assert definition["internalParameters"] == {"key": made.build.key}
    assert definition["externalParameters"]["requirements"] == ["apple==1.0"]
