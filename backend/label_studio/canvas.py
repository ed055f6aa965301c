"""What is already drawn on a task, as an interactive request carries it.

A draft is newer than the annotation it changes, and an annotation than the prediction it began
with; each repeats every region, so the newest alone is what the annotator sees, and an empty one
says that everything was deleted. Masks stay undecoded: which region was clicked is told from their
runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

import msgspec

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
        """What is drawn; raises RequestError."""
        raise NotImplementedError

    @property
    def moment(self) -> str:
        """ISO time of the last change; of one Label Studio they sort as text."""
        return self.updated_at or self.created_at or ""


class KnownDrawing(_WireDrawing):
    """All of whose results have a form we know."""

    result: list[WireResult] | None = None

    def results(self) -> list[WireResult]:
        """What is drawn."""
        return self.result or []


class _Other(_WireDrawing):
    """Whose results are to be read one by one."""

    result: msgspec.Raw = msgspec.Raw(b"[]")

    def results(self) -> list[WireResult]:
        return decode_results(self.result)


Drawings = msgspec.Raw | list[KnownDrawing]
"""A JSON list of drawings, as it came or already decoded."""


def read_canvas(sources: Sequence[Drawings], schema: LabelSchema) -> tuple[Region, ...]:
    """Reads the regions of the newest drawing, and which of them are linked.

    Args:
        sources: lists of drafts, annotations and predictions; the first that holds a drawing
            counts. What cannot be read, or was skipped, is none.
        schema: the project's labeling config.
    """
    for source in sources:
        drawings = source if isinstance(source, list) else _drawings(source)
        for drawing in sorted(drawings, key=lambda one: one.moment, reverse=True):
            if drawing.was_cancelled:
                continue
            try:
                regions, pairs = read_annotated(drawing.results(), schema)
            except RequestError:
                continue
            # Suggestions are bitmaps: one with the id of a polygon would break the editor's page.
            regions = tuple(region for region in regions if not region.is_outline)
            linked = {region_id for pair in pairs for region_id in pair}
            if not linked:
                return regions
            return tuple(replace(one, is_linked=one.id in linked) for one in regions)
    return ()


def _drawings(raw: msgspec.Raw) -> Sequence[_WireDrawing]:
    with suppress(*_UNREADABLE):
        return msgspec.json.decode(raw, type=list[KnownDrawing])
    found: list[_WireDrawing] = []
    with suppress(RequestError):
        for entry in decode_list(raw, RequestError, place="drawings"):
            with suppress(*_UNREADABLE):  # annotations may be bare ids
                found.append(msgspec.json.decode(entry, type=_Other))
    return found
