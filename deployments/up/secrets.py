"""Passwords and keys of the installation: one file each in `keys/`, generated once, mode 0600.

prefect-login           what the UI asks for (`user:password`), and every client of the API
prefect-encryption      the key under which the server keeps secret blocks (else it would lie in the same database)
prefect-database        password of the role that the server uses
prefect-database-admin  password of the database's superuser, used once to make that role
"""

from __future__ import annotations

import base64
import os
import secrets
from collections.abc import Callable
from pathlib import Path

from blocks.errors import CommonfleetError
from blocks.home import Home
from flows.server import write_private

MAKERS: dict[str, Callable[[], str]] = {
    "prefect-login": lambda: f"operator:{secrets.token_urlsafe(24)}",
    "prefect-encryption": lambda: base64.urlsafe_b64encode(os.urandom(32)).decode(),
    "prefect-database": lambda: secrets.token_urlsafe(32),
    "prefect-database-admin": lambda: secrets.token_urlsafe(32),
}


def secret_file(home: Home, name: str) -> Path:
    return home.keys / name


def secret(home: Home, name: str) -> str:
    """The secret of that name, made at first use. Raises CommonfleetError where its file is empty or open to others."""
    path = secret_file(home, name)
    if not path.exists():
        write_private(path, MAKERS[name]() + "\n")
    if path.stat().st_mode & 0o077:
        raise CommonfleetError(
            f"{path} can be read by others (mode {path.stat().st_mode & 0o777:o}).",
            kept="Nothing was started.",
            do=f"If nobody else can have read it: chmod 600 {path}. Else delete it, and a new one is made.",
        )
    value = path.read_text().strip()
    if not value:
        raise CommonfleetError(f"{path} is empty.", kept="Nothing was started.", do="Restore it from a backup.")
    return value
