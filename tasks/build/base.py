"""What a kind of build is: two functions, told apart so that an unchanged build is never made twice.

    inputs(name, spec, bench) -> Inputs    everything that goes in, as cheaply as it can be known
    make(name, spec, inputs, bench) -> Made   the files themselves, in the bench's folder

`make.py` hashes the inputs into the build's key, looks the key up, and calls `make` only when nobody has made it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blocks.build import Role, Runtime

Progress = Callable[[str], None]
"""Takes short lines for people. An exception out of it ends the build and every program that it runs."""


@dataclass(frozen=True)
class Bench:
    """The place where one build is made.

    `folder` is temporary and goes when the build is done or its process is dead; `logs` stays, and holds the whole
    log of the last program that failed, per build and step. `catalog` is the folder of the catalog.
    """

    folder: Path
    logs: Path
    catalog: Path
    progress: Progress


@dataclass(frozen=True)
class Ingredient:
    """Something that went in, as provenance names it: a URI, a digest (algorithm -> hex), a name for people."""

    uri: str
    digest: Mapping[str, str]
    name: str
    source: str = ""


@dataclass(frozen=True)
class Wheel:
    """One wheel of a resolution. `sha256` is what the index promised, empty where it promised nothing."""

    name: str
    version: str
    filename: str
    url: str
    sha256: str


@dataclass(frozen=True)
class Inputs:
    """What goes into a build. `body` is hashed into its key; the rest saves `make` from finding it out again."""

    body: Mapping[str, Any]
    wheels: tuple[Wheel, ...] | None = None
    build_wheels: tuple[Wheel, ...] | None = None
    commit: str = ""


@dataclass(frozen=True)
class Product:
    """A file that was made, not yet in the store."""

    role: Role
    path: Path

    @property
    def name(self) -> str:
        return self.path.name


@dataclass(frozen=True)
class Made:
    """What `make` returns."""

    products: tuple[Product, ...]
    runtime: Runtime
    version: str
    ingredients: tuple[Ingredient, ...]
