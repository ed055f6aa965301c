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
from backend.label_studio.annotation import parse_annotated
from backend.types import LabelSchema, Region


class _WireDrawing(msgspec.Struct):
    """A draft, an annotation or a prediction."""

    result: msgspec.Raw = msgspec.Raw(b"[]")
    updated_at: str | None = None
    created_at: str | None = None
    was_cancelled: bool = False

    @property
    def moment(self) -> str:
        """ISO time of the last change; of one Label Studio they sort as text."""
        return self.updated_at or self.created_at or ""


def read_canvas(sources: Sequence[msgspec.Raw], schema: LabelSchema) -> tuple[Region, ...]:
    """Reads the regions of the newest drawing, and which of them are linked.

    Args:
        sources: JSON lists of drafts, annotations and predictions; the first that holds a drawing
            counts. What cannot be read, or was skipped, is none.
        schema: the project's labeling config.
    """
    for raw in sources:
        for drawing in sorted(_drawings(raw), key=lambda one: one.moment, reverse=True):
            if drawing.was_cancelled:
                continue
            try:
                regions, pairs = parse_annotated(drawing.result, schema)
            except RequestError:
                continue
            linked = {region_id for pair in pairs for region_id in pair}
            if not linked:
                return regions
            return tuple(replace(one, is_linked=one.id in linked) for one in regions)
    return ()


def _drawings(raw: msgspec.Raw) -> list[_WireDrawing]:
    with suppress(msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return msgspec.json.decode(raw, type=list[_WireDrawing])
    try:
        entries = msgspec.json.decode(raw, type=list[msgspec.Raw])
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return []
    found = []
    for entry in entries:
        try:
            found.append(msgspec.json.decode(entry, type=_WireDrawing))
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
            continue  # annotations may be bare ids
    return found
