"""Ports, secrets, environments and addresses: the ground an installation stands on."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from blocks.errors import CommonfleetError
from blocks.home import Home, open_home
from blocks.process import identify
from deployments.up import settings
from deployments.up.database import locate
from deployments.up.installation import Installation, up
from deployments.up.ports import check_free
from deployments.up.schedule import check_schedule
from deployments.up.secrets import MAKERS, secret, secret_file
from deployments.up.supervise import Component
from flows.server import ServerAddress, prefect_environment, running_server, write_address


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = open_home(tmp_path / "home")
    home.prefect.mkdir(mode=0o700)
    return home


def address(home: Home, port: int = 1) -> ServerAddress:
    itself = identify(os.getpid())
    assert itself
    return ServerAddress(
        f"http://127.0.0.1:{port}/api",
        f"http://127.0.0.1:{port}",
        "operator:x",
        str(home.prefect),
        *vars(itself).values(),
    )


def test_a_taken_port_is_refused_naming_who_has_it() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(CommonfleetError, match=f"taken by process {os.getpid()}") as caught:
            check_free(port)
        assert "--port" in str(caught.value)
    check_free(port)


@pytest.mark.parametrize("name", sorted(MAKERS))
def test_a_secret_is_made_once_and_only_its_owner_reads_it(home: Home, name: str) -> None:
    first = secret(home, name)
    assert secret(home, name) == first
    assert len(first) >= 32
    assert stat.S_IMODE(secret_file(home, name).stat().st_mode) == 0o600


def test_a_secret_that_others_can_read_or_that_is_empty_is_refused(home: Home) -> None:
    secret(home, "prefect-login")
    secret_file(home, "prefect-login").chmod(0o644)
    with pytest.raises(CommonfleetError, match="can be read by others"):
        secret(home, "prefect-login")
    secret_file(home, "prefect-login").chmod(0o600)
    secret_file(home, "prefect-login").write_text("\n")
    with pytest.raises(CommonfleetError, match="is empty"):
        secret(home, "prefect-login")


def test_the_user_s_own_prefect_does_not_reach_the_children(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "https://api.prefect.cloud/api/accounts/somebody")
    monkeypatch.setenv("PREFECT_API_KEY", "theirs")
    server = settings.server_environment(home, "mark", 4300, "postgresql+asyncpg://")
    worker = settings.client_environment(home, "mark", address(home, 4300), settings.WORKER)
    for environment in (server, worker):
        assert "PREFECT_API_KEY" not in environment
        assert environment["PREFECT_API_URL"] == "http://127.0.0.1:4300/api"
        assert environment["PREFECT_HOME"] == str(home.prefect)
        assert environment["DO_NOT_TRACK"] == "1"
        assert environment["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"
        assert environment["PREFECT_SERVER_EPHEMERAL_ENABLED"] == "false"


def test_only_the_server_knows_the_database_and_the_encryption_key(home: Home) -> None:
    worker = settings.client_environment(home, "mark", address(home), settings.WORKER)
    assert not [name for name in worker if "DATABASE" in name or "ENCRYPTION" in name]


def test_every_setting_that_we_change_exists_in_this_prefect(home: Home) -> None:
    from prefect.settings import get_current_settings

    known = get_current_settings().to_environment_variables(exclude_unset=False, include_secrets=True)
    ours = settings.server_environment(home, "m", 1, "x") | settings.client_environment(
        home, "m", address(home), settings.WORKER
    )
    # Settings without a default are not listed; these are checked by the tests with a real server.
    unset = {
        "PREFECT_API_AUTH_STRING", "PREFECT_SERVER_API_AUTH_STRING", "PREFECT_SERVER_ENCRYPTION_KEY",
        "PREFECT_API_URL", "PREFECT_SERVER_DATABASE_CONNECTION_URL", "PREFECT_UI_URL", "PREFECT_PROFILES_PATH",
    }  # fmt: skip
    assert {name for name in ours if name.startswith("PREFECT_")} - unset <= set(known)


def test_no_file_a_dead_process_and_a_reused_id_all_mean_no_server(home: Home) -> None:
    assert running_server(home) is None
    itself = address(home)
    write_address(home, replace(itself, start_time=itself.start_time - 1))
    assert running_server(home) is None
    write_address(home, itself)  # alive, and nobody answers
    assert running_server(home) is None


def test_an_address_is_private_and_becomes_the_environment_of_a_client(home: Home) -> None:
    write_address(home, address(home))
    assert stat.S_IMODE((home.prefect / "api.json").stat().st_mode) == 0o600
    assert prefect_environment(address(home))["PREFECT_API_AUTH_STRING"] == "operator:x"


@pytest.mark.parametrize("line", ["every night", "99 99 * * *", "0 0 30 2 *"])
async def test_a_cron_line_that_is_none_is_refused_before_anything_starts(home: Home, line: str) -> None:
    with pytest.raises(CommonfleetError, match="no cron line"):
        await up(home, schedule=line)
    assert list(home.prefect.iterdir()) == []


def test_a_cron_line_is_taken_and_the_same_with_a_wrong_field_is_not() -> None:
    check_schedule("30 1,13 * * mon-fri")
    with pytest.raises(CommonfleetError, match="no cron line"):
        check_schedule("30 1,13 * * mon-fry")


@pytest.mark.parametrize("port", [-1, 0, 65536, 99999])
def test_a_number_that_is_no_port_is_refused_in_words(port: int) -> None:
    with pytest.raises(CommonfleetError, match=f"from 1 to 65535, not {port}"):
        check_free(port)


async def test_each_component_is_told_as_it_comes_up(home: Home) -> None:
    said: list[str] = []
    ready = asyncio.Event()

    async def is_ready() -> bool:
        return ready.is_set()

    installation = Installation(home, locate(home), 4300, "0 2 * * *", said.append)
    part = Component("server", ["/bin/sleep", "60"], {}, home.prefect / "part.log", is_ready)
    beginning = asyncio.create_task(installation.begin(part))
    await asyncio.sleep(0.3)
    before = list(said)
    ready.set()
    await beginning
    await installation.stop()

    assert before == []
    assert [line.split()[:3] for line in said] == [["server", "ready", "after"]]


def test_the_recorder_waits_between_its_looks() -> None:
    """Prefect 3.8.8 takes int() of this interval: with half a second it would not wait at all, and use up a core."""
    interval = settings.SERVER["PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL"]
    assert int(interval) >= 1
