"""What Alembic runs: the steps, on the connection that `migrate` was given, inside its transaction."""

from __future__ import annotations

from alembic import context

from blocks.ledger.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,  # SQLite changes a column by making the table anew
    compare_type=True,
)
with context.begin_transaction():
    context.run_migrations()
