"""A connection to the database, waiting for a PostgreSQL that is just being restarted.

A restart takes seconds and a run takes hours: a transaction that begins in between waits. One that was under way has
failed, and says so: whether its COMMIT was heard cannot be known here, so it is not repeated.
"""

from __future__ import annotations

import logging
import os
import time

from sqlalchemy import Connection, Engine, exc

WAIT_SECONDS = float(os.environ.get("COMMONFLEET_LEDGER_WAIT", "60"))
_AGAIN_SECONDS = 0.25
_RESTARTING = (
    "connection refused",
    "no such file or directory",  # its socket
    "starting up",
    "shutting down",
    "in recovery mode",
    "server closed the connection",
    "terminating connection",
    "the connection is closed",
    "connection timeout expired",
    "connection reset",
)

_log = logging.getLogger("commonfleet.ledger")


def connected(engine: Engine) -> Connection:
    """A connection of the engine's. Raises OperationalError where none can be had, at once or after `WAIT_SECONDS`."""
    give_up = time.monotonic() + WAIT_SECONDS
    told = False
    while True:
        try:
            return engine.connect()
        except exc.OperationalError as error:
            if not restarting(engine, error) or time.monotonic() > give_up:
                raise
            if not told:
                _log.warning("The ledger's database does not answer: waiting up to %.0f s for it.", WAIT_SECONDS)
                told = True
            time.sleep(_AGAIN_SECONDS)


def restarting(engine: Engine, error: exc.OperationalError) -> bool:
    """Whether it may answer in a moment: a wrong password or a database that does not exist stays that way."""
    said = str(error.orig).lower()
    return engine.dialect.name != "sqlite" and any(words in said for words in _RESTARTING)
