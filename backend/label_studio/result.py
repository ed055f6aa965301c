"""GroupPrediction -> the result list of one task.

The editor needs the results in this order and form to show and save them: shape, colour, labels,
choice or text; relations last, and only between ids of the list; scores are numbers; masks have the
size of the image as a browser shows it. Objects come first, so that their parts lie on top of them.
Images are not read here.
"""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import msgspec
import numpy as np
from PIL import Image

from backend.label_schema import (
    ControlType,
    ImageLayout,
    ImageSlot,
    LabelSchema,
    LabelValue,
    MaskFamily,
)
from backend.label_studio import brush
from backend.label_studio.colours import colours_of
from backend.label_studio.label_config import CARRIES_LABELS, MASK_TAGS
from backend.label_studio.label_set import closed_labels, match_label
from backend.types import Region, stable_id
from calico_model.types import (
    MAX_GROUP_SIZE,
    BoolMask,
    GroupPrediction,
    PartMask,
)

# Raise it when equal predictions are written differently: stored answers are then rendered again.
RENDERING_VERSION = 3

_Result = dict[str, object]
_BITMASKS = (MaskFamily.BITMASK, MaskFamily.BITMASK_LABELS)
_MASK_TYPES = {family: tag for tag, family in MASK_TAGS.items()}
_SCORE_DIGITS = 4


class Omission(StrEnum):
    """Why a region of a prediction is not shown."""

    EMPTY_MASK = "empty_mask"
    WRONG_SIZE = "wrong_size"
    KIND_NOT_OFFERED = "kind_not_offered"
    UNKNOWN_LABEL = "unknown_label"


@dataclass(frozen=True)
class RenderedPrediction:
    """One task's part of a response to /predict, ready to send or to store.

    Attributes:
        result: JSON list of results.
        score: mean of the shown regions' scores, 0 when there is none.
        version: the adapter version that predicted.
        region_ids: ids of the shown regions, in order.
        omitted: how many regions were left out, by reason.
    """

    result: bytes
    score: float
    version: str
    region_ids: tuple[str, ...]
    omitted: Mapping[Omission, int]


@dataclass(frozen=True)
class _Shown:
    """One region with the texts for its kind and name controls."""

    id: str
    part: PartMask
    kind: str | None
    name: str | None
    colour: str | None = None


def render_prediction(
    prediction: GroupPrediction,
    schema: LabelSchema,
    *,
    sizes_hw: Sequence[tuple[int, int]],
    labels: tuple[LabelValue, ...] = (),
    seed: str = "",
    with_relations: bool = False,
    with_other_kinds: bool = False,
    ids: Sequence[str] = (),
    canvas: Sequence[Region] = (),
    parent: str | None = None,
) -> RenderedPrediction:
    """Writes a prediction in the form that a labeling config can show.

    Args:
        prediction: of the model.
        schema: the project's labeling config.
        sizes_hw: (height, width) in pixels of each image, after EXIF transpose.
        labels: the task's own label set (`Task.labels`), used if the schema refers to it.
        seed: changes the region ids; equal seed and region give equal ids, so that a repeated
            interactive answer replaces its suggestions.
        with_relations: True draws an arrow between the regions of one part; never for interactive
            answers, whose relations would crash the editor. Without, each region still says in its
            `meta` which part it is.
        with_other_kinds: True shows a region whose kind is no label of the config without a label,
            instead of leaving it out: the annotator pointed at it, and the editor gives it the
            label that was chosen. A name outside a closed set is never shown.
        ids: of the regions, in order; () derives them from seed and region.
        canvas: regions that are drawn already; colours agree with theirs.
        parent: id of the region that these regions are shown under, in the list of regions and in
            the saved annotation; None for none.
    """
    omitted: Counter[Omission] = Counter()
    shown: list[_Shown] = []
    used: Counter[str] = Counter()
    for number, part in enumerate(prediction.parts):
        texts = _texts_of(part, schema, labels, sizes_hw, with_other_kinds=with_other_kinds)
        if isinstance(texts, Omission):
            omitted[texts] += 1
            continue
        if ids:
            shown.append(_Shown(ids[number], part, *texts))
            continue
        name = f"{seed}|{part.image_index}|{part.kind}|{part.label}|{part.part_id}"
        used[name] += 1
        region_id = stable_id(name, used[name])
        shown.append(_Shown(region_id, part, *texts))
    shown.sort(key=lambda region: region.part.kind.is_part)
    colours = colours_of(
        [region.part for region in shown], [region.id for region in shown], schema.colours, canvas
    )
    shown = [replace(region, colour=c) for region, c in zip(shown, colours, strict=True)]
    results = [result for region in shown for result in _region_results(region, schema)]
    if parent is not None:
        results = [result | {"parentID": parent} for result in results]
    if with_relations and schema.relation is not None:
        results += _relations(shown, schema.relation)
    score = sum(region.part.score for region in shown) / len(shown) if shown else 0.0
    return RenderedPrediction(
        result=msgspec.json.encode(results),
        score=round(score, _SCORE_DIGITS),
        version=prediction.version,
        region_ids=tuple(region.id for region in shown),
        omitted=omitted,
    )


def render_region(
    part: PartMask, schema: LabelSchema, *, region_id: str
) -> list[dict[str, object]]:
    """Writes the results of one region, shape first; [] if the config cannot show the region.

    Args:
        part: the region; its mask has the size of its image.
        schema: the project's labeling config.
        region_id: shared by the results.
    """
    height, width = part.mask.shape
    texts = _texts_of(part, schema, (), [(height, width)] * MAX_GROUP_SIZE)
    if isinstance(texts, Omission):
        return []
    return _region_results(_Shown(region_id, part, *texts), schema)


def _texts_of(
    part: PartMask,
    schema: LabelSchema,
    labels: tuple[LabelValue, ...],
    sizes_hw: Sequence[tuple[int, int]],
    *,
    with_other_kinds: bool = False,
) -> tuple[str | None, str | None] | Omission:
    """Returns kind and name as the config writes them, or why the region cannot be shown."""
    index = part.image_index
    has_slot = schema.layout is not ImageLayout.IMAGE_TAGS or index < len(schema.slots)
    if not 0 <= index < len(sizes_hw) or not has_slot or part.mask.shape != sizes_hw[index]:
        return Omission.WRONG_SIZE
    if not part.mask.any():
        return Omission.EMPTY_MASK
    kind = name = None
    if schema.kind is not None:
        kind = schema.kind.values.get(part.kind)
        is_label = schema.kind.type is ControlType.LABELS
        if kind is None and is_label and not with_other_kinds:
            return Omission.KIND_NOT_OFFERED
    if schema.name is not None and schema.name.is_open:
        name = "".join(sign for sign in part.label if sign.isprintable()).strip() or None
    elif schema.name is not None:
        name = match_label(part.label, closed_labels(schema, labels))
        # The editor draws a region without any label as a black area, which helps nobody.
        if name is None and not _has_kind_label(kind, schema):
            return Omission.UNKNOWN_LABEL
    return kind, name


def _has_kind_label(kind: str | None, schema: LabelSchema) -> bool:
    """Whether the kind of a region is shown as a label."""
    return kind is not None and schema.kind is not None and schema.kind.type is ControlType.LABELS


def _region_results(region: _Shown, schema: LabelSchema) -> list[_Result]:
    """Returns the shape, then labels, then choice or text; all share id, image and size."""
    part, slot = region.part, schema.slot(region.part.image_index)
    height, width = part.mask.shape
    frame: _Result = {
        "id": region.id,
        "to_name": slot.image,
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
    }
    if schema.layout is ImageLayout.VALUE_LIST:
        frame["item_index"] = part.image_index
    controls = _controls(region, slot, schema)
    shape: _Result = frame | {
        "from_name": slot.mask,
        "type": _MASK_TYPES[schema.mask_family],
        "score": round(float(part.score), _SCORE_DIGITS),
    }
    if part.part_id is not None:
        shape["meta"] = {"same_part": part.part_id}
    value = _mask_value(part.mask, schema.mask_family, is_object=not part.kind.is_part)
    if controls and controls[0][0] == slot.mask:
        # The tag that draws the mask also holds the labels.
        value[_MASK_TYPES[schema.mask_family]] = [controls.pop(0)[2]]
    elif schema.mask_family in CARRIES_LABELS:
        value[_MASK_TYPES[schema.mask_family]] = []
    results = [shape | {"value": value}]
    if region.colour is not None and slot.colour is not None:
        colour: _Result = {"from_name": slot.colour, "type": "taxonomy"}
        results.append(frame | colour | {"value": {"taxonomy": [[region.colour]]}})
    for from_name, control, text in controls:
        key = "text" if control is ControlType.TEXT else control.value
        attribute: _Result = {"from_name": from_name, "type": control.value}
        results.append(frame | attribute | {"value": {key: [text]}})
    return results


def _controls(
    region: _Shown, slot: ImageSlot, schema: LabelSchema
) -> list[tuple[str, ControlType, str]]:
    """Returns (tag, type, text) of a region's kind and name, labels first."""
    controls = []
    for control, tag, text in (
        (schema.kind, slot.kind, region.kind),
        (schema.name, slot.name, region.name),
    ):
        if control is not None and tag is not None and text is not None:
            controls.append((tag, control.type, text))
    return sorted(controls, key=lambda item: item[1] is not ControlType.LABELS)


def _mask_value(mask: BoolMask, family: MaskFamily, *, is_object: bool) -> _Result:
    if family not in _BITMASKS:
        # The editor fills a bitmask evenly, whatever its alpha.
        encode = brush.encode_outlined if is_object else brush.encode_mask
        return {"format": "rle", "rle": encode(mask)}
    pixels = np.zeros((*mask.shape, 4), dtype=np.uint8)  # (H, W, 4)
    pixels[mask, 3] = 255
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    return {"imageDataURL": f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"}


def _relations(shown: Sequence[_Shown], label: str) -> list[_Result]:
    """Links the regions of one part from image to image."""
    chains: dict[str, dict[int, str]] = {}
    for region in shown:
        if region.part.part_id is not None:
            chain = chains.setdefault(region.part.part_id, {})
            chain.setdefault(region.part.image_index, region.id)
    return [
        {"type": "relation", "from_id": start, "to_id": end, "direction": "bi"}
        | ({"labels": [label]} if label else {})
        for chain in chains.values()
        for start, end in zip(chain.values(), list(chain.values())[1:], strict=False)
    ]
