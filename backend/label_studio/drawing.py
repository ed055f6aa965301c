"""Results of one annotation -> groups that belong to one region each.

Results of one region share an id and an image. Imported annotations have no ids: each shape is a
region of its own then, and what repeats a shape says something about it. Does not decode shapes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import msgspec

from backend.label_studio.shape import ATTRIBUTES, place_of
from backend.label_studio.wire import UnreadResult, WireResult, WireValue

ImageOf = Callable[[WireResult], int | None]
_UNKNOWN = "unknown"  # type of a result that does not say a type we could read


@dataclass
class Group:
    """The results of one region.

    Attributes:
        id: of the region; made up from the shape where the results have none.
        image_index: 0-based position of the image.
        drawn: results that draw, in their order.
        said: results that only say something.
    """

    id: str
    image_index: int
    drawn: list[WireResult] = field(default_factory=list)
    said: list[WireResult] = field(default_factory=list)

    @property
    def results(self) -> list[WireResult]:
        """All of them, what draws first."""
        return [*self.drawn, *self.said]


def has_id(result: WireResult) -> bool:
    """Whether a result says to which region it belongs; the editor takes "" and 0 for nothing."""
    return bool(result.id)


def group_results(results: Sequence[WireResult], image_of: ImageOf) -> list[Group]:
    """Groups the results that belong to a region.

    Args:
        results: of one annotation.
        image_of: tells which image a result belongs to, None for one the config does not have.
    """
    grouping = _Grouping()
    said = []
    for result in results:
        index = image_of(result)
        if result.type not in ATTRIBUTES and index is not None:
            grouping.add_drawn(result, index)
        elif result.type in ATTRIBUTES and result.type != "relation":
            said.append((result, index))
    for result, index in said:
        grouping.add_said(result, index)
    return grouping.groups


def unread_results(entries: Iterable[msgspec.Raw]) -> list[WireResult]:
    """What can be told of entries that have another form than we know: where, and their labels."""
    found = []
    for entry in entries:
        with suppress(msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
            value = msgspec.json.decode(entry)
            if isinstance(value, dict) and isinstance(value.get("to_name"), str):
                found.append(_outlined(value))
    return found


def _outlined(entry: dict[str, object]) -> WireResult:
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
    """Groups in the making, by id and by shape."""

    def __init__(self) -> None:
        self.groups: list[Group] = []
        self._by_place: dict[tuple[int, str], Group] = {}
        self._by_id: dict[str, list[Group]] = {}
        self._without_id: dict[tuple[int, bytes], list[Group]] = {}

    def add_drawn(self, result: WireResult, index: int) -> None:
        """A result that draws belongs to its id; without one it is a region of its own."""
        group = self._named(result, index) if has_id(result) else self._nameless(result, index)
        group.drawn.append(result)

    def add_said(self, result: WireResult, index: int | None) -> None:
        """A result that says something belongs to its id, or to the shape that it repeats."""
        group = self._meant_by_id(result, index) if has_id(result) else self._meant(result, index)
        if group is not None:
            group.said.append(result)

    def _named(self, result: WireResult, index: int) -> Group:
        place = (index, str(result.id))
        if place not in self._by_place:
            self._by_place[place] = self._new(str(result.id), index)
            self._by_id.setdefault(str(result.id), []).append(self._by_place[place])
        return self._by_place[place]

    def _nameless(self, result: WireResult, index: int) -> Group:
        """Equal shapes on equal images get equal ids."""
        shape = _shape(result)
        alike = self._without_id.setdefault((index, shape), [])
        name = f"{index}|{len(alike)}|".encode() + shape
        alike.append(self._new(hashlib.sha256(name).hexdigest()[:12], index))
        return alike[-1]

    def _meant_by_id(self, result: WireResult, index: int | None) -> Group | None:
        alike = self._by_id.get(str(result.id), [])
        if index is None or (index, str(result.id)) not in self._by_place:
            if len(alike) == 1:
                return alike[0]  # what is said does not always repeat the image
            return None if index is None else self._named(result, index)
        return self._by_place[index, str(result.id)]

    def _meant(self, result: WireResult, index: int | None) -> Group | None:
        """Of equal shapes the first that this tag has not said anything about."""
        shape = _shape(result)
        if index is None or not shape:
            return None  # it says something about the whole task
        for group in self._without_id.get((index, shape), []):
            if all(one.from_name != result.from_name for one in group.said):
                return group
        return self._nameless(result, index)

    def _new(self, region_id: str, index: int) -> Group:
        self.groups.append(Group(region_id, index))
        return self.groups[-1]


def _shape(result: WireResult) -> bytes:
    return b"" if result.value is None else place_of(result.value)
