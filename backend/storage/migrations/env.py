"""Runs the migrations on the connection that `backend.storage.database` hands over."""

from __future__ import annotations

from alembic import context

from backend.storage.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,
    # The caller holds the one transaction (and thereby the lock against a second starter).
    transactional_ddl=False,
)
context.run_migrations()
