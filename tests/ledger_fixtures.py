"""Fixtures for tests that need a ledger: the same tests on SQLite and on a real PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from blocks.ledger import Ledger
from tests.ledger_rows import open_made
from tests.postgres import postgres as postgres


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str | None:
    """None for SQLite in the test's folder, or the URL of an empty PostgreSQL database."""
    if request.param == "sqlite":
        return None
    url: str = request.getfixturevalue("postgres").new_database()
    return url


@pytest.fixture
def ledger(database_url: str | None, tmp_path: Path) -> Iterator[Ledger]:
    """An empty ledger."""
    opened = open_made(tmp_path / "home", database_url)
    yield opened
    opened.close()
