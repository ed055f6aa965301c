"""Runs the steps on the connection that `backend.store` hands over; there is no alembic.ini."""

from __future__ import annotations

from alembic import context

from backend.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,
    # The caller holds the one transaction (and thereby the lock against a second starter).
    transactional_ddl=False,
)
context.run_migrations()
