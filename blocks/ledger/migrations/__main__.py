"""Write the next step: `python -m blocks.ledger.migrations "what it does"`."""

from __future__ import annotations

import sys

from alembic import command
from sqlalchemy import create_engine

from blocks.ledger.migrations import config, migrate
from blocks.ledger.revisions import head


def main() -> None:
    """Compare what the steps so far make with the metadata, and write the difference down as a step."""
    with create_engine("sqlite://").connect() as connection, connection.begin():
        migrate(connection)
        command.revision(config(connection), sys.argv[1], autogenerate=True, rev_id=f"{int(head()) + 1:04}")


main()
