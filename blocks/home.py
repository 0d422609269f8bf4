"""Where state lives: one folder per installation, `COMMONFLEET_HOME` (default `~/.commonfleet`).

ledger.db      records (SQLite)          store/      artifacts and signed bundles, by digest
ledger-url     where they are instead, if moved
results/       Parquet segments          machine/    what this machine keeps: unpacked builds, runners, spools
workshop/      builds in the making      discovery/  which tests a build has
reports/       a page per run            keys/       ed25519 keys and passwords, mode 0600
prefect/       the operator's Prefect server, its database and logs
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from blocks.errors import CommonfleetError

STATE_VERSION = 1
"""Version of the folder's layout. A folder of a newer version is refused, never guessed at."""


@dataclass(frozen=True)
class Home:
    """The paths of one installation."""

    root: Path

    @property
    def ledger(self) -> Path:
        return self.root / "ledger.db"

    @property
    def ledger_url(self) -> Path:
        return self.root / "ledger-url"

    @property
    def log_key(self) -> Path:
        """What signs the checkpoints of the Merkle log."""
        return self.keys / "log.key"

    @property
    def log_public(self) -> Path:
        """Its public half, as text; here where a backup without keys was restored."""
        return self.keys / "log.pub"

    @property
    def last_checkpoint(self) -> Path:
        """The last checkpoint of the ledger's log that a check has seen."""
        return self.root / "last-checkpoint"

    @property
    def restoring(self) -> Path:
        return self.root / ".restoring"

    @property
    def results(self) -> Path:
        return self.root / "results"

    @property
    def store(self) -> Path:
        return self.root / "store"

    @property
    def machine(self) -> Path:
        return self.root / "machine"

    @property
    def workshop(self) -> Path:
        return self.root / "workshop"

    @property
    def discovery(self) -> Path:
        return self.root / "discovery"

    @property
    def keys(self) -> Path:
        return self.root / "keys"

    @property
    def reports(self) -> Path:
        return self.root / "reports"

    @property
    def prefect(self) -> Path:
        return self.root / "prefect"


def open_home(root: Path | None = None) -> Home:
    """Open the state folder, making it where it does not exist.

    Raises CommonfleetError when the folder cannot be written or belongs to a newer commonfleet.
    """
    home = located(root)
    check_whole(home)
    version_file = home.root / "version"
    try:
        home.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        for folder in (home.results, home.store, home.machine, home.reports):
            folder.mkdir(exist_ok=True)
        home.keys.mkdir(exist_ok=True, mode=0o700)
        if not version_file.exists():
            version_file.write_text(f"{STATE_VERSION}\n")
    except OSError as error:
        raise CommonfleetError(
            f"The state folder {home.root} cannot be used: {error.strerror or error}.",
            do="Make it writable, free some space, or set COMMONFLEET_HOME to another folder.",
        ) from error
    check_version(version_file)
    return home


def located(root: Path | None = None) -> Home:
    """Where the state folder is, or would be; nothing is looked at."""
    chosen = root or Path(os.environ.get("COMMONFLEET_HOME") or Path.home() / ".commonfleet")
    return Home(chosen.expanduser().absolute())


def check_whole(home: Home) -> None:
    """Refuse a state folder into which a backup is being put. Raises CommonfleetError."""
    if home.restoring.exists():
        raise CommonfleetError(
            f"A restore into {home.root} has not ended: what is there is only a part.",
            kept="The backup is as it was.",
            do="Run `commonfleet restore BACKUP` again.",
        )


def check_version(version_file: Path) -> None:
    """Refuse a state folder that this version cannot read. Raises CommonfleetError."""
    text = version_file.read_text().strip()
    if not text.isdigit():
        raise CommonfleetError(
            f"{version_file} should hold a version number and holds {text[:40]!r}.",
            kept="Nothing was changed.",
            do="Restore the file (a number such as 1), or set COMMONFLEET_HOME to another folder.",
        )
    if int(text) > STATE_VERSION:
        raise CommonfleetError(
            f"The state folder {version_file.parent} has version {text}; this commonfleet knows {STATE_VERSION}.",
            kept="Nothing was changed.",
            do="Install the newer commonfleet, or set COMMONFLEET_HOME to another folder.",
        )
