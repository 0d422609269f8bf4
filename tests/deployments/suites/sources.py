"""The files of the suites that ship, as the tests reach them: by path, for they belong to no package of ours."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import deployments

SOURCES = Path(deployments.__file__).parent / "catalog" / "sources"


def load(path: str) -> ModuleType:
    """The module at `path` inside the sources; only for files that need nothing but the standard library."""
    name = "suite_" + path.removesuffix(".py").replace("/", "_")
    spec = importlib.util.spec_from_file_location(name, SOURCES / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their own module up
    spec.loader.exec_module(module)
    return module
