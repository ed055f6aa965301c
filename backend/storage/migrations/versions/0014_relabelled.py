"""States of annotations in which only a label was renamed."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None
oldest_release = "0012"  # only adds a table


def upgrade() -> None:
    """Applies the step."""
    op.create_table(
        "relabelled",
        sa.Column("key", sa.String(length=64), nullable=False),
        sa.Column("project_id", sa.BigInteger(), nullable=False),
        sa.Column("repeats", sa.String(length=64), nullable=False),
        sa.Column("made_us", sa.BigInteger(), nullable=False),
        sa.Column("journalled_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("key"),
    )


def downgrade() -> None:
    """Takes the step back."""
    op.drop_table("relabelled")
