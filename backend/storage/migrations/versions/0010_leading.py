"""Which servers are there, and which of them does what is done once."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None
oldest_release = "0008"


def upgrade() -> None:
    """Applies the step."""
    op.create_table(
        "server",
        sa.Column("owner", sa.String(length=200), nullable=False),
        sa.Column("release", sa.String(length=40), nullable=False),
        sa.Column("weights", sa.String(length=200)),
        sa.Column("model", sa.String(length=16), nullable=False),
        sa.Column("waiting", sa.Integer(), nullable=False),
        sa.Column("began_at_us", sa.BigInteger(), nullable=False),
        sa.Column("seen_at_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("owner"),
    )
    op.create_table(
        "leader",
        sa.Column("role", sa.String(length=250), nullable=False),
        sa.Column("owner", sa.String(length=200), nullable=False),
        sa.Column("until_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("role"),
    )


def downgrade() -> None:
    """Takes the step back."""
    op.drop_table("leader")
    op.drop_table("server")
