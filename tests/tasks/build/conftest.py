"""Fixtures of the build stage."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tasks.build.place import Place, open_place, pip_configuration


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
