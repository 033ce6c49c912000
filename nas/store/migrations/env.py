"""Alembic's entry point: runs on the connection, and in the transaction, that `nas.store` hands over."""

from __future__ import annotations

from alembic import context

from nas.store.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=context.config.attributes["version_table"],
    transactional_ddl=True,
    render_as_batch=True,  # SQLite alters a column by copying the table
)
context.run_migrations()
