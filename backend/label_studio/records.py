"""A project, and what is connected to it, as Label Studio's API says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Project:
    """A project as Label Studio holds it."""

    id: int
    title: str
    label_config: str
    model_version: str | None = None
    task_number: int | None = None


@dataclass(frozen=True)
class ConnectedBackend:
    """An ML backend of a project; state is CO (connected), DI, ER, TR or PR."""

    id: int
    url: str
    title: str
    state: str
    is_interactive: bool
    auth_method: str


@dataclass(frozen=True)
class Webhook:
    """A webhook of a project."""

    id: int
    url: str
    is_active: bool
    send_payload: bool
    send_for_all_actions: bool
    actions: tuple[str, ...]
    headers: Mapping[str, str] = field(repr=False)
