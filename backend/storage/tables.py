"""The tables of the store, as SQLAlchemy Core objects; migrations create them.

Times are whole microseconds since 1970-01-01 UTC (`*_us`): unlike text they sort the same in every
database, whatever precision Label Studio printed.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    false,
    text,
)

metadata = MetaData()

# SQLite only numbers rows of an INTEGER key by itself; PostgreSQL wants 64 bits.
_Sequence = BigInteger().with_variant(Integer(), "sqlite")

event_log = Table(
    "event_log",
    metadata,
    Column("seq", _Sequence, primary_key=True, autoincrement=True),
    Column("key", String(64), nullable=False, unique=True),
    Column("project_id", BigInteger, nullable=False),
    Column("annotation_id", BigInteger),
    Column("task_id", BigInteger),
    Column("action", String(40), nullable=False),
    Column("updated_at_us", BigInteger),
    Column("payload", LargeBinary, nullable=False),
    Column("received_at_us", BigInteger, nullable=False),
    Index("event_log_by_project", "project_id", "seq"),
    sqlite_autoincrement=True,
)

ann_head = Table(
    "ann_head",
    metadata,
    Column("project_id", BigInteger, primary_key=True),
    Column("annotation_id", BigInteger, primary_key=True),
    Column("task_id", BigInteger),
    Column("version_us", BigInteger, nullable=False),
    Column("deleted", Boolean, nullable=False),
    Column("key", String(64), nullable=False),
    Column("received_us", BigInteger, nullable=False, server_default="0"),
    Column("is_observed", Boolean, nullable=False, server_default=false()),
    Index("ann_head_by_task", "project_id", "task_id"),
)

# Annotations that were missing, or in an older state, when Label Studio was last compared.
doubt = Table(
    "doubt",
    metadata,
    Column("project_id", BigInteger, primary_key=True, autoincrement=False),
    Column("annotation_id", BigInteger, primary_key=True, autoincrement=False),
    Column("task_id", BigInteger, nullable=False),
    Column("head_key", String(64), nullable=False),
    Column("seen", String(64), nullable=False),
    Column("first_seen_us", BigInteger, nullable=False),
)

# States of annotations that say what an earlier state said, under a renamed label: learning counts
# the earlier state, whose times are kept, or each would be a new correction.
relabelled = Table(
    "relabelled",
    metadata,
    Column("key", String(64), primary_key=True),
    Column("project_id", BigInteger, nullable=False),
    Column("repeats", String(64), nullable=False),
    Column("made_us", BigInteger, nullable=False),
    Column("journalled_us", BigInteger, nullable=False),
)

adapter = Table(
    "adapter",
    metadata,
    Column("id", String(200), primary_key=True),
    Column("project_id", BigInteger, nullable=False),
    Column("parent_id", String(200), ForeignKey("adapter.id")),
    Column("uri", Text, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("nbytes", BigInteger, nullable=False),
    Column("status", String(16), nullable=False),
    Column("upto_seq", BigInteger, nullable=False),
    Column("corrections", Integer, nullable=False, server_default="0"),
    Column("gate", Text),
    Column("reason", Text),
    Column("base_sha256", String(64), nullable=False),
    Column("code_version", String(40), nullable=False),
    Column("created_at_us", BigInteger, nullable=False),
    CheckConstraint(
        "status IN ('candidate', 'current', 'retired', 'rejected', 'quarantined')",
        name="adapter_status_is_known",
    ),
    Index("adapter_by_project", "project_id", "created_at_us"),
    Index(
        "adapter_one_current_per_project",
        "project_id",
        unique=True,
        sqlite_where=text("status = 'current'"),
        postgresql_where=text("status = 'current'"),
    ),
)

training_run = Table(
    "training_run",
    metadata,
    Column("id", _Sequence, primary_key=True, autoincrement=True),
    Column("project_id", BigInteger, nullable=False),
    Column("cause", String(16), nullable=False),
    Column("state", String(16), nullable=False),
    Column("owner", String(200), nullable=False),
    Column("lease_until_us", BigInteger, nullable=False),
    Column("stage", String(40), nullable=False),
    Column("progress", Float, nullable=False),
    Column("eta_s", Float),
    Column("upto_seq", BigInteger, nullable=False),
    Column("adapter_id", String(200), ForeignKey("adapter.id")),
    Column("error", Text),
    Column("began_at_us", BigInteger, nullable=False),
    Column("ended_at_us", BigInteger),
    CheckConstraint(
        "state IN ('running', 'published', 'rejected', 'failed', 'stopped', 'abandoned')",
        name="training_run_state_is_known",
    ),
    Index("training_run_by_project", "project_id", "id"),
    Index(
        "training_run_one_running_per_project",
        "project_id",
        unique=True,
        sqlite_where=text("state = 'running'"),
        postgresql_where=text("state = 'running'"),
    ),
    sqlite_autoincrement=True,
)

train_request = Table(
    "train_request",
    metadata,
    Column("project_id", BigInteger, primary_key=True, autoincrement=False),
    Column("requested_at_us", BigInteger, nullable=False),
)

# One row per running trainer, also while it has nothing to train.
trainer = Table(
    "trainer",
    metadata,
    Column("owner", String(200), primary_key=True),
    Column("began_at_us", BigInteger, nullable=False),
    Column("seen_at_us", BigInteger, nullable=False),
)

sync_cursor = Table(
    "sync_cursor",
    metadata,
    Column("project_id", BigInteger, primary_key=True, autoincrement=False),
    Column("updated_at_us", BigInteger, nullable=False),
    Column("last_ok_us", BigInteger, nullable=False),
)

prediction = Table(
    "prediction",
    metadata,
    Column("key", String(64), primary_key=True),
    Column("project_id", BigInteger),
    Column("task_id", BigInteger),
    Column("version", String(200), nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("created_at_us", BigInteger, nullable=False),
    Index("prediction_by_age", "created_at_us"),
)

# Descriptor of a task's images: float32, by the encoder of one base.
descriptor = Table(
    "descriptor",
    metadata,
    Column("project_id", BigInteger, primary_key=True, autoincrement=False),
    Column("task_id", BigInteger, primary_key=True, autoincrement=False),
    Column("base", String(200), primary_key=True),
    Column("vector", LargeBinary, nullable=False),
    Column("kept_at_us", BigInteger, nullable=False),
)

# Embeddings of the regions of an accepted annotation under their labels, by one base; derived from
# `event_log`, may be emptied at any time.
accepted_look = Table(
    "accepted_look",
    metadata,
    Column("project_id", BigInteger, primary_key=True, autoincrement=False),
    Column("annotation_id", BigInteger, primary_key=True, autoincrement=False),
    Column("key", String(64), nullable=False),
    Column("base", String(200), primary_key=True),
    Column("looks", LargeBinary, nullable=False),
    Column("kept_at_us", BigInteger, nullable=False, server_default="0"),
)

# What all asked sources answered to one question about one image; bounded, the oldest go first.
source_answer = Table(
    "source_answer",
    metadata,
    Column("project_id", BigInteger, primary_key=True, autoincrement=False),
    Column("task_id", BigInteger, primary_key=True, autoincrement=False),
    Column("image_index", Integer, primary_key=True, autoincrement=False),
    Column("ability", String(40), primary_key=True),
    Column("question", String(64), primary_key=True),
    Column("body", LargeBinary, nullable=False),
    Column("made_at_us", BigInteger, nullable=False),
    Index("source_answer_by_age", "made_at_us"),
)

# What the correction of one task says about the sources; derived from `source_answer` and
# `correction`, as long as the answers are kept.
source_judgement = Table(
    "source_judgement",
    metadata,
    Column("project_id", BigInteger, primary_key=True, autoincrement=False),
    Column("task_id", BigInteger, primary_key=True, autoincrement=False),
    Column("state", String(64), nullable=False),
    Column("counts", LargeBinary, nullable=False),
    Column("judged_at_us", BigInteger, nullable=False),
)

# The prediction an annotation started from: Label Studio and `prediction` may delete it.
starting_point = Table(
    "starting_point",
    metadata,
    Column("project_id", BigInteger, primary_key=True, autoincrement=False),
    Column("annotation_id", BigInteger, primary_key=True, autoincrement=False),
    Column("prediction_id", BigInteger),
    Column("version", Text),
    Column("regions", LargeBinary),
    Column("kept_at_us", BigInteger, nullable=False),
)

# The two tables below are derived from those above and may be emptied at any time.
correction = Table(
    "correction",
    metadata,
    Column("project_id", BigInteger, primary_key=True, autoincrement=False),
    Column("task_id", BigInteger, primary_key=True, autoincrement=False),
    Column("state", String(64), nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("outcome", String(16), nullable=False),
    Column("problem", Text),
    Column("annotation_id", BigInteger),
    Column("annotator_id", BigInteger),
    Column("updated_at_us", BigInteger),
    Column("version", Text),
    Column("is_ground_truth", Boolean, nullable=False),
    Column("annotators", Integer, nullable=False),
    Column("agreement", Float),
    Column("accepted", Integer, nullable=False),
    Column("reshaped", Integer, nullable=False),
    Column("relabelled", Integer, nullable=False),
    Column("kind_changed", Integer, nullable=False),
    Column("added", Integer, nullable=False),
    Column("removed", Integer, nullable=False),
    Column("reshaped_iou_sum", Float, nullable=False),
    Column("predicted", Integer, nullable=False),
    CheckConstraint(
        "outcome IN ('corrected', 'skipped', 'unreadable')", name="correction_outcome_is_known"
    ),
    Index("correction_by_seq", "project_id", "seq"),
)

region_outcome = Table(
    "region_outcome",
    metadata,
    Column("project_id", BigInteger, primary_key=True, autoincrement=False),
    Column("task_id", BigInteger, primary_key=True, autoincrement=False),
    Column("image_index", Integer, primary_key=True, autoincrement=False),
    Column("region_id", Text, primary_key=True),
    Column("change", Integer, nullable=False),
    Column("iou", Float),
    Column("boundary_f", Float),
    Column("boundary_px", Float),
    Column("score", Float),
    Column("kind_before", String(40)),
    Column("kind_after", String(40)),
    Column("label_before", Text),
    Column("label_after", Text),
    Column("replaced_by", Text),
)

# One row: the newest migration step, and the oldest step whose release may serve on these tables.
schema_support = Table(
    "schema_support",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("step", String(40), nullable=False),
    Column("oldest_release", String(40), nullable=False),
)

# One row: the key of the tokens in the forms of all servers' pages.
page_key = Table(
    "page_key",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("key", LargeBinary, nullable=False),
)

# One row per running server of a shared database; times of the database's clock.
server = Table(
    "server",
    metadata,
    Column("owner", String(200), primary_key=True),
    Column("release", String(40), nullable=False),
    Column("weights", String(200)),
    Column("model", String(16), nullable=False),
    Column("waiting", Integer, nullable=False),
    Column("began_at_us", BigInteger, nullable=False),
    Column("seen_at_us", BigInteger, nullable=False),
)

# Which server alone does what, until when unless it says so again.
leader = Table(
    "leader",
    metadata,
    Column("role", String(250), primary_key=True),
    Column("owner", String(200), nullable=False),
    Column("until_us", BigInteger, nullable=False),
)

# Tasks whose request was answered "not yet": whoever is the owner sends the prediction later.
owed_answer = Table(
    "owed_answer",
    metadata,
    Column("project_id", BigInteger, primary_key=True, autoincrement=False),
    Column("task_id", BigInteger, primary_key=True, autoincrement=False),
    Column("owner", String(200), nullable=False),
    Column("owed_at_us", BigInteger, nullable=False),
    Column("tries", Integer, nullable=False),
)

# How predicting a project's tasks again stands; the one server that does it writes it.
refresh_progress = Table(
    "refresh_progress",
    metadata,
    Column("project_id", BigInteger, primary_key=True, autoincrement=False),
    Column("version", String(200), nullable=False),
    Column("done", Integer, nullable=False),
    Column("total", Integer, nullable=False),
    Column("is_running", Boolean, nullable=False),
    Column("told_at_us", BigInteger, nullable=False),
)
