"""Results of one annotation -> one group of results per region.

The results of one region share an id and an image. Results of imported annotations have no ids:
then each shape is a region of its own, and an attribute (labels, choices, text) belongs to the
region whose shape it repeats. Shapes are not decoded here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import msgspec

from backend.label_studio.shape import ATTRIBUTES, shape_key
from backend.label_studio.wire import UnreadResult, WireResult, WireValue

ImageOf = Callable[[WireResult], int | None]
_UNKNOWN = "unknown"  # type of a result without a readable type


@dataclass
class Group:
    """The results of one region.

    Attributes:
        id: of the region; derived from the shape where the results have no id.
        image_index: 0-based position of the image.
        shapes: results that draw a shape, in their order.
        attributes: results that only hold labels, choices or a text.
    """

    id: str
    image_index: int
    shapes: list[WireResult] = field(default_factory=list)
    attributes: list[WireResult] = field(default_factory=list)

    @property
    def results(self) -> list[WireResult]:
        """All results, shapes first."""
        return [*self.shapes, *self.attributes]


def has_id(result: WireResult) -> bool:
    """Whether a result has the id of a region; the editor ignores the ids "" and 0."""
    return bool(result.id)


def group_results(results: Sequence[WireResult], image_of: ImageOf) -> list[Group]:
    """Groups the results by region.

    Args:
        results: of one annotation.
        image_of: returns the image of a result, 0-based; None for an image outside the config.
    """
    grouping = _Grouping()
    attributes = []
    for result in results:
        index = image_of(result)
        if result.type not in ATTRIBUTES and index is not None:
            grouping.add_shape(result, index)
        elif result.type in ATTRIBUTES and result.type != "relation":
            attributes.append((result, index))
    for result, index in attributes:
        grouping.add_attribute(result, index)
    return grouping.groups


def unread_results(entries: Iterable[msgspec.Raw]) -> list[WireResult]:
    """Reads the image, id and labels of entries whose other fields have an unknown form."""
    results: list[WireResult] = []
    for entry in entries:
        with suppress(msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
            value = msgspec.json.decode(entry)
            if isinstance(value, dict) and isinstance(value.get("to_name"), str):
                results.append(_unread_result(value))
    return results


def _unread_result(entry: dict[str, object]) -> WireResult:
    region, tag, index = entry.get("id"), entry.get("from_name"), entry.get("item_index")
    kind = entry.get("type")
    return UnreadResult(
        type=kind if isinstance(kind, str) else _UNKNOWN,
        id=region if isinstance(region, str | int) else None,
        from_name=tag if isinstance(tag, str) else "",
        to_name=str(entry["to_name"]),
        item_index=index if isinstance(index, int) else None,
        value=WireValue(labels=_labels_in(entry.get("value"))),
    )


def _labels_in(value: object) -> list[str] | None:
    for key, texts in value.items() if isinstance(value, dict) else ():
        is_list = isinstance(texts, list) and all(isinstance(text, str) for text in texts)
        if is_list and str(key).endswith("labels"):
            return list(texts)
    return None


class _Grouping:
    """Builds the groups; finds them by id and by shape."""

    def __init__(self) -> None:
        self.groups: list[Group] = []
        self._by_place: dict[tuple[int, str], Group] = {}
        self._by_id: dict[str, list[Group]] = {}
        self._without_id: dict[tuple[int, bytes], list[Group]] = {}

    def add_shape(self, result: WireResult, index: int) -> None:
        """Adds a result that draws: to the group of its id, or as a new region without an id."""
        group = self._of_id(result, index) if has_id(result) else self._new_unnamed(result, index)
        group.shapes.append(result)

    def add_attribute(self, result: WireResult, index: int | None) -> None:
        """Adds labels, choices or a text: to the group of its id, or of the shape it repeats."""
        find = self._find_by_id if has_id(result) else self._find_by_shape
        group = find(result, index)
        if group is not None:
            group.attributes.append(result)

    def _of_id(self, result: WireResult, index: int) -> Group:
        """Returns the group of the result's id and image, made if it is new."""
        place = (index, str(result.id))
        if place not in self._by_place:
            self._by_place[place] = self._new(str(result.id), index)
            self._by_id.setdefault(str(result.id), []).append(self._by_place[place])
        return self._by_place[place]

    def _new_unnamed(self, result: WireResult, index: int) -> Group:
        """Returns a new group for a shape without id; equal shapes on one image get equal ids."""
        shape = _shape(result)
        alike = self._without_id.setdefault((index, shape), [])
        name = f"{index}|{len(alike)}|".encode() + shape
        alike.append(self._new(hashlib.sha256(name).hexdigest()[:12], index))
        return alike[-1]

    def _find_by_id(self, result: WireResult, index: int | None) -> Group | None:
        alike = self._by_id.get(str(result.id), [])
        if index is None or (index, str(result.id)) not in self._by_place:
            if len(alike) == 1:
                return alike[0]  # attributes do not always repeat the image
            return None if index is None else self._of_id(result, index)
        return self._by_place[index, str(result.id)]

    def _find_by_shape(self, result: WireResult, index: int | None) -> Group | None:
        """Returns the first group of the same shape without an attribute from the same tag."""
        shape = _shape(result)
        if index is None or not shape:
            return None  # it belongs to the whole task
        for group in self._without_id.get((index, shape), []):
            if all(other.from_name != result.from_name for other in group.attributes):
                return group
        return self._new_unnamed(result, index)

    def _new(self, region_id: str, index: int) -> Group:
        self.groups.append(Group(region_id, index))
        return self.groups[-1]


def _shape(result: WireResult) -> bytes:
    return b"" if result.value is None else shape_key(result.value)
