"""Which database holds the ledger, and that no password is ever said."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from blocks.errors import LedgerError
from blocks.home import Home, open_home
from blocks.ledger import Ledger, answering, open_ledger
from blocks.ledger.place import has_password, known_url, ledger_url, record_url, shown
from blocks.store import Store
from tests.postgres import Postgres

SECRET = "hunter2"
URLS = [
    f"postgresql+psycopg://me:{SECRET}@nowhere.invalid/ledger",
    f"postgresql://me@nowhere.invalid/ledger?password={SECRET}&connect_timeout=2",
    f"postgresql://me@/ledger?host=/no/such/folder&sslpassword={SECRET}",
]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.delenv("COMMONFLEET_LEDGER", raising=False)
    return open_home(tmp_path / "home")


def opened(home: Home, url: str) -> Ledger:
    return open_ledger(url, home.results, Store(home.store))


def test_it_is_the_state_folder_s_file_then_its_line_then_the_environment(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ledger_url(home) == f"sqlite:///{home.ledger}"
    record_url(home, "postgresql+psycopg://me@host/one")
    assert ledger_url(home) == "postgresql+psycopg://me@host/one"
    assert home.ledger_url.stat().st_mode & 0o777 == 0o600
    monkeypatch.setenv("COMMONFLEET_LEDGER", "postgresql://me@host/two")
    assert ledger_url(home) == "postgresql+psycopg://me@host/two"


@pytest.mark.parametrize(
    "said", [f"mysql://me:{SECRET}@h/d", f"nonsense {SECRET}", "sqlite:///relative.db", "sqlite://", "postgresql://h",
             f"postgresql://me:{SECRET}@host:port/d"],
)  # fmt: skip
def test_what_names_no_ledger_is_refused_without_its_password(said: str) -> None:
    with pytest.raises(LedgerError) as refused:
        known_url(said, "COMMONFLEET_LEDGER")
    assert SECRET not in str(refused.value)
    assert "COMMONFLEET_LEDGER" in str(refused.value)


@pytest.mark.parametrize("url", URLS)
def test_a_url_is_shown_without_any_password(url: str) -> None:
    assert SECRET not in shown(url)
    assert "/ledger" in shown(url)
    assert has_password(url)
    assert not has_password("postgresql://me@host/ledger")


@pytest.mark.parametrize("url", URLS)
def test_a_database_that_cannot_be_reached_is_told_without_its_password(
    home: Home, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answering, "WAIT_SECONDS", 0.5)
    with pytest.raises(LedgerError) as refused:
        opened(home, known_url(url, "it"))
    assert SECRET not in str(refused.value)
    assert "doctor" in str(refused.value)


def test_a_wrong_password_is_told_at_once(home: Home, postgres: Postgres) -> None:
    import time

    url = postgres.new_database().replace("postgres:", "postgres:wrong", 1)
    began = time.monotonic()
    with pytest.raises(LedgerError, match="password authentication failed") as refused:
        opened(home, url)
    assert time.monotonic() - began < 5
    assert "wrong" not in str(refused.value).replace("authentication failed", "")


def test_a_database_that_belongs_to_somebody_else_is_told(home: Home, postgres: Postgres) -> None:
    import psycopg

    url = postgres.new_database()
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as admin:
        admin.execute("DROP ROLE IF EXISTS guest")
        admin.execute("CREATE ROLE guest LOGIN PASSWORD 'guest'")
    guest = "postgresql+psycopg://guest:guest@" + url.partition("@")[2]
    with pytest.raises(LedgerError, match="permission denied") as refused:
        opened(home, guest)
    assert "owner" in refused.value.do


def test_without_psycopg_it_is_said_what_to_install(home: Home) -> None:
    program = f"""
        import sys
        sys.modules["psycopg"] = None
        from pathlib import Path
        from blocks.errors import LedgerError
        from blocks.home import Home
        from flows.drive import ledger_of
        try:
            ledger_of(Home(Path({str(home.root)!r})))
        except LedgerError as error:
            print(error)
    """
    env = {**os.environ, "COMMONFLEET_LEDGER": URLS[0]}
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], env=env, capture_output=True, text=True)
    assert "commonfleet[postgres]" in done.stdout, done.stderr
    assert SECRET not in done.stdout + done.stderr
