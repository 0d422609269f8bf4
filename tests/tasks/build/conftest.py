"""Fixtures of the build stage."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import deployments.catalog
from blocks.catalog.models import WheelBuild
from tasks.build.make import MadeBuild
from tests.tasks.build.place import Place, open_place, pip_configuration

CATALOG = Path(deployments.catalog.__path__[0])


@pytest.fixture
def links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that pip's default index is, in this test."""
    folder = tmp_path / "links"
    folder.mkdir()
    for name, value in pip_configuration(folder, tmp_path / "pip-cache").items():
        monkeypatch.setenv(name, value)
    return folder


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    opened = open_place(tmp_path / "place")
    yield opened
    opened.ledger.close()


@pytest.fixture(scope="session")
def torch_place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    opened = open_place(tmp_path_factory.mktemp("torch"))
    yield opened
    opened.ledger.close()


@pytest.fixture(scope="session")
def torch_spec() -> WheelBuild:
    """torch 2.13.0 with the consumer that ships: PyTorch's own index first, then the ordinary one."""
    return WheelBuild(
        kind="wheel",
        requirements=["torch==2.13.0", "numpy==2.4.6"],
        indexes=["https://download.pytorch.org/whl/cpu", "default"],
        consumer=str(CATALOG / "sources" / "consumer"),
        toolchain=["c++"],
    )


@pytest.fixture(scope="session")
def real_torch_build(torch_place: Place, torch_spec: WheelBuild) -> MadeBuild:
    """The real build of torch, consumer included, made once per session (a minute)."""
    return torch_place.make(torch_spec, "torch-2.13.0")
