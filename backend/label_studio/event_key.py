"""Idempotency keys of webhook events.

Repeated deliveries of one event differ in spaces and in the order of their keys, so the key is
computed from JSON in a canonical form. Masks are not decoded for it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from backend.decoding import read_json
from backend.errors import InvalidEventError
from backend.label_studio.wire import decode, has_many_texts, has_many_values

_SPACES = b" \t\r\n"
# Decoded in one pass: the fields of the objects in a result stay raw.
_Field = dict[str, msgspec.Raw] | list[object] | str | int | float | bool | None
_Results = list[dict[str, _Field]]


def event_key(
    action: str, project_id: int, objects: Sequence[tuple[int, datetime | None, bytes]]
) -> str:
    """Idempotency key: sha256 of the action, the project and each (id, updated_at, content).

    Args:
        action: the event's name.
        project_id: where it happened.
        objects: id, time of the last change, and canonical JSON: the result of an annotation, the
            whole body of an event without annotations.

    Returns:
        64 hex digits, equal for repeated deliveries of one event.
    """
    digest = hashlib.sha256(f"{action}\n{project_id}\n".encode())
    for object_id, updated_at, result in objects:
        time = "" if updated_at is None else to_utc(updated_at).isoformat()
        digest.update(f"{object_id}\n{time}\n{len(result)}\n".encode())
        digest.update(result)
    return digest.hexdigest()


def canonical(raw: bytes | msgspec.Raw, place: str) -> bytes:
    """Returns equal bytes for equal JSON; very large JSON has to be written equally.

    Args:
        raw: the JSON.
        place: position in the request, for messages.

    Raises:
        InvalidEventError: not JSON.
    """
    if has_many_values(raw):
        # Decoding would block other requests; a repeated delivery may then look new.
        return bytes(raw)
    value = decode(raw, object, InvalidEventError, place=place)
    return msgspec.json.encode(value, order="deterministic")


def canonical_results(raw: bytes | msgspec.Raw, place: str) -> bytes:
    """Returns equal bytes for equal result lists.

    Most of a list are run lengths, repeated for every attribute of a region. Decoding them to
    numbers would be most of the work of a webhook, so only their spaces are removed.

    Raises:
        InvalidEventError: not JSON.
    """
    if has_many_texts(raw):
        return bytes(raw)
    try:
        results = read_json(raw, _Results)
        for result in results:
            for name, field in result.items():
                if isinstance(field, dict):
                    values: dict[str, Any] = {k: _canonical_value(k, v) for k, v in field.items()}
                    result[name] = values
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return canonical(raw, place)
    return msgspec.json.encode(results, order="deterministic")


def to_utc(time: datetime) -> datetime:
    """Returns a time in UTC; a time without a zone is in UTC already.

    Raises:
        InvalidEventError: it lies outside the years 1 to 9999 in UTC.
    """
    try:
        return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    except OverflowError:
        raise InvalidEventError(
            "expected a time between the years 1 and 9999 in UTC", field="annotation.updated_at"
        ) from None


def _canonical_value(key: str, raw: msgspec.Raw) -> object:
    data = bytes(raw)
    if key == "rle" and b'"' not in data:
        return msgspec.Raw(data.translate(None, _SPACES))
    if has_many_values(data):
        return raw
    return msgspec.json.decode(data)
