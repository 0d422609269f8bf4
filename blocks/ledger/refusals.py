"""Triggers that refuse: a fact that is changed, and any change to a ledger that was moved elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from sqlalchemy import Connection, text

VERBS = ("UPDATE", "DELETE")


def make_facts(connection: Connection, tables: Iterable[str]) -> None:
    """From now on the rows of these tables can be inserted, and never changed. Migrations call this, too."""
    for statement in _of_facts(connection.dialect.name, tables):
        connection.execute(text(statement))


def refuse_everything(connection: Connection, tables: Iterable[str], why: str) -> None:
    """Refuse every further change, also to processes that have the database (SQLite) open already."""
    told = why.replace("'", "''")
    for table in tables:
        for verb in ("INSERT", *VERBS):
            connection.exec_driver_sql(
                f"CREATE TRIGGER {table}_moved_{verb.lower()} BEFORE {verb} ON {table} "
                f"BEGIN SELECT RAISE(ABORT, '{told}'); END"
            )


def _of_facts(dialect: str, tables: Iterable[str]) -> Iterator[str]:
    if dialect == "sqlite":
        for table in tables:
            for verb in VERBS:
                yield (
                    f"CREATE TRIGGER {table}_no_{verb.lower()} BEFORE {verb} ON {table} "
                    f"BEGIN SELECT RAISE(ABORT, '{table} are facts: insert, never change'); END"
                )
        return
    yield (
        "CREATE OR REPLACE FUNCTION commonfleet_refuse() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION '% are facts: insert, never change', TG_TABLE_NAME; END $$"
    )
    for table in tables:
        yield (
            f"CREATE TRIGGER {table}_immutable BEFORE UPDATE OR DELETE ON {table} "
            "FOR EACH ROW EXECUTE FUNCTION commonfleet_refuse()"
        )
