"""How a ledger's schema came to be, a file for each step; Alembic walks them.

To change the schema: change `schema.py`, then `python -m blocks.ledger.migrations "what it does"` writes the next
file of `versions` from the difference. Read it, finish it (triggers, for instance: `refusals.make_facts`), and run
`tests/blocks/ledger/test_migrations.py`, which compares what the files make with what the metadata says, on both
databases. A file that was released is not changed any more, and none takes anything from `schema.py`.
"""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection

from blocks.ledger import revisions

FOLDER = Path(__file__).parent


def migrate(connection: Connection, to: str = "head") -> None:
    """Walk the ledger to a revision, in the transaction of the connection; it does not commit."""
    command.upgrade(config(connection), to)


def config(connection: Connection) -> Config:
    made = Config()
    made.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    made.set_main_option("version_locations", str(revisions.VERSIONS).replace("%", "%%"))
    made.set_main_option("path_separator", "newline")  # a folder's name may hold any of the others
    made.set_main_option("file_template", "v%%(rev)s_%%(slug)s")
    made.attributes["connection"] = connection
    return made
