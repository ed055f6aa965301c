"""One text for equal JSON, however it was spaced and ordered; masks are not decoded for it."""

from __future__ import annotations

from typing import Any

import msgspec

from backend.errors import InvalidEventError
from backend.label_studio.wire import decode, has_many_texts, has_many_values

_SPACES = b" \t\r\n"
# One pass: only what stands in a result's objects stays as it was written.
_Field = dict[str, msgspec.Raw] | list[object] | str | int | float | bool | None
_Results = list[dict[str, _Field]]


def canonical(raw: bytes | msgspec.Raw, place: str) -> bytes:
    """Returns the same bytes for equal JSON; of very much JSON, for equally written JSON.

    Args:
        raw: the JSON.
        place: where it stood, for messages.

    Raises:
        InvalidEventError: not JSON.
    """
    if has_many_values(raw):
        return bytes(raw)  # building it would hold up everybody; only a repeat may look new
    value = decode(raw, object, InvalidEventError, place=place)
    return msgspec.json.encode(value, order="deterministic")


def canonical_results(raw: bytes | msgspec.Raw, place: str) -> bytes:
    """Returns the same bytes for equal result lists.

    Nearly all of a list is run lengths, repeated for every attribute of a region: reading them as
    numbers would be most of the work of a webhook, so they only lose their spaces.

    Raises:
        InvalidEventError: not JSON.
    """
    if has_many_texts(raw):
        return bytes(raw)
    try:
        results = msgspec.json.decode(raw, type=_Results)
        for result in results:
            for name, field in result.items():
                if isinstance(field, dict):
                    settled: dict[str, Any] = {k: _settle(k, v) for k, v in field.items()}
                    result[name] = settled
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return canonical(raw, place)
    return msgspec.json.encode(results, order="deterministic")


def _settle(key: str, raw: msgspec.Raw) -> object:
    data = bytes(raw)
    if key == "rle" and b'"' not in data:
        return msgspec.Raw(data.translate(None, _SPACES))
    if has_many_values(data):
        return raw
    return msgspec.json.decode(data)
