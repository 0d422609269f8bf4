"""What `commonfleet up` brings up: who may talk to it, what it registers, and that its worker works."""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path
from typing import Any

import asyncpg  # type: ignore[import-untyped]
import pytest

from deployments.up import database
from tests.flows.conftest import Installation

pytestmark = pytest.mark.prefect


def test_the_page_answers_and_sets_nothing_foreign_in_motion(installation: Installation) -> None:
    status, page = installation.call("/", auth="")
    assert status == 200
    assert "<html" in page.lower()
    _, settings = installation.call("/ui-settings", auth="")
    assert settings["auth"] == "BASIC"
    assert settings["default_ui"] == "v1"  # the newer one calls a tracking service, whatever the settings say
    _, server = installation.call("/api/admin/settings")
    assert server["server"]["analytics_enabled"] is False
    assert server["server"]["ui"]["show_promotional_content"] is False


@pytest.mark.parametrize("path", ["/api/admin/settings", "/api/flow_runs/filter", "/api/block_documents/filter"])
def test_a_request_without_the_credential_is_refused(installation: Installation, path: str) -> None:
    body = {} if path.endswith("filter") else None
    assert installation.call(path, body, auth="")[0] == 401
    assert installation.call(path, body, auth="operator:wrong")[0] == 401
    assert installation.call(path, body)[0] == 200


def test_the_api_listens_on_this_machine_only(installation: Installation) -> None:
    listening = [
        line.split()[1]
        for table in ("/proc/net/tcp", "/proc/net/tcp6")
        for line in Path(table).read_text().splitlines()[1:]
        if line.split()[3] == "0A"
    ]
    ours = [address for address in listening if int(address.rpartition(":")[2], 16) == installation.port]
    assert ours == [f"0100007F:{installation.port:04X}"]


def test_the_server_at_rest_leaves_the_machine_to_the_work(installation: Installation) -> None:
    stat_file = Path(f"/proc/{installation.record.children['server'].pid}/stat")

    def cpu_seconds() -> float:
        user, system = stat_file.read_text().rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

    def share_of_a_core(seconds: float) -> float:
        before = cpu_seconds()
        time.sleep(seconds)
        return (cpu_seconds() - before) / seconds

    # The quietest of several moments: its scheduler and its vacuum do work now and then. One that spins always does.
    assert min(share_of_a_core(1.0) for _ in range(6)) < 0.2


@pytest.mark.parametrize("password", [None, "", "wrong"])
@pytest.mark.parametrize("user", [database.ADMIN, database.ROLE])
async def test_a_database_connection_without_the_password_is_refused(
    installation: Installation, user: str, password: str | None
) -> None:
    place = database.locate(installation.home)
    with pytest.raises(asyncpg.PostgresError, match="password"):
        await asyncpg.connect(host=str(place.socket), user=user, password=password, database=database.NAME)


async def test_the_server_s_role_is_no_superuser(installation: Installation) -> None:
    place = database.locate(installation.home)
    password = (installation.home.keys / "prefect-database").read_text().strip()
    connection = await asyncpg.connect(
        host=str(place.socket), user=database.ROLE, password=password, database=database.NAME
    )
    try:
        assert await connection.fetchval("select rolsuper from pg_roles where rolname = current_user") is False
        assert await connection.fetchval("show listen_addresses") == ""
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute("copy (select 1) to program 'true'")
    finally:
        await connection.close()


def test_folders_and_secrets_are_their_owner_s_alone(installation: Installation) -> None:
    place = database.locate(installation.home)
    for folder in (place.folder, place.data, place.socket, installation.home.prefect, installation.home.keys):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700, folder
    secrets = [*installation.home.keys.glob("prefect-*"), installation.home.prefect / "api.json"]
    assert len(secrets) == 5
    for file in secrets:
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
    if os.geteuid() == 0:
        assert place.folder.stat().st_uid not in (0, 65534)
    # A log is shown to others when something is wrong.
    login = installation.address.auth
    logs = [installation.output, *(installation.home.prefect / "logs").iterdir()]
    assert not [log for log in logs if login in log.read_text()]


def test_block_pool_and_deployments_are_there(installation: Installation) -> None:
    _, blocks = installation.call("/api/block_documents/filter", {})
    assert [(block["name"], block["block_type"]["slug"]) for block in blocks] == [
        ("this-machine", "commonfleet-local-pool")
    ]
    _, pool = installation.call("/api/work_pools/commonfleet")
    assert pool["type"] == "process"
    assert pool["base_job_template"]["variables"]["properties"] == {}
    nightly, on_demand, upkeep = (installation.deployment(name) for name in ("nightly", "on-demand", "upkeep"))
    assert [d["entrypoint"] for d in (nightly, on_demand, upkeep)] == [
        "flows.nightly.nightly",
        "flows.on_demand.on_demand",
        "flows.upkeep.upkeep",
    ]
    (schedule,) = nightly["schedules"]
    assert (schedule["active"], schedule["schedule"]["cron"], schedule["schedule"]["timezone"]) == (
        True,
        "0 2 * * *",
        "UTC",
    )


def test_the_scheduler_books_the_coming_nights(installation: Installation) -> None:
    nightly = installation.deployment("nightly")
    wanted = {
        "deployments": {"id": {"any_": [nightly["id"]]}},
        "flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}},
    }
    for _ in range(100):
        _, runs = installation.call("/api/flow_runs/filter", wanted)
        if runs:
            break
        time.sleep(0.2)
    assert {run["expected_start_time"][11:16] for run in runs} == {"02:00"}


def test_the_form_has_choices_defaults_bounds_and_descriptions(installation: Installation) -> None:
    schema: dict[str, Any] = installation.deployment("on-demand")["parameter_openapi_schema"]
    fields = schema["properties"]
    assert all("default" in field and field["description"] for field in fields.values())
    assert schema.get("required", []) == []
    assert fields["suites"]["items"] == {"$ref": "#/definitions/Suite"}
    assert set(fields["suites"]["default"]) == set(schema["definitions"]["Suite"]["enum"])
    assert fields["profile"]["$ref"] == "#/definitions/Profile"
    assert (fields["sample"]["exclusiveMinimum"], fields["sample"]["maximum"]) == (0, 1)


@pytest.mark.parametrize(
    "parameters", [{"suites": ["nonsense"]}, {"sample": 0}, {"sample": 1.5}, {"slots": -1}, {"profile": "other"}]
)
def test_a_form_filled_in_wrongly_is_refused(installation: Installation, parameters: dict[str, Any]) -> None:
    path = f"/api/deployments/{installation.deployment('on-demand')['id']}/create_flow_run"
    status, body = installation.call(path, {"parameters": parameters})
    assert status == 409
    assert next(iter(parameters)) in body["detail"]


def test_the_worker_runs_a_flow_and_no_client_s_command(installation: Installation, tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    path = f"/api/deployments/{installation.deployment('upkeep')['id']}/create_flow_run"
    variables = {"command": f"touch {trap}", "env": {"PYTHONPATH": str(tmp_path)}, "working_dir": str(tmp_path)}
    status, run = installation.call(path, {"job_variables": variables})
    assert status in (200, 201), run
    for _ in range(240):
        _, run = installation.call(f"/api/flow_runs/{run['id']}")
        if run["state"]["type"] in ("COMPLETED", "FAILED", "CRASHED"):
            break
        time.sleep(0.25)
    assert run["state"]["type"] == "COMPLETED", run["state"]
    assert run["state"]["message"] == "No run had lost its driver."
    assert not trap.exists()
