"""Descriptors and embeddings of several weights side by side, as an upgrade needs them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None
oldest_release = "0012"  # earlier releases name other keys in their statements


def upgrade() -> None:
    """Applies the step."""
    op.rename_table("accepted_look", "accepted_look_before")
    op.create_table("accepted_look", *_embeddings("project_id", "annotation_id", "base"))
    op.add_column(
        "accepted_look",
        sa.Column("kept_at_us", sa.BigInteger(), nullable=False, server_default="0"),
    )
    _copy("accepted_look", "project_id, annotation_id, key, base, looks")
    op.rename_table("descriptor", "descriptor_before")
    op.create_table("descriptor", *_descriptors("project_id", "task_id", "base"))
    _copy("descriptor", "project_id, task_id, base, vector, kept_at_us")


def downgrade() -> None:
    """Takes the step back; what was derived from more than one base is made anew."""
    op.drop_table("accepted_look")
    op.create_table("accepted_look", *_embeddings("project_id", "annotation_id"))
    op.drop_table("descriptor")
    op.create_table("descriptor", *_descriptors("project_id", "task_id"))


def _copy(table: str, columns: str) -> None:
    op.execute(f"INSERT INTO {table} ({columns}) SELECT {columns} FROM {table}_before")
    op.drop_table(f"{table}_before")


def _embeddings(*key: str) -> tuple[sa.schema.SchemaItem, ...]:
    return (
        sa.Column("project_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("annotation_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("key", sa.String(length=64), nullable=False),
        sa.Column("base", sa.String(length=200), nullable=False),
        sa.Column("looks", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint(*key),
    )


def _descriptors(*key: str) -> tuple[sa.schema.SchemaItem, ...]:
    return (
        sa.Column("project_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("task_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("base", sa.String(length=200), nullable=False),
        sa.Column("vector", sa.LargeBinary(), nullable=False),
        sa.Column("kept_at_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint(*key),
    )
