"""Settings of learning from corrections, and of predicting again afterwards."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, Field

from backend.setting_fields.values import Hours

_MIB = 1024 * 1024


class LearningSettings(BaseModel):
    """When a project is trained, for how long, and what follows a new version."""

    trainer: bool = Field(
        True, description="Learn from corrections, in a separate process beside the server."
    )
    train_every: int = Field(
        5, ge=1, description="Number of new corrections of a project that starts a training."
    )
    train_age_s: float = Field(
        900.0, ge=0, description="Seconds after which a single new correction starts a training."
    )
    train_seconds: float | None = Field(
        None,
        gt=0,
        description="Longest time one update learns, in seconds of processor time; 30 if unset. "
        "The quality check takes extra time. A busy machine takes up to three times as long.",
    )
    trainer_threads: int = Field(1, ge=1, description="CPU threads of the trainer.")
    trainer_nice: int = Field(15, ge=0, le=19, description="Nice value of the trainer process.")
    refresh: bool = Field(
        True,
        description="Predict the tasks that nobody has begun again with every new version, and "
        "order them by its scores; needs Label Studio's token.",
    )
    refresh_at_once: int | None = Field(
        None,
        ge=0,
        le=10_000,
        description="Tasks of a project that are predicted again at any hour after a promotion, "
        "the least certain first; all if unset, 200 if only the hours are set.",
    )
    refresh_hours: Hours | None = Field(
        None,
        description="Hours of the day in UTC in which all other tasks are predicted again, as "
        "20-6; with CALICO_REFRESH_AT_ONCE alone they never are.",
    )
    start_from_project: int | None = Field(
        None,
        description="Project whose version new projects start from; the shipped model if unset.",
    )
    base_data: Path | None = Field(
        None,
        description="Records the weights were trained on, to rehearse and to measure forgetting; "
        "generated for the shipped weights if unset.",
    )
    feature_bytes: int = Field(
        4096 * _MIB, ge=1, description="Bytes of stored image features; others are not stored."
    )
