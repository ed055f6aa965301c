"""Writes labeling configs that show a group of images under one palette and one prompt box.

A label of Label Studio's editor belongs to one image: it is chosen for, and renames, regions of the
image its control names, and a control cannot name several. Each image therefore has a palette of
its own. All lie in the same place, on top of each other, and the one that is seen is that of the
image in use: where a region is selected, else where the pointer was last. The keys are the same
in every palette, and a key chooses its label on all images.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from pathlib import Path
from xml.sax.saxutils import quoteattr

from backend.errors import SettingsError
from backend.label_schema import LabelValue
from backend.label_studio.palette import NO_HOTKEY, colours, hotkeys
from calico_model.types import RegionKind

MAX_LABELS = 200
MAX_LABEL_CHARS = 80
_SHOWN_CHARACTERS = 40  # of a name that is too long, in a message
RELATION = "same_part"
_PART_COLOURS = (
    "#e6194b", "#f58231", "#ffe119", "#9acd32", "#3cb44b", "#42d4f4",
    "#4363d8", "#911eb4", "#f032e6", "#9a6324", "#fabed4", "#808000",
)  # fmt: skip
_PHRASE_COLOUR = "#9467bd"
_TEXT_LINES = 4  # of the page: the label, and a text of two lines
_KINDS = frozenset(kind.value.replace("_", " ") for kind in RegionKind)
_KIND_COLOURS = ("#1f77b4", "#2ca02c", "#d62728")

_LAYOUT = Path(__file__).with_name("group_layout.css")
# For the height that is left to the images: what a label takes of a line, and the page's own bars.
_CHIP_PX, _CHARACTER_PX, _LINE_PX, _LINE_WIDTH_PX = 46, 8, 34, 780
_BARS_PX = 232


def labels_config(labels: Sequence[LabelValue], *, has_text: bool = False) -> str:
    """Returns the config of a project with a fixed list of names.

    The labels are the names of objects and parts; a choice under each region holds its kind.

    Args:
        labels: in the order of the palette; their aliases become `predicted_values`.
        has_text: whether a text stands above the images, as in `text_config`.

    Raises:
        SettingsError: no label, too many, one twice, or one that Label Studio cannot hold.
    """
    check_label_names(labels)
    chips = _chips(labels, hotkeys(len(labels)), colours(len(labels)))
    kinds = "\n".join(
        f'          <Choice value="{kind.value}" hotkey="{NO_HOTKEY}"/>' for kind in RegionKind
    )
    controls = f"""\
      <View className="co-kind">
        <Choices name="kind_{{{{idx}}}}" toName="image_{{{{idx}}}}" perRegion="true"
                 choice="single-radio" showInline="true">
{kinds}
        </Choices>
      </View>"""
    lines = _lines([label.value for label in labels])
    if not has_text:
        return _config("part", chips, controls, lines)
    return _config("part", chips, controls, lines + _TEXT_LINES - 1, _text(len(labels)))


def open_config() -> str:
    """Returns the config for finding out what is there.

    The labels are the kinds; the name of a part is written in the list of regions.
    """
    return _open_config()


def text_config() -> str:
    """Returns `open_config` with a text above the images, whose words can be highlighted.

    The text is `text` of the task's data.
    """
    return _open_config(_text(len(RegionKind)), lines=_TEXT_LINES)


def _text(labels: int) -> str:
    """Returns the text above the images, whose one label has the key behind those of the labels."""
    key = hotkeys(labels + 1)[-1]
    return f"""\
  <View className="co-text">
    <Labels name="phrase" toName="text" smart="true" showInline="true">
      <Label value="phrase" background="{_PHRASE_COLOUR}" hotkey="{key}"/>
    </Labels>
    <Text name="text" value="$text" granularity="word"/>
  </View>
"""


def _open_config(above: str = "", *, lines: int = 1) -> str:
    kinds = [LabelValue(kind.value) for kind in RegionKind]
    chips = _chips(kinds, hotkeys(len(kinds)), _KIND_COLOURS)
    shades = "\n".join(
        f'          <Choice value="{number}" color="{colour}"/>'
        for number, colour in enumerate(_PART_COLOURS, start=1)
    )
    controls = f"""\
      <TextArea name="part_{{{{idx}}}}" toName="image_{{{{idx}}}}" perRegion="true" editable="true"
                maxSubmissions="1" rows="1" placeholder="part name" displayMode="region-list"/>
      <!-- One colour per part, the same on all images; only the backend chooses it. -->
      <View style="display: none">
        <Taxonomy name="colour_{{{{idx}}}}" toName="image_{{{{idx}}}}" perRegion="true">
{shades}
        </Taxonomy>
      </View>"""
    return _config("kind", chips, controls, lines, above)


def _config(palette: str, chips: str, controls: str, lines: int, above: str = "") -> str:
    """Returns the whole config.

    Args:
        palette: first part of the name of the tag that holds the labels.
        chips: the labels.
        controls: tags that only one of the two configs has.
        lines: lines of the page that the labels, and what is above the images, take.
        above: tags above the images.
    """
    return f"""\
<View>
  <!-- No child combinator in here: Label Studio escapes the sign, and the rule would not apply. -->
  <Style>
{_style(lines)}
  </Style>
{above}  <Repeater on="$images" indexFlag="{{{{idx}}}}" className="cosegment">
    <View className="co-cell co-{{{{idx}}}}">
      <View className="co-palette">
        <Labels name="{palette}_{{{{idx}}}}" toName="image_{{{{idx}}}}" showInline="true">
{chips}
        </Labels>
      </View>
      <View className="ask">
        <TextArea name="ask_{{{{idx}}}}" toName="image_{{{{idx}}}}" smart="true" smartOnly="true"
                  rows="1" placeholder="segment the handles; what is different?"/>
      </View>
{controls}
      <View className="co-selected"
            visibleWhen="region-selected" whenTagName="{palette}_{{{{idx}}}}"/>
      <View className="co-picture">
        <!-- Notes of the backend: nobody can type here, and Label Studio does not save them. -->
        <TextArea name="note_{{{{idx}}}}" toName="image_{{{{idx}}}}" maxSubmissions="0"
                  visibleWhen="choice-selected" whenTagName="nothing"/>
        <Image name="image_{{{{idx}}}}" value="$images[{{{{idx}}}}]" zoom="true" zoomControl="true"
               maxHeight="calc((100vh - var(--bars)) / var(--rows))"/>
      </View>
      <Brush name="mask_{{{{idx}}}}" toName="image_{{{{idx}}}}" smart="false"/>
      <KeyPoint name="point_{{{{idx}}}}" toName="image_{{{{idx}}}}" smart="true" smartOnly="true"/>
      <Rectangle name="box_{{{{idx}}}}" toName="image_{{{{idx}}}}" smart="true" smartOnly="true"/>
    </View>
  </Repeater>
  <Relations><Relation value="{RELATION}"/></Relations>
</View>
"""


def _style(lines: int) -> str:
    """Returns the CSS; without comments, which Label Studio would show nobody."""
    css = re.sub(r"/\*.*?\*/\n", "", _LAYOUT.read_text(encoding="utf-8"), flags=re.DOTALL)
    css = css.replace("BARS", str(_BARS_PX + lines * _LINE_PX))
    return textwrap.indent(css.rstrip(), "    ")


def _chips(labels: Sequence[LabelValue], keys: Sequence[str], colour: Sequence[str]) -> str:
    return "\n".join(
        "          "
        + f"<Label value={quoteattr(label.value)} background={quoteattr(background)} "
        + f"hotkey={quoteattr(key)}"
        + (f" predicted_values={quoteattr(', '.join(label.aliases))}" if label.aliases else "")
        + "/>"
        for label, key, background in zip(labels, keys, colour, strict=True)
    )


def _lines(texts: Sequence[str]) -> int:
    """Returns about how many lines the labels take on a small screen."""
    width = sum(_CHIP_PX + _CHARACTER_PX * len(text) for text in texts)
    return max(1, -(-width // _LINE_WIDTH_PX))


def check_label_names(labels: Sequence[LabelValue]) -> None:
    """Refuses labels that Label Studio, or the reading of the config, cannot tell apart.

    Raises:
        SettingsError: no label, too many, one twice, or one that cannot be held.
    """
    if not 1 <= len(labels) <= MAX_LABELS:
        raise SettingsError(f"labels: expected 1 to {MAX_LABELS} names, got {len(labels)}")
    seen: dict[str, str] = {}
    for text in (text for label in labels for text in (label.value, *label.aliases)):
        if not text.strip() or len(text) > MAX_LABEL_CHARS or not text.isprintable():
            raise SettingsError(
                f"labels: expected names of 1 to {MAX_LABEL_CHARS} printable characters, "
                f"got {_shortened(text)}"
            )
        if text.startswith("$") or "," in text:
            raise SettingsError(
                f"labels: expected names without a comma and without $ at the start, got {text!r}"
            )
        if re.sub(r"[\s_-]+", " ", text.strip().casefold()).removesuffix("s") in _KINDS:
            # One such label, and the config would be read as one that names kinds, not parts.
            raise SettingsError(
                f"labels: expected names of parts and objects, got {text!r}, which is the role of "
                "a region"
            )
        earlier = seen.get(text.casefold())
        if earlier is not None:
            found = f"{text!r} twice" if earlier == text else f"{earlier!r} and {text!r}"
            raise SettingsError(
                f"labels: expected names that differ in more than case, got {found}"
            )
        seen[text.casefold()] = text


def _shortened(text: str) -> str:
    """Returns a name for a message; a long one by its beginning and its length."""
    if len(text) <= MAX_LABEL_CHARS:
        return repr(text)
    return f"{len(text)}: {text[:_SHOWN_CHARACTERS] + '...'!r}"
