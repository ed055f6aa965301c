"""What sources beside CALICO answered, and what corrections say about it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None
oldest_release = "0008"  # only adds tables


def upgrade() -> None:
    """Applies the step."""
    op.create_table(
        "source_answer",
        sa.Column("project_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("task_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("image_index", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("ability", sa.String(length=40), nullable=False),
        sa.Column("question", sa.String(length=64), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("made_at_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("project_id", "task_id", "image_index", "ability", "question"),
    )
    op.create_index("source_answer_by_age", "source_answer", ["made_at_us"])
    op.create_table(
        "source_judgement",
        sa.Column("project_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("task_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("state", sa.String(length=64), nullable=False),
        sa.Column("counts", sa.LargeBinary(), nullable=False),
        sa.Column("judged_at_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("project_id", "task_id"),
    )


def downgrade() -> None:
    """Takes the step back."""
    op.drop_table("source_judgement")
    op.drop_index("source_answer_by_age", "source_answer")
    op.drop_table("source_answer")
