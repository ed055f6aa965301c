"""Result lists of Label Studio -> regions, relations and prompts.

Reads what `result.py` writes and what annotators make of it. Every result that belongs to a region
repeats its whole mask, so only the first mask of an id is kept, and decoded when it is looked at.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from functools import lru_cache, partial

import msgspec
import numpy as np
from PIL import Image

from backend.errors import InvalidRleError, RequestError
from backend.label_studio import brush
from backend.label_studio.wire import WireResult, WireValue, decode, decode_results
from backend.runs import Runs
from backend.types import (
    ControlType,
    ImageSlot,
    LabelSchema,
    Layout,
    Origin,
    Prediction,
    Prompt,
    Region,
)
from calico_model.types import MAX_GROUP_SIZE, BoolMask, RegionKind

_MASK_TYPES = frozenset({"brush", "brushlabels", "bitmask", "bitmasklabels"})
_PROMPT_TYPES = frozenset({"keypoint", "keypointlabels", "rectangle", "rectanglelabels"})
_ORIGINS = {origin.value: origin for origin in Origin}
_PNG_PREFIX = "data:image/png;base64,"


class _WirePrediction(msgspec.Struct):
    task: int
    id: int | None = None
    model_version: str | None = None
    score: float | None = None
    result: msgspec.Raw = msgspec.Raw(b"[]")


def parse_regions(raw: msgspec.Raw | bytes, schema: LabelSchema) -> tuple[Region, ...]:
    """Reads the masks of a result list; everything that is not a mask is left out.

    Args:
        raw: JSON list of results.
        schema: the config they were made with; results of other tags are left out.

    Raises:
        RequestError: not a list.
    """
    return _regions(decode_results(raw), schema)


def parse_annotated(
    raw: msgspec.Raw | bytes, schema: LabelSchema
) -> tuple[tuple[Region, ...], tuple[tuple[str, str], ...]]:
    """Reads the masks and the pairs of region ids that are linked as the same part.

    Raises:
        RequestError: not a list.
    """
    return read_annotated(decode_results(raw), schema)


def read_annotated(
    results: Sequence[WireResult], schema: LabelSchema
) -> tuple[tuple[Region, ...], tuple[tuple[str, str], ...]]:
    """Reads the masks and the linked pairs of decoded results."""
    regions = _regions(results, schema)
    ids = {region.id for region in regions}
    pairs = tuple(
        (result.from_id, result.to_id)
        for result in results
        if result.type == "relation" and result.from_id in ids and result.to_id in ids
        if result.from_id is not None and result.to_id is not None
    )
    return regions, pairs


def parse_prediction(value: Mapping[str, object], schema: LabelSchema) -> Prediction:
    """Reads one prediction of Label Studio's API.

    Raises:
        RequestError: a wrong type; the field names the place.
    """
    wire = decode(msgspec.json.encode(value), _WirePrediction, RequestError)
    return Prediction(
        id=wire.id,
        task_id=wire.task,
        version=wire.model_version or "",
        score=wire.score,
        regions=parse_regions(wire.result, schema),
    )


def read_prompts(results: Sequence[WireResult], schema: LabelSchema) -> tuple[Prompt, ...]:
    """Reads the clicks and boxes of an interactive context."""
    prompts = []
    for result in results:
        box = _box_of(result)
        index = image_index(result, schema)
        if result.type in _PROMPT_TYPES and box is not None and index is not None:
            kind, label = _said_by_prompt(result.value, schema)
            prompts.append(
                Prompt(
                    id=str(result.id),
                    image_index=index,
                    box=box,
                    is_positive=result.is_positive,
                    kind=kind,
                    label=label,
                )
            )
    return tuple(prompts)


def _regions(results: Sequence[WireResult], schema: LabelSchema) -> tuple[Region, ...]:
    said: dict[tuple[str, str], list[str]] = {}
    for result in results:
        if result.value is not None and (texts := _texts(result.value)):
            said.setdefault((str(result.id), result.from_name), texts)
    regions: dict[str, Region] = {}
    for result in results:
        index = image_index(result, schema)
        size = _size_of(result)
        if result.type not in _MASK_TYPES or index is None or size is None or result.value is None:
            continue
        if str(result.id) in regions or not _has_mask(result.value):
            continue
        kind, label = _read_said(said, str(result.id), schema.slot(index), schema)
        encoding = _encoding(result.value)
        is_rle = result.value.imageDataURL is None
        regions[str(result.id)] = Region(
            id=str(result.id),
            image_index=index,
            size_hw=size,
            kind=kind,
            label=label,
            origin=_ORIGINS.get(result.origin, Origin.MANUAL),
            score=result.score,
            load_mask=partial(_load_mask, result.value, size),
            encoding=encoding,
            load_runs=partial(_known_runs, encoding, size) if is_rle else None,
        )
    return tuple(regions.values())


def _read_said(
    said: Mapping[tuple[str, str], list[str]], region_id: str, slot: ImageSlot, schema: LabelSchema
) -> tuple[RegionKind | None, str | None]:
    """Kind and name of a region from the tags that hold them."""
    kind = label = None
    if schema.kind is not None and slot.kind is not None:
        kind = _kind_said(said.get((region_id, slot.kind), []), schema)
    if schema.name is not None and slot.name is not None:
        label = next((t.strip() for t in said.get((region_id, slot.name), []) if t.strip()), None)
    return kind, label


def _kind_said(texts: Sequence[str], schema: LabelSchema) -> RegionKind | None:
    """The kind that the texts name; None when the text stands for several kinds."""
    if schema.kind is None:
        return None
    kinds = [kind for kind, value in schema.kind.values.items() if value in texts]
    return kinds[0] if len(kinds) == 1 else None


def _said_by_prompt(
    value: WireValue | None, schema: LabelSchema
) -> tuple[RegionKind | None, str | None]:
    texts = [] if value is None else _texts(value)
    if schema.kind is not None and schema.kind.type is ControlType.LABELS:
        return _kind_said(texts, schema), None
    return None, texts[0] if texts else None


def _texts(value: WireValue) -> list[str]:
    """The words of a result, whichever control wrote them."""
    if value.text is not None:
        return [value.text] if isinstance(value.text, str) else value.text
    lists = (value.labels, value.brushlabels, value.bitmasklabels, value.choices)
    prompts = (value.keypointlabels, value.rectanglelabels)
    return next((texts for texts in (*lists, *prompts) if texts), [])


def image_index(result: WireResult, schema: LabelSchema) -> int | None:
    """The image a result belongs to, 0-based; None for an image the config does not have."""
    if schema.layout is Layout.VALUE_LIST:
        index = result.item_index or 0
        is_known = result.to_name == schema.slot(0).image and 0 <= index < MAX_GROUP_SIZE
        return index if is_known else None
    return schema.image_indices.get(result.to_name)


def _size_of(result: WireResult) -> tuple[int, int] | None:
    """(height, width) in pixels, or None when not stated."""
    height, width = result.original_height, result.original_width
    if height is None or width is None or not (1 <= height < 2**31 and 1 <= width < 2**31):
        return None
    return int(height), int(width)


def _box_of(result: WireResult) -> tuple[float, float, float, float] | None:
    """(x0, y0, x1, y1) in pixels; the wire has percent of the image."""
    size, value = _size_of(result), result.value
    if size is None or value is None or value.x is None or value.y is None:
        return None
    across, down = size[1] / 100, size[0] / 100
    is_box = result.type.startswith("rectangle")
    width = (value.width or 0.0) if is_box else 0.0  # a keypoint's width is how large it is drawn
    height = (value.height or 0.0) if is_box else 0.0
    x, y = value.x, value.y
    return (x * across, y * down, (x + width) * across, (y + height) * down)


def _has_mask(value: WireValue) -> bool:
    return bytes(value.rle) not in (b"", b"null") or value.imageDataURL is not None


def _encoding(value: WireValue) -> bytes:
    """The mask as it came, without the spaces that depend on who wrote the JSON."""
    if value.imageDataURL is not None:
        return value.imageDataURL.encode()
    return bytes(value.rle).translate(None, b" \t\r\n")


@lru_cache(maxsize=1024)
def _known_runs(encoding: bytes, size_hw: tuple[int, int]) -> Runs:
    """Every click repeats all regions of its task: their runs are read once."""
    runs = brush.decode_runs(_bytes_of(encoding), size_hw=size_hw)
    runs.setflags(write=False)
    return runs


def _load_mask(value: WireValue, size_hw: tuple[int, int]) -> BoolMask:
    if value.imageDataURL is not None:
        return _load_bitmask(value.imageDataURL, size_hw)
    return brush.decode_mask(_bytes_of(value.rle), size_hw=size_hw)


def _bytes_of(rle: msgspec.Raw | bytes) -> list[int]:
    try:
        return msgspec.json.decode(rle, type=list[int])
    except msgspec.MsgspecError as error:
        raise InvalidRleError("rle: expected a list of integers 0 to 255") from error


def _load_bitmask(url: str, size_hw: tuple[int, int]) -> BoolMask:
    """Mask in the alpha of a PNG data URL."""
    if size_hw[0] * size_hw[1] > brush.MAX_PIXELS:
        raise InvalidRleError(f"expected at most {brush.MAX_PIXELS} pixels, got {size_hw}")
    if not url.startswith(_PNG_PREFIX):
        raise InvalidRleError(f"imageDataURL: expected {_PNG_PREFIX}..., got {url[:40]!r}")
    try:
        data = base64.b64decode(url[len(_PNG_PREFIX) :], validate=True)
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            if image.size != (size_hw[1], size_hw[0]) or not image.has_transparency_data:
                raise InvalidRleError(
                    f"imageDataURL: expected {size_hw[1]} x {size_hw[0]} with alpha, "
                    f"got {image.size[0]} x {image.size[1]} {image.mode}"
                )
            alpha = np.asarray(image.convert("RGBA"))[:, :, 3]  # (H, W)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InvalidRleError("imageDataURL: expected a PNG that can be decoded") from error
    mask: BoolMask = alpha >= brush.ALPHA_THRESHOLD
    return mask
