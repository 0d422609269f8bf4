"""What stands where on the machine that plans: an environment's build and a suite's own files, unpacked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from blocks.plan import Environment


@dataclass(frozen=True)
class Unpacked:
    """An environment with its build unpacked at `root`; `python` is the interpreter that lists its Python tests."""

    environment: Environment
    root: Path
    python: str = ""


@dataclass(frozen=True)
class SourceTree:
    """A suite's own files, unpacked at `root`. `digest` is that of the packed files in the store."""

    digest: str
    root: Path
