"""A label gets another name in a labeling config: edits of its text that leave the rest as it is.

The new label keeps the old name as one of its `predicted_values`: texts that mean the label. So
whatever still says the old name means the new one: learned versions, kept predictions, annotations
that are renamed later. It also tells a second run that this renaming has begun.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import quoteattr

from backend.errors import SettingsError
from backend.label_schema import ControlType, LabelSchema, LabelValue
from backend.label_studio.group_config import check_label_names
from backend.label_studio.label_config import parse_label_config
from backend.label_studio.label_set import read_label, vocabulary_of
from calico_model.types import MAX_GROUP_SIZE
from calico_model.vocabulary import identity

# Of well-formed XML without a DTD, which `parse_label_config` has made sure of.
_MARKUP = re.compile(
    r"<!--.*?-->|<!\[CDATA\[.*?\]\]>|<\?.*?\?>"
    r"|<(?P<close>/?)(?P<name>[^\s/>!?]+)(?P<attributes>(?:\"[^\"]*\"|'[^']*'|[^\"'>])*?)"
    r"(?P<empty>/?)>",
    re.DOTALL,
)
_ATTRIBUTE = re.compile(r"(?P<key>[^\s=/]+)\s*=\s*(?P<value>\"[^\"]*\"|'[^']*')", re.DOTALL)
_VALUES = ("label", "choice")
_CONDITIONS = ("whenlabelvalue", "whenchoicevalue")
_SHOWN_LABELS = 12  # of a project, in a message


@dataclass(frozen=True)
class LabelRenaming:
    """How a label of one project gets another name.

    Attributes:
        old, new: exact texts as Label Studio stores them.
        config: the labeling config with the new name; the present one if it has it already.
        tags: names of the tags whose results hold the label, once for each image.
        is_choice: whether these tags offer choices; else labels of regions.
        is_known: whether the config knew the old name; else only annotations can tell.
        merges: whether two labels of the config become one.
    """

    old: str
    new: str
    config: str
    tags: frozenset[str]
    is_choice: bool
    is_known: bool
    merges: bool


@dataclass(frozen=True)
class _Tag:
    """A start tag in the text of a config; `end` is that of its whole element if it is empty."""

    name: str
    start: int
    end: int
    attributes: Mapping[str, tuple[str, int, int]]  # key -> value, and the place of its quotes
    parents: tuple[_Tag, ...]

    def get(self, key: str) -> str | None:
        """Returns the value of an attribute, None without it."""
        found = self.attributes.get(key)
        return None if found is None else found[0]

    @property
    def label(self) -> LabelValue | None:
        """The label that the tag offers; None for any other tag."""
        if self.name not in _VALUES:
            return None
        return read_label(self.get("value"), self.get("alias"), self.get("predicted_values"))


@dataclass(frozen=True)
class _Edit:
    """Replaces a part of the text."""

    start: int
    end: int
    text: str


def plan_renaming(config: str, old: str, new: str, *, merges: bool) -> LabelRenaming:
    """Decides how a label is renamed, and refuses what cannot be meant.

    Args:
        config: the project's labeling config, XML.
        old: a label; also one that the config has no more, see `LabelRenaming.is_known`.
        new: its new name.
        merges: `new` is a label already, and both become one.

    Raises:
        SettingsError: names the argument and what was expected.
        InvalidLabelConfigError: the config cannot be used.
    """
    schema = parse_label_config(config)
    if schema.name is None:
        raise SettingsError("OLD: the labeling config has no tag that holds names of regions")
    if schema.name.is_open:
        raise SettingsError(
            "OLD: this project has no list of labels: annotators write names as free text into "
            f'<TextArea name="{schema.slots[0].name}">, and there is nothing to rename'
        )
    old, new = identity(old), identity(new)
    _check_names(old, new)
    tags = list(_tags(config))
    controls = [tag for tag in tags if _holds_names(tag, schema)]
    offered = [(tag, tag.label) for tag in tags if any(tag.parents.count(c) for c in controls)]
    labels = [(tag, label) for tag, label in offered if label is not None]
    olds = [tag for tag, label in labels if identity(label.value) == old]
    news = [(tag, label) for tag, label in labels if identity(label.value) == new]
    is_done = not olds and bool(news) and all(_means(label, old) for _, label in news)
    _check_meaning(schema, old, new, bool(olds), bool(news), merges=merges)
    edits: list[_Edit] = []
    for control in controls:
        mine = [(tag, label) for tag, label in labels if control in tag.parents]
        edits += _edits_of(config, mine, old, new)
    edits += [edit for tag in tags for edit in _conditions(tag, controls, old, new)]
    return LabelRenaming(
        old=old,
        new=new,
        config=_edited(config, edits),
        tags=_filled_in(
            [*_drawing_tags(schema), *(tag.get("name") or "" for tag in controls)], schema
        ),
        is_choice=schema.name.type is ControlType.CHOICES,
        is_known=bool(olds) or is_done,
        merges=bool(olds) and bool(news),
    )


def _check_names(old: str, new: str) -> None:
    """Refuses names that no label can have.

    Raises:
        SettingsError: names the argument.
    """
    if not old or old == new:
        raise SettingsError(f"NEW: expected another name than OLD, got {new!r} for both")
    if "," in old:
        raise SettingsError(
            f"OLD: {old!r} has a comma, and `predicted_values` divides texts by commas: what is "
            "learned under this name cannot be told to mean the new one"
        )
    try:
        check_label_names([LabelValue(new)])
    except SettingsError as error:
        raise SettingsError(f"NEW: {str(error).removeprefix('labels: ')}") from error


def _check_meaning(
    schema: LabelSchema, old: str, new: str, has_old: bool, has_new: bool, *, merges: bool
) -> None:
    """Refuses an unknown label, and a new name that means something else already.

    Raises:
        SettingsError: names the argument.
    """
    assert schema.name is not None
    values = schema.name.values
    if schema.name.task_field is not None and not has_old:
        raise SettingsError(
            f"OLD: the labels of this project come with its tasks (${schema.name.task_field}); "
            "change them in the tasks' data, which this command does not edit"
        )
    if has_old and has_new and not merges:
        raise SettingsError(
            f"NEW: {new!r} is a label of its own; with --merge {old!r} becomes a part of it, and "
            "nothing can divide them again"
        )
    if merges and not has_new:
        raise SettingsError(f"--merge: the project has no label {new!r} to merge {old!r} with")
    if not has_old and not has_new:
        shown = ", ".join(value.value for value in values[:_SHOWN_LABELS])
        more = ", ..." if len(values) > _SHOWN_LABELS else ""
        raise SettingsError(f"OLD: the project has no label {old!r}; it has {shown}{more}")
    others = tuple(value for value in values if identity(value.value) not in (old, new))
    meant = vocabulary_of(others).find(new) if others and not has_new else None
    if meant is not None:
        raise SettingsError(f"NEW: {new!r} is another word for the label {meant!r} already")


def _holds_names(tag: _Tag, schema: LabelSchema) -> bool:
    """Whether a tag holds names of regions: the one that names them, or a tool with labels."""
    assert schema.name is not None
    images = {slot.image for slot in schema.slots}
    if not images & {name.strip() for name in (tag.get("toname") or "").split(",")}:
        return False
    if tag.get("name") in {slot.name for slot in schema.slots}:
        return True
    kinds = {slot.kind for slot in schema.slots}
    is_labels = schema.name.type is ControlType.LABELS and tag.name.endswith("labels")
    return is_labels and tag.get("name") not in kinds


def _means(label: LabelValue, text: str) -> bool:
    return text in map(identity, label.aliases)


def _edits_of(
    config: str, labels: Sequence[tuple[_Tag, LabelValue]], old: str, new: str
) -> Iterator[_Edit]:
    """Edits of the labels of one tag."""
    olds = [(tag, label) for tag, label in labels if identity(label.value) == old]
    news = [(tag, label) for tag, label in labels if identity(label.value) == new]
    if news:
        (tag, label), *_ = news
        words = [old, *label.aliases, *(word for _, gone in olds for word in gone.aliases)]
        if not set(map(identity, words)) <= {*map(identity, label.aliases), new}:
            yield from _with_words(tag, words, new)
        for gone, _ in olds:
            yield _removal(config, gone)
        return
    for tag, label in olds:
        key = "alias" if tag.get("alias") else "value"
        _, start, end = tag.attributes[key]
        yield _Edit(start, end, quoteattr(new))
        # First: what was learned has this name, and not all words are looked for in a prompt.
        yield from _with_words(tag, [old, *label.aliases], new)


def _with_words(tag: _Tag, words: Sequence[str], new: str) -> Iterator[_Edit]:
    """Edits that give a label its other words; its value is one of them if it has an alias."""
    shown = identity(tag.get("value") or "") if tag.get("alias") else ""
    distinct = dict.fromkeys(identity(word) for word in words)
    text = ", ".join(word for word in distinct if word not in (new, shown))
    known = tag.attributes.get("predicted_values")
    if known is not None:
        yield _Edit(known[1], known[2], quoteattr(text))
        return
    _, _, end = tag.attributes["value" if "value" in tag.attributes else "alias"]
    if text:
        yield _Edit(end, end, f" predicted_values={quoteattr(text)}")


def _removal(config: str, tag: _Tag) -> _Edit:
    """Takes a label away with the spaces before it."""
    end = tag.end
    if not config[: tag.end].endswith("/>"):
        closing = re.compile(r"</\s*" + re.escape(tag.name) + r"\s*>", re.IGNORECASE)
        found = closing.search(config, tag.end)
        end = tag.end if found is None else found.end()
    start = tag.start - len(config[: tag.start]) + len(config[: tag.start].rstrip())
    return _Edit(start, end, "")


def _conditions(tag: _Tag, controls: Sequence[_Tag], old: str, new: str) -> Iterator[_Edit]:
    """Edits of what is only visible while a region has the label."""
    names = {control.get("name") for control in controls}
    if tag.get("whentagname") not in names:
        return
    for key in _CONDITIONS:
        if key in tag.attributes:
            value, start, end = tag.attributes[key]
            words = [identity(word) for word in value.split(",")]
            if old in words:
                named = dict.fromkeys(new if word == old else word for word in words)
                yield _Edit(start, end, quoteattr(",".join(named)))


def _drawing_tags(schema: LabelSchema) -> Iterator[str]:
    """Yields the names of tags without labels whose results may carry the label of a region."""
    if schema.name is not None and schema.name.type is ControlType.LABELS:
        for slot in schema.slots:
            yield from (slot.mask, *slot.smart)


def _filled_in(names: Sequence[str], schema: LabelSchema) -> frozenset[str]:
    """Names of tags, once for each view of a Repeater."""
    flag = schema.index_flag
    if flag is None:
        return frozenset(names)
    return frozenset(n.replace(flag, str(index)) for n in names for index in range(MAX_GROUP_SIZE))


def _edited(config: str, edits: Sequence[_Edit]) -> str:
    for edit in sorted(edits, key=lambda edit: (edit.start, edit.end), reverse=True):
        config = config[: edit.start] + edit.text + config[edit.end :]
    return config


def _tags(config: str) -> Iterator[_Tag]:
    """Yields every start tag, tag and attribute names in lower case as the editor reads them."""
    parents: list[_Tag] = []
    for found in _MARKUP.finditer(config):
        if found["name"] is None:
            continue
        if found["close"]:
            parents.pop()
            continue
        shift = found.start("attributes")
        attributes = {
            one["key"].lower(): (
                html.unescape(one["value"][1:-1]),
                shift + one.start("value"),
                shift + one.end("value"),
            )
            for one in _ATTRIBUTE.finditer(found["attributes"])
        }
        tag = _Tag(found["name"].lower(), found.start(), found.end(), attributes, tuple(parents))
        yield tag
        if not found["empty"]:
            parents.append(tag)
