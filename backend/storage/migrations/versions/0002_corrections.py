"""Corrections: task of each head, what annotations started from, corrections and their regions."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Applies the step."""
    with op.batch_alter_table("ann_head") as table:
        table.add_column(sa.Column("task_id", sa.BigInteger(), nullable=True))
    op.create_index("ann_head_by_task", "ann_head", ["project_id", "task_id"], unique=False)
    # A head that was deleted names no task, and needs none: nothing was derived from it yet.
    op.execute(
        "UPDATE ann_head SET task_id ="
        " (SELECT event_log.task_id FROM event_log WHERE event_log.key = ann_head.key)"
    )
    op.create_table(
        "starting_point",
        sa.Column("project_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("annotation_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("prediction_id", sa.BigInteger(), nullable=True),
        sa.Column("version", sa.Text(), nullable=True),
        sa.Column("regions", sa.LargeBinary(), nullable=True),
        sa.Column("kept_at_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("project_id", "annotation_id"),
    )
    op.create_table(
        "correction",
        sa.Column("project_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("task_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("state", sa.String(length=64), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("outcome", sa.String(length=16), nullable=False),
        sa.Column("problem", sa.Text(), nullable=True),
        sa.Column("annotation_id", sa.BigInteger(), nullable=True),
        sa.Column("annotator_id", sa.BigInteger(), nullable=True),
        sa.Column("updated_at_us", sa.BigInteger(), nullable=True),
        sa.Column("version", sa.Text(), nullable=True),
        sa.Column("is_ground_truth", sa.Boolean(), nullable=False),
        sa.Column("annotators", sa.Integer(), nullable=False),
        sa.Column("agreement", sa.Float(), nullable=True),
        sa.Column("accepted", sa.Integer(), nullable=False),
        sa.Column("reshaped", sa.Integer(), nullable=False),
        sa.Column("relabelled", sa.Integer(), nullable=False),
        sa.Column("kind_changed", sa.Integer(), nullable=False),
        sa.Column("added", sa.Integer(), nullable=False),
        sa.Column("removed", sa.Integer(), nullable=False),
        sa.Column("reshaped_iou_sum", sa.Float(), nullable=False),
        sa.Column("predicted", sa.Integer(), nullable=False),
        sa.CheckConstraint(
            "outcome IN ('corrected', 'skipped', 'unreadable')",
            name="correction_outcome_is_known",
        ),
        sa.PrimaryKeyConstraint("project_id", "task_id"),
    )
    op.create_index("correction_by_seq", "correction", ["project_id", "seq"], unique=False)
    op.create_table(
        "region_outcome",
        sa.Column("project_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("task_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("image_index", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("region_id", sa.Text(), nullable=False),
        sa.Column("change", sa.Integer(), nullable=False),
        sa.Column("iou", sa.Float(), nullable=True),
        sa.Column("boundary_f", sa.Float(), nullable=True),
        sa.Column("boundary_px", sa.Float(), nullable=True),
        sa.Column("score", sa.Float(), nullable=True),
        sa.Column("kind_before", sa.String(length=40), nullable=True),
        sa.Column("kind_after", sa.String(length=40), nullable=True),
        sa.Column("label_before", sa.Text(), nullable=True),
        sa.Column("label_after", sa.Text(), nullable=True),
        sa.Column("replaced_by", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("project_id", "task_id", "image_index", "region_id"),
    )


def downgrade() -> None:
    """Takes the step back."""
    op.drop_table("region_outcome")
    op.drop_index("correction_by_seq", table_name="correction")
    op.drop_table("correction")
    op.drop_table("starting_point")
    op.drop_index("ann_head_by_task", table_name="ann_head")
    with op.batch_alter_table("ann_head") as table:
        table.drop_column("task_id")
