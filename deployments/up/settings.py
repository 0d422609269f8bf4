"""The environments of the children: every Prefect setting that we change, as tables, with the reason.

Names and defaults: `prefect config view --show-defaults`. Settings of the user's own Prefect (`PREFECT_*` in the
environment, `~/.prefect`) do not reach the installation.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from blocks.home import Home
from deployments.up.secrets import secret
from flows.server import QUIET, ServerAddress, prefect_environment

POOL = "commonfleet"
MARK = "COMMONFLEET_UP"
"""Environment variable that every descendant of one `up` carries, so that the next one can tell what it left behind."""

SERVER = {
    "PREFECT_SERVER_UI_ENABLED": "true",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    # The newer UI asks a tracking service for its configuration at each start, whatever the analytics setting says
    # (3.8.8); the classic one calls nobody. Who wants the newer one finds it at /v2.
    "PREFECT_SERVER_UI_V2_ENABLED": "false",
    # Task runs and events are written in batches: ten times less lag than one by one.
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "200",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_READ_BATCH_SIZE": "200",
    # Whole seconds: 3.8.8 takes int() of it, and with 0.5 the recorder spins on a core for as long as the server lives.
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_BATCH_SIZE": "200",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_READ_BATCH_SIZE": "100",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_FLUSH_INTERVAL": "0.5",
    "PREFECT_SERVER_SERVICES_TRIGGERS_READ_BATCH_SIZE": "100",
    # A task run costs about 20 KB, most of it events. What matters for good is in the ledger.
    "PREFECT_SERVER_EVENTS_RETENTION_PERIOD": "P7D",
    "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "events,flow_runs",
    "PREFECT_SERVER_SERVICES_DB_VACUUM_RETENTION_PERIOD": "P60D",
    # The worker polls every few seconds and imports take two: a run is not late before a minute.
    "PREFECT_SERVER_SERVICES_LATE_RUNS_AFTER_SECONDS": "60",
}

WORKER = {
    "PREFECT_WORKER_QUERY_SECONDS": "3",
    # Also a run that is cancelled before it runs has its process ended.
    "PREFECT_WORKER_ENABLE_CANCELLATION": "true",
    "PREFECT_CLIENT_MAX_RETRIES": "10",
}


def ground(home: Home, mark: str) -> dict[str, str]:
    """What every child gets: our environment without foreign Prefect settings, the state folder and the mark."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    return {**own, "COMMONFLEET_HOME": str(home.root), MARK: mark, "PYTHONUNBUFFERED": "1"}


def server_environment(home: Home, mark: str, port: int, database_url: str) -> dict[str, str]:
    """The server's own: the only process that knows the database's password and the encryption key."""
    return {
        **ground(home, mark),
        **QUIET,
        **SERVER,
        "PREFECT_HOME": str(home.prefect),
        "PREFECT_PROFILES_PATH": str(home.prefect / "profiles.toml"),
        "PREFECT_API_URL": api_url(port),
        "PREFECT_SERVER_UI_API_URL": api_url(port),
        # The page may have been opened under either name of this machine; no other page may call the API.
        "PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS": f"http://127.0.0.1:{port},http://localhost:{port}",
        "PREFECT_SERVER_API_AUTH_STRING": secret(home, "prefect-login"),
        "PREFECT_SERVER_ENCRYPTION_KEY": secret(home, "prefect-encryption"),
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": database_url,
    }


def client_environment(home: Home, mark: str, address: ServerAddress, extra: Mapping[str, str]) -> dict[str, str]:
    """The worker's and the registration's. Their temporary files lie where the next start clears them."""
    return {**ground(home, mark), **prefect_environment(address), "TMPDIR": str(temporary_folder(home)), **extra}


def temporary_folder(home: Home) -> Path:
    return home.prefect / "tmp"


def api_url(port: int) -> str:
    return f"http://127.0.0.1:{port}/api"


def ui_url(port: int) -> str:
    return f"http://127.0.0.1:{port}"
