"""A build and its artifacts, by digest, with the runtime that it needs.

A build is a manifest: named artifacts in the store, and what a host must have to use them. Its digest is the hash
of the manifest; its `key` is the hash of everything that went in, so that an unchanged build is not made twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from blocks.canonical import digest_json

Role = Literal["wheel", "tree"]
"""`wheel`: unpacked into the build's `site/`. `tree`: a tar.gz unpacked into the build's root under its name."""


@dataclass(frozen=True)
class Artifact:
    """One file of a build, in the store under its digest."""

    role: Role
    name: str
    digest: str
    bytes: int


@dataclass(frozen=True)
class Runtime:
    """What a host must have. An empty field asks for nothing.

    `python` is an interpreter tag (`cp311`), `libc` a lowest version (`glibc 2.28`), `toolchain` names of programs
    that must be found (`c++`), `arch` as `uname -m` says it.
    """

    arch: str = ""
    python: str = ""
    libc: str = ""
    toolchain: tuple[str, ...] = ()


@dataclass(frozen=True)
class Build:
    """What the build stage made."""

    name: str
    key: str
    artifacts: tuple[Artifact, ...]
    runtime: Runtime
    version: str = ""

    @property
    def digest(self) -> str:
        """Hash of the manifest: what plans and leases refer to."""
        return digest_json(self.manifest())

    def manifest(self) -> dict[str, Any]:
        body = asdict(self)
        body["artifacts"] = [asdict(artifact) for artifact in self.artifacts]
        body["runtime"]["toolchain"] = list(self.runtime.toolchain)
        return body


def build_from_manifest(body: Mapping[str, Any]) -> Build:
    """The build that `Build.manifest` wrote."""
    runtime = {**body["runtime"], "toolchain": tuple(body["runtime"]["toolchain"])}
    return Build(
        name=body["name"],
        key=body["key"],
        version=body.get("version", ""),
        artifacts=tuple(Artifact(**artifact) for artifact in body["artifacts"]),
        runtime=Runtime(**runtime),
    )
