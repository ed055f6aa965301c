"""JSON of Label Studio -> typed structs, with errors that name the place.

The decoder skips fields that are not named here: a click request carries every earlier mask of its
task. Braces and quotes are counted before the body is decoded: `{}` is 2 bytes of a body and 80
bytes of memory, and no other thread runs while the decoder works.
"""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Annotated, TypeVar

import msgspec

from backend.decoding import read_json
from backend.errors import RequestError
from backend.types import MAX_ID

MAX_CONTAINERS = 500_000
"""Objects and lists of a body; Label Studio writes some eight for a task without drawings."""
MAX_STRINGS = 3_000_000
"""Texts of a body, keys included."""
MAX_VALUES = 200_000
"""Values of a JSON fragment that is decoded without known types."""

_COUNTED_AT_ONCE = 1024 * 1024  # bytes; other threads run between two pieces
Id = Annotated[int, msgspec.Meta(ge=0, le=MAX_ID)]
_T = TypeVar("_T")
_PATH = re.compile(r" - at `\$(?P<path>.*)`\Z", re.DOTALL)


class WireValue(msgspec.Struct, gc=False):
    """The value of one result; absent keys are None. A shape stays raw until it is needed."""

    rle: msgspec.Raw = msgspec.Raw()
    imageDataURL: str | None = None
    labels: list[str] | None = None
    brushlabels: list[str] | None = None
    bitmasklabels: list[str] | None = None
    keypointlabels: list[str] | None = None
    rectanglelabels: list[str] | None = None
    ellipselabels: list[str] | None = None
    polygonlabels: list[str] | None = None
    vectorlabels: list[str] | None = None
    paragraphlabels: list[str] | None = None
    hypertextlabels: list[str] | None = None
    choices: list[str] | None = None
    text: list[str] | str | None = None
    x: float | None = None
    y: float | None = None
    width: float | None = None
    height: float | None = None
    rotation: float | None = None
    radiusX: float | None = None
    radiusY: float | None = None
    points: msgspec.Raw = msgspec.Raw()
    vertices: msgspec.Raw = msgspec.Raw()
    closed: bool | None = None
    taxonomy: msgspec.Raw = msgspec.Raw()


class WireResult(msgspec.Struct, gc=False):
    """One result of an annotation, a prediction or an interactive context."""

    type: str
    id: str | int | None = None
    from_name: str = ""
    to_name: str = ""
    original_width: float | None = None
    original_height: float | None = None
    item_index: int | None = None
    score: float | None = None
    origin: str = "manual"
    is_positive: bool = True
    value: WireValue | None = None
    from_id: str | None = None
    to_id: str | None = None
    meta: msgspec.Raw = msgspec.Raw()


class UnreadResult(WireResult, gc=False):
    """A result of an unknown form, with the fields that could be read."""


class _AnyObject(msgspec.Struct, gc=False):
    """An object whose fields are not decoded."""


def decode_body(body: bytes, kind: type[_T], error: type[RequestError]) -> _T:
    """Decodes the whole body of a request, unless it holds too many values.

    Raises:
        RequestError: of the given class; too many values, or as `decode`.
    """
    check_body(body, error)
    return decode(body, kind, error)


def check_body(body: bytes, error: type[RequestError]) -> None:
    """Counts the objects, lists and texts of a body, at any depth.

    Raises:
        RequestError: of the given class, too many objects, lists or texts.
    """
    if _has_more(body, (b"{", b"["), MAX_CONTAINERS):
        raise error(f"expected at most {MAX_CONTAINERS} objects and lists", field="body")
    if _has_more(body, (b'"',), 2 * MAX_STRINGS):
        raise error(f"expected at most {MAX_STRINGS} texts", field="body")


def has_many_values(raw: bytes | msgspec.Raw) -> bool:
    """Whether JSON may hold more than MAX_VALUES values; nothing is decoded."""
    return _has_more(bytes(raw), (b",", b"{", b"["), MAX_VALUES)


def has_many_texts(raw: bytes | msgspec.Raw) -> bool:
    """Whether JSON may hold more than MAX_VALUES texts, keys included; nothing is decoded."""
    return _has_more(bytes(raw), (b'"',), 2 * MAX_VALUES)


def _has_more(data: bytes, signs: tuple[bytes, ...], most: int) -> bool:
    """Whether the signs together occur more than `most` times; occurrences inside texts count."""
    count = 0
    for at in range(0, len(data), _COUNTED_AT_ONCE):
        piece = data[at : at + _COUNTED_AT_ONCE]
        count += sum(map(piece.count, signs))
        if count > most:
            return True
    return False


def decode_list(
    raw: bytes | msgspec.Raw, error: type[RequestError], *, place: str
) -> list[msgspec.Raw]:
    """Decodes a list into its raw entries. A long list may hold objects only.

    Raises:
        RequestError: of the given class; not a list, or a long list with other values.
    """
    if has_many_values(raw):
        # check_body counts objects but not numbers, because masks consist of numbers.
        decode(raw, list[_AnyObject], error, place=place)
    return decode(raw, list[msgspec.Raw], error, place=place)


def decode(
    body: bytes | msgspec.Raw, kind: type[_T], error: type[RequestError], *, place: str = ""
) -> _T:
    """Decodes JSON into a struct.

    Args:
        body: the JSON.
        kind: the struct or type.
        error: class of the error raised.
        place: position of the JSON in the request, for messages; "" for the whole body.

    Raises:
        RequestError: of the given class, not JSON or a wrong type; the field names the place.
    """
    whole = place or "body"
    try:
        return read_json(body, kind)
    except msgspec.ValidationError as problem:
        message = str(problem)
        path = _PATH.search(message)
        field = (place + (path["path"] if path else "")).lstrip(".")
        raise error(_PATH.sub("", message), field=field or whole) from problem
    except RecursionError as problem:
        raise error("expected JSON nested less deeply", field=whole) from problem
    except (msgspec.DecodeError, UnicodeDecodeError) as problem:
        raise error(f"expected JSON: {problem}", field=whole) from problem


def decode_results(
    raw: msgspec.Raw | bytes,
    *,
    place: str = "result",
    most: int | None = None,
    unknown: list[msgspec.Raw] | None = None,
) -> list[WireResult]:
    """Decodes a result list; like the editor, leaves out entries of an unknown form.

    Args:
        raw: the JSON.
        place: position in the request, for messages.
        most: largest allowed number of entries, or None for any number.
        unknown: a list to which the left-out entries are appended, or None.

    Raises:
        RequestError: neither a list nor null, or too many entries.
    """
    if bytes(raw) in (b"", b"null"):
        return []
    if most is None:
        with suppress(msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
            return read_json(raw, list[WireResult])  # twice as fast as entry by entry
    results = []
    entries = decode_list(raw, RequestError, place=place)
    if most is not None and len(entries) > most:
        raise RequestError(f"expected at most {most} results, got {len(entries)}", field=place)
    for entry in entries:
        try:
            results.append(read_json(entry, WireResult))
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
            if unknown is not None:
                unknown.append(entry)
    return results
