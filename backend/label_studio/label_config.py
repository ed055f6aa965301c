"""Labeling XML -> LabelSchema: which tags hold the images, the masks, the kind and the name.

Accepts every layout that shows a group of images (a Repeater, one Image tag per image, one Image
with a valueList) and every tag that draws masks (Brush beside Labels, BrushLabels, Bitmask,
BitmaskLabels). An image without a mask tag is only shown to the annotator and is left out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from xml.etree.ElementTree import Element, ParseError

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from backend.errors import InvalidLabelConfigError
from backend.label_schema import (
    ControlType,
    ImageLayout,
    ImageSlot,
    KindControl,
    LabelSchema,
    LabelValue,
    MaskFamily,
    NameControl,
)
from backend.label_studio.label_set import read_label
from backend.label_studio.task import plain_keys, read_reference
from calico_model.types import MAX_GROUP_SIZE, RegionKind

MAX_CONFIG_BYTES = 200_000

# In order of preference when a config offers several.
MASK_TAGS = {
    "brushlabels": MaskFamily.BRUSH_LABELS,
    "brush": MaskFamily.BRUSH,
    "bitmasklabels": MaskFamily.BITMASK_LABELS,
    "bitmask": MaskFamily.BITMASK,
}
CARRIES_LABELS = (MaskFamily.BRUSH_LABELS, MaskFamily.BITMASK_LABELS)
_TEXT_TAGS = ("text", "hypertext", "paragraphs")  # the first two show a single text
_HIGHLIGHT_TAGS = ("labels", "hypertextlabels", "paragraphlabels")
_SMART_TAGS = ("keypoint", "keypointlabels", "rectangle", "rectanglelabels")
_KINDS: dict[str, tuple[RegionKind, ...]] = {
    kind.value.replace("_", " "): (kind,) for kind in RegionKind
}
# Short words name a kind only in a per-region choice, where they are not ambiguous.
_SHORT_KINDS: dict[str, tuple[RegionKind, ...]] = {
    "common": (RegionKind.COMMON_OBJECT, RegionKind.COMMON_PART),
    "unique": (RegionKind.UNIQUE_PART,),
}
_INDEXED = re.compile(r"\$([\w.-]{1,200}?)\[(.{1,40})\](?:\.([\w-]{1,200}))?\Z")


@lru_cache(maxsize=64)
def parse_label_config(xml: str) -> LabelSchema:
    """Reads a labeling config; the same text is parsed once.

    Args:
        xml: the config as Label Studio sends it, at most MAX_CONFIG_BYTES in UTF-8.

    Raises:
        InvalidLabelConfigError: too large, not XML, with a DTD or entities, or a tag is missing;
            the message names the tag to add.
    """
    root = _parse_xml(xml)
    tags = list(root.iter())
    repeater, images = _find_images(root, tags)
    layout, fields, index_flag, item_key, template = _read_layout(repeater, images)
    by_image = [_controls_of(_need(image, "name"), tags) for image in images]
    family, masks = _find_masks(by_image)
    labels = masks if family in CARRIES_LABELS else _find_labels(by_image)
    kind, kind_tags, name, name_tags = _read_attributes(by_image, labels)
    colours, colour_tags = _read_colours(by_image)
    no_tags: list[str | None] = [None] * len(images)
    columns = (kind_tags or no_tags, name_tags or no_tags, colour_tags or no_tags)
    slots = tuple(
        _slot(image, mask, tags, controls)
        for image, mask, controls, *tags in zip(images, masks, by_image, *columns, strict=True)
    )
    return LabelSchema(
        layout=layout,
        image_fields=fields,
        slots=slots,
        index_flag=index_flag,
        mask_family=family,
        kind=kind,
        name=name,
        relation=_read_relation(tags),
        item_key=item_key,
        item_template=template,
        others=_other_names(tags, images, index_flag),
        colours=colours,
        highlights=_highlight_names(tags),
        texts=plain_keys(tag.get("value", "") for tag in tags if tag.tag in _TEXT_TAGS[:2]),
    )


def _slot(
    image: Element, mask: Element, tags: Sequence[str | None], controls: Sequence[Element]
) -> ImageSlot:
    """Returns the tags of one image; `tags` names those for kind, name and colour."""
    kind, name, colour = tags
    return ImageSlot(
        image=image.get("name", ""),
        mask=mask.get("name", ""),
        kind=kind,
        name=name,
        smart=tuple(tag.get("name", "") for tag in controls if _is_smart(tag)),
        ask=next((tag.get("name") for tag in controls if _is_prompt_box(tag)), None),
        smart_only=tuple(tag.get("name", "") for tag in controls if _only_prompts(tag)),
        colour=colour,
        note=next((tag.get("name") for tag in controls if _is_note(tag)), None),
        caption=next((tag.get("name") for tag in controls if _is_caption(tag)), None),
    )


def _other_names(
    tags: Sequence[Element], images: Sequence[Element], flag: str | None
) -> frozenset[str]:
    """Returns the names of other object tags, once for each view of a Repeater."""
    names = {tag.get("name", "") for tag in tags if not tag.get("toname") and tag not in images}
    if flag is None:
        return frozenset(names)
    return frozenset(n.replace(flag, str(i)) for n in names for i in range(MAX_GROUP_SIZE))


def _highlight_names(tags: Sequence[Element]) -> frozenset[str]:
    """Returns the names of the tags that label words of a text."""
    texts = {tag.get("name", "") for tag in tags if tag.tag in _TEXT_TAGS}
    return frozenset(
        tag.get("name", "")
        for tag in tags
        if tag.tag in _HIGHLIGHT_TAGS and texts & set(_to_names(tag))
    )


def _find_images(
    root: Element, tags: Sequence[Element]
) -> tuple[Element | None, Sequence[Element]]:
    """Returns the Repeater, if any, and the images that masks are drawn on, or else all images."""
    images = [tag for tag in tags if tag.tag == "image"]
    drawn_on = {name for tag in tags if tag.tag in MASK_TAGS for name in _to_names(tag)}
    images = [image for image in images if image.get("name") in drawn_on] or images
    repeaters = [
        tag for tag in root.iter("repeater") if any(i in images for i in tag.iter("image"))
    ]
    if not repeaters:
        return None, images
    repeater = repeaters[0]
    inside = [image for image in repeater.iter("image") if image in images]
    if len(inside) < len(images):
        raise _error(
            "expected masks on the images of one <Repeater>, or on <Image> tags outside of any; "
            "got both, or several"
        )
    return repeater, inside


def _parse_xml(xml: str) -> Element:
    """Returns the root element, tag and attribute names in lower case as the editor reads them."""
    size = len(xml.encode("utf-8", "surrogatepass"))
    if size > MAX_CONFIG_BYTES:
        raise _error(f"expected at most {MAX_CONFIG_BYTES} bytes, got {size}")
    try:
        root: Element = fromstring(xml, forbid_dtd=True, forbid_entities=True)
    except DefusedXmlException as error:
        raise _error("expected XML without DTD and entities") from error
    except (ParseError, ValueError, LookupError) as error:
        raise _error(f"expected well-formed XML: {error}") from error
    for tag in root.iter():
        tag.tag = tag.tag.lower()
        tag.attrib = {key.lower(): value for key, value in tag.attrib.items()}
    return root


def _read_layout(
    repeater: Element | None, images: Sequence[Element]
) -> tuple[ImageLayout, tuple[str, ...], str | None, str | None, str | None]:
    """Returns layout, keys of the task data, index flag, key in each list item, and item template.

    The template is the image tag's reference where it is not simply an item of the list.
    """
    if not images:
        raise _error('expected an <Image> tag, best inside <Repeater on="$images">; got none')
    first = images[0]
    if repeater is None and not any(image.get("valuelist") for image in images):
        if len(images) > MAX_GROUP_SIZE:
            raise _error(f"expected at most {MAX_GROUP_SIZE} <Image> tags, got {len(images)}")
        fields = tuple(_reference(image, "value") for image in images)
        return ImageLayout.IMAGE_TAGS, fields, None, None, None
    if len(images) > 1:
        place = "<Repeater>" if repeater is not None else "config with valueList"
        raise _error(f"expected one <Image> tag in a {place}, got {len(images)}")
    if repeater is None:
        return ImageLayout.VALUE_LIST, (_reference(first, "valuelist"),), None, None, None
    flag = repeater.get("indexflag") or "{{idx}}"
    if flag not in _need(first, "name"):
        raise _error(f'expected <Image name="image_{flag}"> in the <Repeater>, so names differ')
    field, value = _reference(repeater, "on"), _need(first, "value")
    item = _INDEXED.match(value)
    if item is not None and item[1] == field and item[2] == flag:
        return ImageLayout.REPEATER, (field,), flag, item[3], None
    # Any other reference, for example to a second list: replaced as the editor does.
    if flag not in value or read_reference(value.replace(flag, "0")) is None:
        raise _error(f'expected <Image value="${field}[{flag}]">, got {first.get("value")!r}')
    return ImageLayout.REPEATER, (field,), flag, None, value


def _controls_of(image_name: str, tags: Sequence[Element]) -> list[Element]:
    controls = [tag for tag in tags if image_name in _to_names(tag)]
    for control in controls:
        _need(control, "name")
    return controls


def _to_names(tag: Element) -> list[str]:
    return [name.strip() for name in tag.get("toname", "").split(",")]


def _find_masks(by_image: Sequence[Sequence[Element]]) -> tuple[MaskFamily, list[Element]]:
    """Returns the first mask family that every image has, and its tag for each image."""
    for tag, family in MASK_TAGS.items():
        masks = _one_per_image([[c for c in controls if c.tag == tag] for controls in by_image])
        if masks:
            return family, masks
    raise _error(
        "expected a <BrushLabels>, or a <Brush> and a <Labels>, with toName of every <Image>"
    )


def _find_labels(by_image: Sequence[Sequence[Element]]) -> list[Element]:
    labels = _one_per_image([[c for c in controls if c.tag == "labels"] for controls in by_image])
    if not labels:
        raise _error("expected a <Labels> beside the <Brush>, with toName of every <Image>")
    return labels


def _one_per_image(candidates: Sequence[Sequence[Element]]) -> list[Element]:
    """Returns the first candidate of each image, or [] if an image has none."""
    return [tags[0] for tags in candidates] if all(candidates) else []


def _read_attributes(
    by_image: Sequence[Sequence[Element]], labels: Sequence[Element]
) -> tuple[KindControl | None, list[str | None], NameControl | None, list[str | None]]:
    """Returns the controls of kind and name, each with its tag names per image ([] for no tag).

    Either the labels are kinds and a text or choice holds the name, or the labels are the names.
    """
    values = _shared_values(labels)
    task_field = _task_field(labels[0])
    if not values and task_field is None:
        raise _error(f'expected <Label value="..."> inside <{labels[0].tag}> of every <Image>')
    kinds = _kinds_among(values, _KINDS)
    per_region = [[c for c in cs if _is_true(c, "perregion")] for cs in by_image]
    choices = _one_per_image([[c for c in cs if c.tag == "choices"] for cs in per_region])
    if kinds:
        texts = _one_per_image([[c for c in cs if c.tag == "textarea"] for cs in per_region])
        name, name_tags = _name_beside_kinds(texts, choices)
        return KindControl(ControlType.LABELS, kinds), _names(labels), name, name_tags
    name = NameControl(ControlType.LABELS, values, task_field)
    kinds = _kinds_among(_shared_values(choices), _KINDS | _SHORT_KINDS)
    kind = KindControl(ControlType.CHOICES, kinds) if kinds else None
    return kind, _names(choices) if kind else [], name, _names(labels)


def _name_beside_kinds(
    texts: Sequence[Element], choices: Sequence[Element]
) -> tuple[NameControl | None, list[str | None]]:
    """Returns the control for names when the labels hold the kind."""
    if texts:
        return NameControl(ControlType.TEXT), _names(texts)
    values = _shared_values(choices)
    if values and not _kinds_among(values, _KINDS | _SHORT_KINDS):
        return NameControl(ControlType.CHOICES, values), _names(choices)
    return None, []


def _read_colours(
    by_image: Sequence[Sequence[Element]],
) -> tuple[tuple[str, ...], list[str | None]]:
    """Returns the colours that tags for nothing else offer, and the tag of each image."""
    tags = _one_per_image([[tag for tag in tags if _is_colour(tag)] for tags in by_image])
    return tuple(value.value for value in _shared_values(tags)), _names(tags)


def _names(tags: Sequence[Element]) -> list[str | None]:
    return [tag.get("name") for tag in tags]


def _shared_values(controls: Sequence[Element]) -> tuple[LabelValue, ...]:
    """Returns the labels that every image offers, in the order of the first image."""
    if not controls:
        return ()
    first, *others = [_values_of(control) for control in controls]
    offered = [{value.value for value in values} for values in others]
    return tuple(value for value in first if all(value.value in texts for texts in offered))


def _values_of(control: Element) -> list[LabelValue]:
    labels = (
        read_label(tag.get("value"), tag.get("alias"), tag.get("predicted_values"))
        for tag in control.iter()  # labels may be nested in views
        if tag.tag in ("label", "choice")
    )
    return [label for label in labels if label is not None]


def _task_field(control: Element) -> str | None:
    """Returns the task key of labels that come with each task (`value="$parts"`)."""
    return read_reference(control.get("value", ""))


def _kinds_among(
    values: Sequence[LabelValue], words: Mapping[str, tuple[RegionKind, ...]]
) -> dict[RegionKind, str]:
    """Returns the label of each kind; the first label that fits is taken."""
    label_of: dict[RegionKind, str] = {}
    for value in values:
        for text in (value.value, *value.aliases):
            plain = " ".join(re.split(r"[\s_-]+", text.strip().lower()))
            for kind in words.get(plain, words.get(plain.removesuffix("s"), ())):
                label_of.setdefault(kind, value.value)
    return label_of


def _is_smart(tag: Element) -> bool:
    return tag.tag in _SMART_TAGS and _is_true(tag, "smart")


def _only_prompts(tag: Element) -> bool:
    """Whether a tag is only for prompts; mask tags also hold drawings, whatever they state."""
    return _is_true(tag, "smartonly") and tag.tag not in MASK_TAGS


def _is_prompt_box(tag: Element) -> bool:
    """Whether a tag is the prompt box: a text area marked as smart; others are for comments."""
    is_text = tag.tag == "textarea" and not _is_true(tag, "perregion")
    return is_text and _is_true(tag, "smart", "smartonly")


def _is_note(tag: Element) -> bool:
    """Whether a tag is for notes of the backend: a text area that takes no text of annotators."""
    is_text = tag.tag == "textarea" and not _is_true(tag, "perregion")
    return is_text and tag.get("maxsubmissions", "").strip() == "0"


def _is_caption(tag: Element) -> bool:
    """Whether a tag holds a caption of the group: a text area named so, for people to edit."""
    is_text = tag.tag == "textarea" and not _is_true(tag, "perregion", "smart", "smartonly")
    is_named = tag.get("name", "").lower().startswith("caption")
    return is_text and is_named and not _is_note(tag)


def _is_colour(tag: Element) -> bool:
    """Whether a tag only colours regions: named so, and every choice has a colour."""
    if tag.tag != "taxonomy" or not _is_true(tag, "perregion"):
        return False
    choices = list(tag.iter("choice"))
    is_named = tag.get("name", "").lower().startswith(("colour", "color"))
    return is_named and bool(choices) and all(choice.get("color") for choice in choices)


def _is_true(tag: Element, *attributes: str) -> bool:
    return any(tag.get(attribute, "").lower() == "true" for attribute in attributes)


def _read_relation(tags: Sequence[Element]) -> str | None:
    """Returns the label of relations: `same_part` if offered, else the first, "" without any."""
    if not any(tag.tag == "relations" for tag in tags):
        return None
    offered = [tag.get("value", "") for tag in tags if tag.tag == "relation"]
    return "same_part" if "same_part" in offered else next(iter(offered), "")


def _reference(tag: Element, attribute: str) -> str:
    """Returns the task key that an attribute refers to ("$images" -> "images")."""
    reference = read_reference(_need(tag, attribute))
    if reference is None:
        raise _error(
            f'expected {attribute}="$key" on <{tag.tag}>, got {tag.get(attribute, "")[:80]!r}'
        )
    return reference


def _need(tag: Element, attribute: str) -> str:
    value = tag.get(attribute, "")
    if not value:
        raise _error(f"expected the attribute {attribute} on <{tag.tag}>")
    return value


def _error(message: str) -> InvalidLabelConfigError:
    return InvalidLabelConfigError(message, field="label_config")
