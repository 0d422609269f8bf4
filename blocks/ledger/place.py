"""Which database holds the ledger of an installation and which store its files, and how a URL is said without password.

`COMMONFLEET_LEDGER` names it; else the line in `ledger-url` of the state folder (mode 0600, since a URL may hold a
password); else it is SQLite in that folder. Without a password in the URL libpq looks where it always does:
`PGPASSWORD`, `PGPASSFILE`, `~/.pgpass`.
"""

from __future__ import annotations

import os
from pathlib import Path

from sqlalchemy import URL, exc, make_url

from blocks.bucket import bucket_at
from blocks.disk import write_whole
from blocks.errors import LedgerError
from blocks.home import Home
from blocks.store import Store

EXAMPLE = "postgresql+psycopg://user@host/database"


def ledger_url(home: Home) -> str:
    """The URL of the installation's ledger, password included. Raises LedgerError when it names no database of ours."""
    named = os.environ.get("COMMONFLEET_LEDGER", "").strip()
    if named:
        return known_url(named, "COMMONFLEET_LEDGER")
    recorded = _recorded(home)
    return known_url(recorded, str(home.ledger_url)) if recorded else f"sqlite:///{home.ledger}"


def known_url(said: str, where: str) -> str:
    """`said` as SQLAlchemy takes it: PostgreSQL through psycopg, or a SQLite file. `where` it was said is told."""
    try:
        url = make_url(said)
    except (exc.ArgumentError, ValueError):
        raise _refused(f"{where} is no URL of a database.") from None  # their message may hold the password
    if url.drivername in ("postgresql", "postgres", "postgresql+psycopg"):
        if not url.database:
            raise _refused(f"{where} names no database: {shown(url)}.")
        return url.set(drivername="postgresql+psycopg").render_as_string(hide_password=False)
    if url.drivername == "sqlite" and url.database and Path(url.database).is_absolute() and not url.query:
        return said
    raise _refused(f"{where} names a database that cannot hold the ledger: {shown(url)}.")


def store_of(home: Home) -> Store:
    """The installation's store: the bucket that `COMMONFLEET_STORE` names, else in the state folder.

    Raises LedgerError for a name that is no bucket's.
    """
    named = os.environ.get("COMMONFLEET_STORE", "").strip()
    if not named:
        return Store(home.store)
    return Store(home.store, bucket_at(named))


def record_url(home: Home, url: str) -> None:
    """Have the state folder point to this ledger from now on."""
    write_whole(home.ledger_url, f"{url}\n".encode(), mode=0o600)


def shown(url: str | URL) -> str:
    """The URL as it may be printed: without any password."""
    made = make_url(url)
    open_part = {name: value for name, value in made.query.items() if "pass" not in name.lower()}
    return URL.create(
        made.drivername, made.username, None, made.host, made.port, made.database, open_part
    ).render_as_string()


def has_password(url: str) -> bool:
    made = make_url(url)
    return made.password is not None or any(name.lower().endswith("password") for name in made.query)


def _recorded(home: Home) -> str:
    try:
        return home.ledger_url.read_text().strip()
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise LedgerError(f"{home.ledger_url} cannot be read: {error.strerror}.", do="Make it readable.") from error


def _refused(what: str) -> LedgerError:
    return LedgerError(what, kept="Nothing was changed.", do=f"Write {EXAMPLE}, or sqlite:////folder/ledger.db.")
