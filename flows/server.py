"""Where the operator's Prefect server is, for everybody who is not the operator's process.

`commonfleet up` writes `prefect/api.json`; the command line in another shell reads it here. Free of Prefect: to
know that no server runs must cost nothing. The environment it gives has to be set before Prefect is imported,
because Prefect reads its settings then.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from blocks.home import Home
from blocks.process import Process, alive

HEALTH_SECONDS = 0.9
"""How long a server may take to answer before the work goes on without it."""

QUIET = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_TELEMETRY_ENABLE_RESOURCE_METRICS": "false",
    # A forgotten address must fail, not start a server of its own in the user's home.
    "PREFECT_SERVER_EPHEMERAL_ENABLED": "false",
    # Pickle runs code when it is read; nothing of ours needs it, nor a cache.
    "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json",
    "PREFECT_TASKS_DEFAULT_NO_CACHE": "true",
}
"""Prefect settings that hold for every process of ours: nothing phones home, nothing is pickled."""


@dataclass(frozen=True)
class ServerAddress:
    """A running Prefect server and what it takes to talk to it. `auth` is a secret."""

    api_url: str
    ui_url: str
    auth: str
    prefect_home: str
    pid: int
    start_time: int


def address_file(home: Home) -> Path:
    return home.prefect / "api.json"


def stopping_file(home: Home) -> Path:
    """There while the operator's installation is being stopped: drivers that it stops leave their runs open."""
    return home.prefect / "stopping"


def is_stopping(home: Home) -> bool:
    """Whether a driver that is asked to end is asked because the installation ends, and not to cancel its run."""
    return stopping_file(home).exists()


def write_address(home: Home, address: ServerAddress) -> None:
    """Tell other shells where the server is. The file holds the credential, so it is made with mode 0600."""
    write_private(address_file(home), json.dumps(asdict(address), indent=1) + "\n")


def write_private(path: Path, text: str) -> None:
    """Replace `path` in one step by a file that only its owner can read."""
    new = path.with_name(f".{path.name}.{os.getpid()}")
    new.unlink(missing_ok=True)
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)


def read_address(home: Home) -> ServerAddress | None:
    """What the file says, whether or not such a server still runs."""
    try:
        return ServerAddress(**json.loads(address_file(home).read_text()))
    except (OSError, ValueError, TypeError):
        return None


def running_server(home: Home) -> ServerAddress | None:
    """The operator's server of this installation, if it runs and answers within a second; else None."""
    address = read_address(home)
    if address is None or not alive(Process(address.pid, address.start_time)):
        return None
    return address if answers(address) else None


def answers(address: ServerAddress) -> bool:
    """Whether the server takes our credential, asked once with a short time-out."""
    import base64
    import urllib.error
    import urllib.request

    credential = base64.b64encode(address.auth.encode()).decode()
    request = urllib.request.Request(
        f"{address.api_url}/admin/version", headers={"Authorization": f"Basic {credential}"}
    )
    try:
        # A proxy has no business between two processes of one machine.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=HEALTH_SECONDS) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


TERMINAL = {
    # A terminal shows the run's own progress; what Prefect's engine says belongs on its pages.
    "PREFECT_LOGGING_LEVEL": "CRITICAL",
    # Nothing of ours is logged there, and at its end a process waits for the server to take its log.
    "PREFECT_LOGGING_TO_API_ENABLED": "false",
}
"""Prefect settings of a process that a person has started."""


def prefect_environment(address: ServerAddress) -> dict[str, str]:
    """Environment variables under which a process of ours talks to this server and touches nobody's ~/.prefect."""
    return {
        **QUIET,
        "PREFECT_HOME": address.prefect_home,
        "PREFECT_PROFILES_PATH": str(Path(address.prefect_home) / "profiles.toml"),
        "PREFECT_API_URL": address.api_url,
        "PREFECT_API_AUTH_STRING": address.auth,
        "PREFECT_UI_URL": address.ui_url,
        # Flow runs beat, so that a run whose process is gone can be told from one that is busy.
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "60",
    }
