"""Events of one project, as Label Studio's webhooks bring them."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta

from backend.types import Event, EventAction

PROJECT = 3


def an_event(annotation_id, second=0):
    """An update of an annotation, `second` seconds into 2026."""
    key = hashlib.sha256(f"{annotation_id}/{second}".encode()).hexdigest()
    return Event(
        key=key,
        action=EventAction.ANNOTATION_UPDATED,
        project_id=PROJECT,
        annotation_id=annotation_id,
        updated_at=datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=second),
        payload=b"{}",
    )
