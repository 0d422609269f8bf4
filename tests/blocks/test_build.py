"""A build is its manifest: written, read back, and hashed over everything in it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import pytest

from blocks.build import Artifact, Build, Runtime, build_from_manifest
from blocks.canonical import canonical_json, digest_bytes

BUILD = Build(
    name="torch",
    key=digest_bytes(b"key"),
    artifacts=(
        Artifact("wheel", "torch.whl", digest_bytes(b"w"), 7),
        Artifact("tree", "consumer.tar.gz", digest_bytes(b"t"), 9),
    ),
    runtime=Runtime("x86_64", "cp311", "glibc 2.28", ("c++", "cmake")),
    version="2.13.0+cpu",
)

CHANGES: dict[str, Callable[[Build], Build]] = {
    "name": lambda b: replace(b, name="other"),
    "key": lambda b: replace(b, key=digest_bytes(b"other")),
    "version": lambda b: replace(b, version="2.13.1"),
    "an artifact's digest": lambda b: replace(
        b, artifacts=(replace(b.artifacts[0], digest=digest_bytes(b"o")), b.artifacts[1])
    ),
    "an artifact's role": lambda b: replace(b, artifacts=(replace(b.artifacts[0], role="tree"), b.artifacts[1])),
    "an artifact's size": lambda b: replace(b, artifacts=(replace(b.artifacts[0], bytes=8), b.artifacts[1])),
    "an artifact less": lambda b: replace(b, artifacts=b.artifacts[:1]),
    "toolchain": lambda b: replace(b, runtime=replace(b.runtime, toolchain=("c++",))),
    "libc": lambda b: replace(b, runtime=replace(b.runtime, libc="glibc 2.34")),
}


def test_a_manifest_is_plain_json_and_reads_back_as_the_same_build() -> None:
    read = build_from_manifest(json.loads(canonical_json(BUILD.manifest())))
    assert read == BUILD
    assert read.digest == BUILD.digest


def test_a_build_without_anything_optional_reads_back_too() -> None:
    bare = Build("b", digest_bytes(b""), (), Runtime())
    assert build_from_manifest(json.loads(canonical_json(bare.manifest()))) == bare
    body = bare.manifest()
    del body["version"]
    assert build_from_manifest(body) == bare


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_changes_changes_the_digest(change: str) -> None:
    assert CHANGES[change](BUILD).digest != BUILD.digest
