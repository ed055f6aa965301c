"""Result lists of Label Studio -> regions and relations.

Reads what `result.py` writes and what annotators change in it. Every result of a region repeats the
whole shape, so only the first shape of an id is kept; its mask is decoded when it is needed. A
drawing that cannot be read as a mask is reported as an `UnreadRegion`: it must not count as absent.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import msgspec

from backend.decoding import read_json
from backend.errors import RequestError
from backend.label_schema import ControlType, ImageLayout, ImageSlot, LabelSchema
from backend.label_studio.drawing import Group, group_results, unread_results
from backend.label_studio.shape import (
    ATTRIBUTES,
    BITMAPS,
    OUTLINES,
    RegionShape,
    guess_tool,
    shape_key,
    shape_of,
    size_of,
    tool_of,
)
from backend.label_studio.wire import (
    UnreadResult,
    WireResult,
    WireValue,
    decode,
    decode_results,
)
from backend.types import Region, RegionOrigin, StoredPrediction, UnreadRegion
from calico_model.types import MAX_GROUP_SIZE, RegionKind

_ORIGINS = {origin.value: origin for origin in RegionOrigin}


@dataclass(frozen=True)
class Drawing:
    """The content of an annotation or a prediction.

    Attributes:
        regions: one per mask.
        same_part: pairs of region ids that are linked as the same part.
        arrows: the pairs that the editor draws as a relation.
        unread: drawings that are not masks.
        caption: of the group, "" without one.
    """

    regions: tuple[Region, ...]
    same_part: tuple[tuple[str, str], ...]
    arrows: tuple[tuple[str, str], ...]
    unread: tuple[UnreadRegion, ...]
    caption: str = ""


class _WireMeta(msgspec.Struct):
    """What a prediction says about a region beside its shape."""

    same_part: str = ""


class _WirePrediction(msgspec.Struct):
    task: int
    id: int | None = None
    model_version: str | None = None
    score: float | None = None
    result: msgspec.Raw = msgspec.Raw(b"[]")


def parse_regions(raw: msgspec.Raw | bytes, schema: LabelSchema) -> tuple[Region, ...]:
    """Reads the masks of a result list; everything else is left out.

    Args:
        raw: JSON list of results.
        schema: the config they were made with; results of images outside the config are left out.

    Raises:
        RequestError: not a list.
    """
    return parse_drawing(raw, schema).regions


def parse_drawing(raw: msgspec.Raw | bytes, schema: LabelSchema) -> Drawing:
    """Reads a result list: masks, linked pairs, and drawings that are not masks.

    Raises:
        RequestError: not a list.
    """
    unknown: list[msgspec.Raw] = []
    results = decode_results(raw, unknown=unknown)
    return _read(results + unread_results(unknown), schema)


def parse_annotated(
    raw: msgspec.Raw | bytes, schema: LabelSchema
) -> tuple[tuple[Region, ...], tuple[tuple[str, str], ...]]:
    """Reads the masks and the pairs of region ids that are linked as the same part.

    Raises:
        RequestError: not a list.
    """
    drawing = parse_drawing(raw, schema)
    return drawing.regions, drawing.same_part


def read_annotated(results: Sequence[WireResult], schema: LabelSchema) -> Drawing:
    """Reads decoded results: masks, linked pairs, and drawings that are not masks."""
    return _read(results, schema)


def parse_prediction(value: Mapping[str, object], schema: LabelSchema) -> StoredPrediction:
    """Reads one prediction of Label Studio's API.

    Raises:
        RequestError: a wrong type; the field names the place.
    """
    wire = decode(msgspec.json.encode(value), _WirePrediction, RequestError)
    return StoredPrediction(
        id=wire.id,
        task_id=wire.task,
        version=wire.model_version or "",
        score=wire.score,
        regions=parse_regions(wire.result, schema),
    )


def image_index(result: WireResult, schema: LabelSchema) -> int | None:
    """Returns the 0-based image of a result; None for an image outside the config."""
    if schema.layout is ImageLayout.VALUE_LIST:
        index = result.item_index or 0
        is_known = result.to_name == schema.slot(0).image and 0 <= index < MAX_GROUP_SIZE
        return index if is_known else None
    return schema.image_indices.get(result.to_name)


def _read(results: Sequence[WireResult], schema: LabelSchema) -> Drawing:
    regions: list[Region] = []
    unread: list[UnreadRegion] = []
    parts: dict[tuple[str, tuple[str, ...]], dict[int, str]] = {}
    for group in group_results(results, lambda result: image_index(result, schema)):
        slot = schema.slot(group.image_index)
        kind, labels = _kind_and_names(group, slot, schema)
        shown, shape = _shape_result(group, slot)
        size = None if shown is None else size_of(shown)
        if shown is not None and shape is not None and size is not None:
            regions.append(
                Region(
                    id=group.id,
                    image_index=group.image_index,
                    size_hw=size,
                    kind=kind,
                    label=labels[0] if labels else None,
                    origin=_ORIGINS.get(shown.origin, RegionOrigin.MANUAL),
                    score=shown.score,
                    load_mask=shape.load_mask,
                    encoding=shape.encoding,
                    load_runs=shape.load_runs,
                    more_labels=labels[1:],
                    is_outline=shape.is_outline,
                    colour=_colour(group, slot),
                )
            )
            if part := _part_in_meta(shown):
                # Renamed by the annotator, a region is no longer the same part as the others.
                parts.setdefault((part, labels), {}).setdefault(group.image_index, group.id)
            unread += _further_shapes(group)
            if _has_unread_name(group, slot, schema):
                unread.append(UnreadRegion(group.id, group.image_index, None))
        elif group.shapes and (labels or not all(_is_prompt(s, slot) for s in group.shapes)):
            names: tuple[str | None, ...] = labels or (None,)
            unread += [UnreadRegion(group.id, group.image_index, name) for name in names]
    unread += _on_unknown_images(results, schema)
    arrows = _relations(results, {region.id for region in regions})
    chains = ([chain[image] for image in sorted(chain)] for chain in parts.values())
    linked = (pair for chain in chains for pair in pairwise(chain))
    known = {frozenset(pair) for pair in arrows}
    same_part = (*arrows, *(pair for pair in linked if frozenset(pair) not in known))
    return Drawing(tuple(regions), same_part, arrows, tuple(unread), _caption(results, schema))


def _relations(
    results: Sequence[WireResult], ids: Collection[str | None]
) -> tuple[tuple[str, str], ...]:
    """Returns the pairs of regions, by id, that the editor draws a relation between."""
    return tuple(
        (result.from_id, result.to_id)
        for result in results
        if result.type == "relation" and result.from_id in ids and result.to_id in ids
        if result.from_id is not None and result.to_id is not None
    )


def _caption(results: Sequence[WireResult], schema: LabelSchema) -> str:
    """Returns the text in the tag for captions, lines joined; "" without one."""
    tag = schema.slot(0).caption
    lines: list[str] = []
    for result in results:
        text = None if result.value is None else result.value.text
        if tag is not None and result.from_name == tag and text is not None:
            lines += [text] if isinstance(text, str) else text
    return " ".join(line.strip() for line in lines if line.strip())


def _part_in_meta(result: WireResult) -> str:
    """Returns which part of its group a predicted region is, "" if nothing is said."""
    if not bytes(result.meta):
        return ""
    try:
        return read_json(result.meta, _WireMeta).same_part
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return ""  # another meta, of an annotator or another model


def _colour(group: Group, slot: ImageSlot) -> str | None:
    """Returns what the colour tag of a region holds, None without one."""
    for result in group.attributes:
        is_colour = slot.colour is not None and result.from_name == slot.colour
        if is_colour and result.value is not None and bytes(result.value.taxonomy):
            try:
                paths = read_json(result.value.taxonomy, list[list[str]])
            except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
                continue
            return next((path[0] for path in paths if path), None)
    return None


def _on_unknown_images(results: Sequence[WireResult], schema: LabelSchema) -> list[UnreadRegion]:
    """Returns drawings on an image that the config does not name (any more).

    Any image of the task may be meant, so each drawing is reported for all of them.
    """
    unread: list[UnreadRegion] = []
    for result in results:
        is_known = image_index(result, schema) is not None or result.to_name in schema.others
        if is_known or result.type in ATTRIBUTES or result.to_name == schema.slot(0).image:
            continue
        labels: Sequence[str | None] = [] if result.value is None else _labels(result.value)
        for label in labels or (None,):
            unread += [UnreadRegion(str(result.id), at, label) for at in range(MAX_GROUP_SIZE)]
    return unread


def _shape_result(group: Group, slot: ImageSlot) -> tuple[WireResult | None, RegionShape | None]:
    """Returns the result that holds a group's shape, bitmaps before outlines, and the shape."""
    if not group.shapes:
        # As in the editor: attributes may repeat a shape that no other result draws.
        for result in group.attributes:
            tool = "" if result.value is None else guess_tool(result.value)
            if shape := shape_of(result.value, tool, size_of(result)):
                return result, shape
    for tools in (BITMAPS, OUTLINES):
        for result in group.shapes:
            tool = tool_of(result)
            if tool in tools and not _is_prompt(result, slot):
                shape = shape_of(result.value, tool, size_of(result))
                if shape is not None and not isinstance(result, UnreadResult):
                    return result, shape
    return None, None


def _is_prompt(result: WireResult, slot: ImageSlot) -> bool:
    """Whether a result is a prompt for the model, not a drawing."""
    is_click = tool_of(result) == "keypoint" and result.from_name in slot.smart
    return is_click or result.from_name in slot.smart_only


def _kind_and_names(
    group: Group, slot: ImageSlot, schema: LabelSchema
) -> tuple[RegionKind | None, tuple[str, ...]]:
    """Returns kind and names of a region from the tags that hold them."""
    kind: RegionKind | None = None
    names: tuple[str, ...] = ()
    if schema.kind is not None and slot.kind is not None:
        kind = kind_of(_texts_of_tag(group, slot.kind, schema.kind.type), schema)
    if schema.name is not None and slot.name is not None:
        texts = _texts_of_tag(group, slot.name, schema.name.type)
        names = tuple(dict.fromkeys(text.strip() for text in texts if text.strip()))
    return kind, names


def _texts_of_tag(group: Group, tag: str, control: ControlType) -> Sequence[str]:
    """Returns a region's texts from a tag; labels may come from the tag that drew the region."""
    results = [r for r in group.results if r.from_name == tag and texts_of(r.value)]
    if len(results) > 1:  # a result with another shape does not belong to this region
        results = [result for result in results if _has_shape_of(group, result)]
    if results or control is not ControlType.LABELS:
        return [text for result in results for text in texts_of(result.value)]
    values = [result.value for result in group.results if result.value is not None]
    return next((texts for value in values if (texts := _labels(value))), [])


def _has_shape_of(group: Group, result: WireResult) -> bool:
    """Whether a result has the shape of the region, or no shape."""
    if result.value is None or not group.shapes or group.shapes[0].value is None:
        return True
    shape = shape_key(result.value)
    return not shape or shape == shape_key(group.shapes[0].value)


def _further_shapes(group: Group) -> list[UnreadRegion]:
    """Returns further shapes under one id: the editor shows only the first of them."""
    return [
        UnreadRegion(group.id, group.image_index, label)
        for result in group.shapes[1:]
        if tool_of(result) in BITMAPS | OUTLINES and not _has_shape_of(group, result)
        for label in texts_of(result.value)
    ]


def _has_unread_name(group: Group, slot: ImageSlot, schema: LabelSchema) -> bool:
    """Whether the result that should name a region cannot be read."""
    if schema.name is None:
        return False
    return any(
        isinstance(result, UnreadResult)
        and result.from_name == slot.name
        and not texts_of(result.value)
        for result in group.attributes
    )


def kind_of(texts: Sequence[str], schema: LabelSchema) -> RegionKind | None:
    """Returns the kind that texts name; None for no kind, or for a text of several kinds."""
    if schema.kind is None:
        return None
    kinds = [kind for kind, value in schema.kind.values.items() if value in texts]
    return kinds[0] if len(kinds) == 1 else None


def texts_of(value: WireValue | None) -> list[str]:
    """Returns the texts of a result, whichever control wrote them."""
    if value is None:
        return []
    if value.text is not None:
        return [value.text] if isinstance(value.text, str) else value.text
    return _labels(value) or value.choices or []


def _labels(value: WireValue) -> list[str]:
    """Returns the labels of a result, whichever tool wrote them."""
    lists = (
        value.labels,
        value.brushlabels,
        value.bitmasklabels,
        value.polygonlabels,
        value.rectanglelabels,
        value.ellipselabels,
        value.vectorlabels,
        value.keypointlabels,
    )
    return next((texts for texts in lists if texts), [])
