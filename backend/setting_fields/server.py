"""Settings of the server process: where it listens, whom it lets in, where data lies, its log."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field, SecretStr

from backend.setting_fields.values import PlaceOfAdapters

_MIB = 1024 * 1024


class ServerSettings(BaseModel):
    """Where a server listens and stores, and what it logs."""

    host: str = Field("127.0.0.1", description="Address the backend listens on.")
    port: int = Field(
        9090, ge=0, le=65535, description="Port the backend listens on; 0 = any free."
    )
    threads: int = Field(
        32, ge=16, le=256, description="Request threads of the server; each needs little memory."
    )
    basic_auth_user: str | None = Field(
        None, description="User name Label Studio must send; set together with the password."
    )
    basic_auth_password: SecretStr | None = Field(
        None, description="Password Label Studio must send; only / and /health need none."
    )
    allow_open_bind: bool = Field(
        False, description="Listen beyond this machine without credentials (trusted networks only)."
    )

    data_dir: Path = Field(
        Path(".calico"), description="Folder of the database and of all other stored files."
    )
    database_url: SecretStr | None = Field(
        None,
        description="SQLAlchemy URL (postgresql+psycopg://...); a SQLite file if unset.",
    )
    adapters_url: PlaceOfAdapters | None = Field(
        None,
        description="Where several servers find adapter versions: file:///FOLDER, "
        "s3://BUCKET/PREFIX or gs://BUCKET/PREFIX; the data folder alone if unset.",
    )
    commit_timeout_ms: int = Field(
        700,
        ge=1,
        le=60_000,
        description="Longest wait for a commit before 503; Label Studio waits 1000 ms.",
    )
    journal_queue: int = Field(
        1024,
        ge=1,
        description="Events that may wait for the writer thread; others are answered 503.",
    )

    max_body_bytes: int = Field(
        64 * _MIB,
        ge=1024,
        description="Largest request body in bytes; a batch contains earlier masks.",
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", description="Lowest level that is logged."
    )
    log_format: Literal["auto", "text", "json"] = Field(
        "auto",
        description="How log lines look: text or json; auto is text on a terminal and json "
        "elsewhere.",
    )
