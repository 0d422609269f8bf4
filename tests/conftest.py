"""The real torch build, shared by all tests that need it, and by all workers of a parallel run."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from blocks.catalog.load import default_root, load_catalog
from blocks.home import Home, open_home
from blocks.ledger import open_ledger
from blocks.signing import load_or_make_key
from blocks.store import Store
from tasks.build.make import MadeBuild, make_build
from tests.small import asked

TORCH = "torch-2.13.0"


@pytest.fixture(scope="session")
def torch_home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A state folder for the catalog's torch build; one for all workers, who wait for the one that makes it."""
    base = tmp_path_factory.getbasetemp()
    return open_home((base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "torch-home")


@pytest.fixture(scope="session")
def real_torch_build(torch_home: Home) -> MadeBuild:
    """The catalog's torch build, consumer included (a minute)."""
    store = Store(torch_home.store)
    ledger = open_ledger(f"sqlite:///{torch_home.ledger}", torch_home.results, store)
    try:
        return make_build(
            TORCH,
            load_catalog(default_root()).builds[TORCH],
            ledger=ledger,
            store=store,
            key=load_or_make_key(torch_home.keys / "agent.key"),
            workshop=torch_home.root / "workshop",
            catalog_root=default_root(),
            progress=print,
        )
    finally:
        ledger.close()


@pytest.fixture(scope="session")
def torch_env(torch_home: Home, real_torch_build: MadeBuild) -> dict[str, str]:
    """The environment of a `commonfleet` process that finds the torch build made."""
    return {**os.environ, "COMMONFLEET_HOME": str(torch_home.root)}


@pytest.fixture(scope="session")
def torch_python(
    torch_home: Home, torch_env: dict[str, str], real_torch_build: MadeBuild, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """An interpreter that finds the build's torch."""
    asked("plan", env=torch_env)  # has the machine unpack it
    site = torch_home.machine / "builds" / real_torch_build.build.digest.removeprefix("sha256:") / "site"
    program = tmp_path_factory.mktemp("python") / "python"
    program.write_text(f'#!/bin/sh\nPYTHONPATH={site} exec {Path(sys.executable).resolve()} "$@"\n')
    program.chmod(0o755)
    return program
