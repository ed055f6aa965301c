"""When each head was received, and what Label Studio seems to have lost."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_GONE_US = 2**62  # what stood for the time of a deletion


def upgrade() -> None:
    """Applies the step."""
    op.add_column(
        "ann_head",
        sa.Column("received_us", sa.BigInteger(), server_default="0", nullable=False),
    )
    op.add_column(
        "ann_head",
        sa.Column("is_observed", sa.Boolean(), server_default=sa.false(), nullable=False),
    )
    op.execute(
        "UPDATE ann_head SET received_us = coalesce((SELECT received_at_us FROM event_log"
        " WHERE event_log.key = ann_head.key), 0)"
    )
    op.execute(f"UPDATE ann_head SET version_us = 0 WHERE version_us = {_GONE_US}")
    op.create_table(
        "doubt",
        sa.Column("project_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("annotation_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("task_id", sa.BigInteger(), nullable=False),
        sa.Column("head_key", sa.String(length=64), nullable=False),
        sa.Column("seen", sa.String(length=64), nullable=False),
        sa.Column("first_seen_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("project_id", "annotation_id"),
    )


def downgrade() -> None:
    """Takes the step back."""
    op.drop_table("doubt")
    op.execute(sa.text(f"UPDATE ann_head SET version_us = {_GONE_US} WHERE deleted"))
    op.drop_column("ann_head", "is_observed")
    op.drop_column("ann_head", "received_us")
