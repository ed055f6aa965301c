"""Versions with their gate, one current per project; training runs and wishes for them.

Nothing was ever published under the first tables, so they are empty and made anew.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_STATUSES = "status IN ('candidate', 'current', 'retired', 'rejected', 'quarantined')"
_STATES = "state IN ('running', 'published', 'rejected', 'failed', 'stopped', 'abandoned')"
_LIVE = sa.text("status IN ('queued', 'running')")
_CURRENT = sa.text("status = 'current'")
_RUNNING = sa.text("state = 'running'")


def upgrade() -> None:
    """Applies the step."""
    op.drop_table("active_adapter")
    op.drop_index(
        "job_one_live_per_project", table_name="job", sqlite_where=_LIVE, postgresql_where=_LIVE
    )
    op.drop_table("job")
    op.drop_index("adapter_by_project", table_name="adapter")
    op.drop_table("adapter")
    _create_adapter(
        sa.Column("corrections", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("gate", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
    )
    op.create_index(
        "adapter_one_current_per_project",
        "adapter",
        ["project_id"],
        unique=True,
        sqlite_where=_CURRENT,
        postgresql_where=_CURRENT,
    )
    op.create_table(
        "training_run",
        _numbered("id"),
        sa.Column("project_id", sa.BigInteger(), nullable=False),
        sa.Column("cause", sa.String(length=16), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("owner", sa.String(length=200), nullable=False),
        sa.Column("lease_until_us", sa.BigInteger(), nullable=False),
        sa.Column("stage", sa.String(length=40), nullable=False),
        sa.Column("progress", sa.Float(), nullable=False),
        sa.Column("eta_s", sa.Float(), nullable=True),
        sa.Column("upto_seq", sa.BigInteger(), nullable=False),
        sa.Column("adapter_id", sa.String(length=200), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("began_at_us", sa.BigInteger(), nullable=False),
        sa.Column("ended_at_us", sa.BigInteger(), nullable=True),
        sa.CheckConstraint(_STATES, name="training_run_state_is_known"),
        sa.ForeignKeyConstraint(["adapter_id"], ["adapter.id"]),
        sa.PrimaryKeyConstraint("id"),
        sqlite_autoincrement=True,
    )
    op.create_index("training_run_by_project", "training_run", ["project_id", "id"], unique=False)
    op.create_index(
        "training_run_one_running_per_project",
        "training_run",
        ["project_id"],
        unique=True,
        sqlite_where=_RUNNING,
        postgresql_where=_RUNNING,
    )
    op.create_table(
        "train_request",
        sa.Column("project_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("requested_at_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("project_id"),
    )


def downgrade() -> None:
    """Takes the step back; versions and runs are forgotten, the corrections stay."""
    op.drop_table("train_request")
    op.drop_index(
        "training_run_one_running_per_project",
        table_name="training_run",
        sqlite_where=_RUNNING,
        postgresql_where=_RUNNING,
    )
    op.drop_index("training_run_by_project", table_name="training_run")
    op.drop_table("training_run")
    op.drop_index(
        "adapter_one_current_per_project",
        table_name="adapter",
        sqlite_where=_CURRENT,
        postgresql_where=_CURRENT,
    )
    op.drop_index("adapter_by_project", table_name="adapter")
    op.drop_table("adapter")
    _create_adapter(
        sa.Column("score", sa.Float(), nullable=True),
        sa.Column("parent_score", sa.Float(), nullable=True),
    )
    op.create_table(
        "job",
        _numbered("id"),
        sa.Column("project_id", sa.BigInteger(), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("owner", sa.String(length=100), nullable=True),
        sa.Column("lease_until_us", sa.BigInteger(), nullable=True),
        sa.Column("fence", sa.BigInteger(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("ckpt", sa.Text(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.CheckConstraint(
            "status IN ('queued', 'running', 'done', 'failed')", name="job_status_is_known"
        ),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(
        "job_one_live_per_project",
        "job",
        ["project_id"],
        unique=True,
        sqlite_where=_LIVE,
        postgresql_where=_LIVE,
    )
    op.create_table(
        "active_adapter",
        sa.Column("project_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("adapter_id", sa.String(length=200), nullable=False),
        sa.Column("gen", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["adapter_id"], ["adapter.id"]),
        sa.PrimaryKeyConstraint("project_id"),
    )


def _create_adapter(*own: sa.Column[object]) -> None:
    """The table of versions with the columns that differ between the two forms."""
    op.create_table(
        "adapter",
        sa.Column("id", sa.String(length=200), nullable=False),
        sa.Column("project_id", sa.BigInteger(), nullable=False),
        sa.Column("parent_id", sa.String(length=200), nullable=True),
        sa.Column("uri", sa.Text(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("nbytes", sa.BigInteger(), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("upto_seq", sa.BigInteger(), nullable=False),
        *own,
        sa.Column("base_sha256", sa.String(length=64), nullable=False),
        sa.Column("code_version", sa.String(length=40), nullable=False),
        sa.Column("created_at_us", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(_STATUSES, name="adapter_status_is_known"),
        sa.ForeignKeyConstraint(["parent_id"], ["adapter.id"]),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("adapter_by_project", "adapter", ["project_id", "created_at_us"], unique=False)


def _numbered(name: str) -> sa.Column[int]:
    number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    return sa.Column(name, number, autoincrement=True, nullable=False)
