"""The regions that are already drawn on a task, read from an interactive request.

A draft is newer than the annotation it changes, and an annotation is newer than the prediction it
started from. Each of them repeats every region, so the newest is what the annotator sees; an empty
one means that every region was deleted. Masks are not decoded: their runs are enough to find the
region under a click.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

import msgspec

from backend.decoding import read_json
from backend.errors import RequestError
from backend.label_schema import LabelSchema
from backend.label_studio.annotation import read_annotated
from backend.label_studio.wire import WireResult, decode_list, decode_results
from backend.types import Region

_UNREADABLE = (msgspec.MsgspecError, RecursionError, UnicodeDecodeError)


class _WireDrawing(msgspec.Struct, kw_only=True):
    """A draft, an annotation or a prediction."""

    updated_at: str | None = None
    created_at: str | None = None
    was_cancelled: bool = False

    def results(self) -> list[WireResult]:
        """Returns the results of the drawing; raises RequestError."""
        raise NotImplementedError

    @property
    def moment(self) -> str:
        """Returns the ISO time of the last change; times of one Label Studio sort as text."""
        return self.updated_at or self.created_at or ""


class KnownDrawing(_WireDrawing):
    """A drawing whose results could all be decoded with the body."""

    result: list[WireResult] | None = None

    def results(self) -> list[WireResult]:
        """Returns the results of the drawing."""
        return self.result or []


class _RawDrawing(_WireDrawing):
    """A drawing whose results are decoded one by one, when they are needed."""

    result: msgspec.Raw = msgspec.Raw(b"[]")

    def results(self) -> list[WireResult]:
        return decode_results(self.result)


Drawings = msgspec.Raw | list[KnownDrawing]
"""A JSON list of drawings, raw or already decoded."""


def read_canvas(sources: Sequence[Drawings], schema: LabelSchema) -> tuple[Region, ...]:
    """Reads the regions of the newest drawing; `is_linked` is True for those that a relation names.

    Args:
        sources: lists of drafts, annotations and predictions; the first with a usable drawing
            counts. Skipped and unreadable drawings are not usable.
        schema: the project's labeling config.
    """
    for source in sources:
        drawings = source if isinstance(source, list) else _drawings(source)
        for drawing in sorted(drawings, key=lambda drawing: drawing.moment, reverse=True):
            if drawing.was_cancelled:
                continue
            try:
                drawn = read_annotated(drawing.results(), schema)
            except RequestError:
                continue
            # Suggestions are bitmaps; a bitmap with the id of a polygon crashes the editor.
            regions = tuple(region for region in drawn.regions if not region.is_outline)
            linked = {region_id for pair in drawn.arrows for region_id in pair}
            if not linked:
                return regions
            return tuple(replace(region, is_linked=region.id in linked) for region in regions)
    return ()


def _drawings(raw: msgspec.Raw) -> Sequence[_WireDrawing]:
    with suppress(*_UNREADABLE):
        return read_json(raw, list[KnownDrawing])
    drawings: list[_WireDrawing] = []
    with suppress(RequestError):
        for entry in decode_list(raw, RequestError, place="drawings"):
            with suppress(*_UNREADABLE):  # annotations may be bare ids
                drawings.append(read_json(entry, _RawDrawing))
    return drawings
