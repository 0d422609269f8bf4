"""Triggers that refuse: a fact that is changed, a log that does not grow, a ledger that was moved away."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from sqlalchemy import Connection, text

VERBS = ("UPDATE", "DELETE")


def make_facts(connection: Connection, tables: Iterable[str]) -> None:
    """From now on the rows of these tables can be inserted, and never changed. Migrations call this, too."""
    for statement in _of_facts(connection.dialect.name, tables):
        connection.execute(text(statement))


def let_only_grow(connection: Connection, allowed: Mapping[str, str]) -> None:
    """From now on a row of these tables is changed only where its condition (over OLD and NEW) holds, never deleted."""
    for table, condition in allowed.items():
        for verb, refused in (("UPDATE", f"NOT ({condition})"), ("DELETE", "1 = 1")):
            for statement in _of_growth(connection.dialect.name, table, verb, refused):
                connection.exec_driver_sql(statement)


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


def _of_growth(dialect: str, table: str, verb: str, refused: str) -> Iterator[str]:
    name, says = f"{table}_no_{verb.lower()}", f"{table} only grows"
    if dialect == "sqlite":
        yield f"CREATE TRIGGER {name} BEFORE {verb} ON {table} WHEN {refused} BEGIN SELECT RAISE(ABORT, '{says}'); END"
        return
    yield (
        f"CREATE OR REPLACE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN RAISE EXCEPTION '{says}'; END $$"
    )
    yield (f"CREATE TRIGGER {name} BEFORE {verb} ON {table} FOR EACH ROW WHEN ({refused}) EXECUTE FUNCTION {name}()")
