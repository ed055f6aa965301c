"""What a labeling config allows, as a value: image tags, mask tags, kinds and names.

Label Studio's XML is parsed in backend/label_studio only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cached_property

from calico_model.types import MAX_GROUP_SIZE, RegionKind


class ImageLayout(StrEnum):
    """How a labeling config shows the images of one task."""

    REPEATER = "repeater"
    IMAGE_TAGS = "image_tags"
    VALUE_LIST = "value_list"

    def __repr__(self) -> str:
        """Spells the value as in the keys of answers that are kept in databases."""
        return f"<Layout.{self.name}: {self.value!r}>"


class MaskFamily(StrEnum):
    """Type of the tag that draws masks: beside a Labels tag, or with labels of its own."""

    BRUSH = "brush"
    BRUSH_LABELS = "brush_labels"
    BITMASK = "bitmask"
    BITMASK_LABELS = "bitmask_labels"


class ControlType(StrEnum):
    """Type of the per-region tag that contains an attribute."""

    LABELS = "labels"
    CHOICES = "choices"
    TEXT = "textarea"


@dataclass(frozen=True)
class LabelValue:
    """One label of a closed set.

    Attributes:
        value: the exact text that Label Studio stores.
        aliases: other texts with the same meaning.
    """

    value: str
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True)
class KindControl:
    """The tag of a region's kind, and the exact text of each kind it offers."""

    type: ControlType
    values: Mapping[RegionKind, str]


@dataclass(frozen=True)
class NameControl:
    """The tag of a region's own name.

    Attributes:
        type: the tag's type.
        values: the closed set, or () when any text is allowed or the set is in the task.
        task_field: path in the task data that lists further labels (`value="$parts"`), or None.
    """

    type: ControlType
    values: tuple[LabelValue, ...] = ()
    task_field: str | None = None

    @property
    def is_open(self) -> bool:
        """Whether any text may be written."""
        return self.type is ControlType.TEXT


@dataclass(frozen=True)
class ImageSlot:
    """Names of the tags that belong to one image.

    Attributes:
        image: the image tag; regions point to it.
        mask: the tag that draws masks.
        kind: the tag of the kind, or None.
        name: the tag of the region's own name, or None.
        smart: tags whose prompts ask for an interactive prediction.
        ask: the text tag whose content asks for an interactive prediction, or None.
        smart_only: smart tags without a manual tool: their regions are always prompts.
        colour: the tag that only holds the colour of a region, or None.
        note: the text tag in which the backend alone writes, or None.
        caption: the text tag that holds a caption of the group, or None; that of the first image
            is used. Not in the representation; `LabelSchema.spelling` names it where there is one.
    """

    image: str
    mask: str
    kind: str | None = None
    name: str | None = None
    smart: tuple[str, ...] = ()
    ask: str | None = None
    smart_only: tuple[str, ...] = ()
    colour: str | None = None
    note: str | None = None
    caption: str | None = field(default=None, repr=False)

    def filled_in(self, flag: str, index: str) -> ImageSlot:
        """Returns the names with the index in place of the flag."""
        return ImageSlot(
            image=self.image.replace(flag, index),
            mask=self.mask.replace(flag, index),
            kind=None if self.kind is None else self.kind.replace(flag, index),
            name=None if self.name is None else self.name.replace(flag, index),
            smart=tuple(name.replace(flag, index) for name in self.smart),
            ask=None if self.ask is None else self.ask.replace(flag, index),
            smart_only=tuple(name.replace(flag, index) for name in self.smart_only),
            colour=None if self.colour is None else self.colour.replace(flag, index),
            note=None if self.note is None else self.note.replace(flag, index),
            caption=None if self.caption is None else self.caption.replace(flag, index),
        )


class _NamesInOrder(frozenset[str]):
    """Spells a set of names in one order; that of a frozenset changes from process to process."""

    def __repr__(self) -> str:
        names = ", ".join(map(repr, sorted(self)))
        return f"frozenset({{{names}}})" if names else "frozenset()"


@dataclass(frozen=True)
class LabelSchema:
    """A parsed labeling config.

    Attributes:
        layout: how the images are shown.
        image_fields: paths in the task data, or texts with references to it ("/data/$name"); one
            per image tag, else the path of the single list.
        slots: one per image tag; otherwise exactly one, a template for every image.
        index_flag: text in the template's names that stands for the image index, or None.
        mask_family: the tag family that draws masks.
        kind: the tag of the kind, or None.
        name: the tag of the region's own name, or None.
        relation: label of the relation that links the same part, "" for a relation without
            label, or None when the config has no relations.
        item_key: key of the URL inside each list item ("$images[{{idx}}].url"), or None when the
            items are URLs themselves.
        item_template: what the image tag of a Repeater refers to instead ("/data/$files[{{idx}}]"),
            with the index flag in it, or None.
        others: names of tags that show something other than the images of the group.
        colours: what the colour tags offer, one text per colour; () without such tags.
        highlights: names of the tags that label words of a text beside the images. Not in the
            representation, which is part of the keys of kept answers: these do not depend on it.
        texts: keys of the task's data that are shown as texts; likewise.
    """

    layout: ImageLayout
    image_fields: tuple[str, ...]
    slots: tuple[ImageSlot, ...]
    index_flag: str | None
    mask_family: MaskFamily
    kind: KindControl | None
    name: NameControl | None
    relation: str | None = None
    item_key: str | None = None
    item_template: str | None = None
    others: frozenset[str] = frozenset()
    colours: tuple[str, ...] = ()
    highlights: frozenset[str] = field(default=frozenset(), repr=False)
    texts: tuple[str, ...] = field(default=(), repr=False)
    _filled_in: dict[int, ImageSlot] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def slot(self, image_index: int) -> ImageSlot:
        """Returns the tag names of one image, 0-based."""
        if self.layout is ImageLayout.IMAGE_TAGS:
            return self.slots[image_index]
        if self.index_flag is None:
            return self.slots[0]
        # Kept, because this is called for every result of a canvas.
        slot = self._filled_in.get(image_index)
        if slot is None:
            slot = self.slots[0].filled_in(self.index_flag, str(image_index))
            self._filled_in[image_index] = slot
        return slot

    @cached_property
    def spelling(self) -> str:
        """All that the config allows, as a text that is the same in every process.

        It is part of the keys of kept answers. Without a caption it is the text of releases that
        knew no captions, so that their kept answers are found.
        """
        spelled = repr(replace(self, others=_NamesInOrder(self.others)))
        captions = [slot.caption for slot in self.slots if slot.caption is not None]
        return f"{spelled}, captions={captions!r}" if captions else spelled

    @cached_property
    def image_indices(self) -> Mapping[str, int]:
        """0-based index of the image that an image tag shows, by the tag's name."""
        count = len(self.slots) if self.layout is ImageLayout.IMAGE_TAGS else MAX_GROUP_SIZE
        return {self.slot(index).image: index for index in reversed(range(count))}

    @property
    def is_interactive(self) -> bool:
        """Whether the config has a smart tool."""
        return any(slot.smart or slot.ask for slot in self.slots)
