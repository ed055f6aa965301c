"""The interactive context of a click: clicks, boxes and typed questions -> prompts and a question.

The prompt box keeps everything that was typed and answered as the lines of one text result. The
question is the last line that is not one of our answers. A text that belongs to a drawn box has the
id of the box. Words that are highlighted in a text beside the images come as a region of that text,
behind all that were highlighted there before under the same label.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from backend.label_schema import ControlType, ImageLayout, LabelSchema
from backend.label_studio.annotation import image_index, kind_of, texts_of
from backend.label_studio.drawing import has_id
from backend.label_studio.shape import box_of, tool_of
from backend.label_studio.wire import WireResult, WireValue
from backend.types import Prompt, TextPrompt
from calico_model.types import MAX_GROUP_SIZE, RegionKind

REPLY_MARK = "\u2192 "
"""Prefix of our lines in the prompt box, so that they are not read as questions."""
TEXT = "textarea"
_MARKS = " \t\r\n.,;:()\"'"
_PROMPT_TOOLS = frozenset({"keypoint", "rectangle"})


def read_prompts(results: Sequence[WireResult], schema: LabelSchema) -> tuple[Prompt, ...]:
    """Reads the clicks and boxes of an interactive context.

    The editor writes the label that was chosen for a box into a second result of the same id.
    """
    chosen = {
        str(result.id): result.value
        for result in results
        if tool_of(result) == ControlType.LABELS and has_id(result)
    }
    prompts = []
    for number, result in enumerate(results):
        if tool_of(result) not in _PROMPT_TOOLS:
            continue
        box, index = box_of(result), image_index(result, schema)
        if box is not None and index is not None:
            kind, label = _label_of_prompt(result.value, schema)
            if kind is None and label is None:
                kind, label = _label_of_prompt(chosen.get(str(result.id)), schema)
            prompts.append(
                Prompt(
                    id=str(result.id) if has_id(result) else f"prompt-{number}",
                    image_index=index,
                    box=box,
                    is_positive=result.is_positive,
                    kind=kind,
                    label=label,
                )
            )
    return tuple(prompts)


def read_question(
    results: Sequence[WireResult], schema: LabelSchema, prompts: Sequence[Prompt]
) -> TextPrompt | None:
    """Returns what was highlighted last, or else typed last, in an interactive context, or None.

    Args:
        results: of the context.
        schema: the project's labeling config; only texts of its prompt boxes are questions.
        prompts: the clicks and boxes of the same context.
    """
    if results and (highlight := _read_highlight(results[-1], schema)) is not None:
        return highlight
    texts = [result for result in results if result.type == TEXT and _line(result.value)]
    for result in reversed(texts):
        index = _prompt_box_image(result, schema)
        if index is not None:
            return TextPrompt(str(result.id), index, _line(result.value))
    boxes = {prompt.id: prompt for prompt in prompts if prompt.is_positive and not prompt.is_click}
    for result in reversed(texts):
        if (prompt := boxes.get(str(result.id))) is not None:
            return TextPrompt(prompt.id, prompt.image_index, _line(result.value), prompt.box)
    return None


def reply_result(question: TextPrompt, schema: LabelSchema, reply: str) -> dict[str, object] | None:
    """Returns the text result with question and answer; None if the config has no prompt box.

    The editor accepts a text without region immediately and shows it in the prompt box.
    """
    slot = schema.slot(question.image_index)
    if slot.ask is None or question.box is not None or question.is_highlight:
        return None
    result: dict[str, object] = {
        "id": question.id,
        "from_name": slot.ask,
        "to_name": slot.image,
        "type": TEXT,
        "value": {"text": [question.text, REPLY_MARK + reply]},
    }
    if schema.layout is ImageLayout.VALUE_LIST:
        result["item_index"] = question.image_index
    return result


def note_results(
    notes: Mapping[int, str], schema: LabelSchema, images: int
) -> list[dict[str, object]]:
    """Returns text results that show the annotator a sentence beside an image, or take it away.

    A note goes into the image's text area that takes no text of annotators; Label Studio shows it
    and never saves it. A config without one has the notes in its prompt box, as lines that are not
    read as questions; without either, nothing can be shown.

    Args:
        notes: sentence by 0-based image; "" empties the note that stands there.
        schema: the project's labeling config.
        images: of the group.
    """
    results, left = [], list[str]()
    places = range(min(images, _slots(schema)))
    for index in sorted(notes):
        tag = schema.slot(index).note if index in places else None
        if tag is not None:
            lines = [notes[index]] if notes[index] else []
            results.append(_text_result(tag, schema.slot(index).image, lines))
        elif notes[index]:
            left.append(f"{REPLY_MARK}image {index + 1}: {notes[index]}")
    box = next((schema.slot(index) for index in places if schema.slot(index).ask), None)
    if left and box is not None:
        results.append(_text_result(str(box.ask), box.image, left))
    return results


def caption_result(caption: str, schema: LabelSchema) -> dict[str, object] | None:
    """Returns the text result that shows a caption of the group; None where no tag is for it."""
    slot = schema.slot(0)
    if slot.caption is None or not caption:
        return None
    return _text_result(slot.caption, slot.image, [caption])


def _slots(schema: LabelSchema) -> int:
    """How many images of a group have tags of their own."""
    if schema.layout is ImageLayout.IMAGE_TAGS:
        return len(schema.slots)
    return 1 if schema.layout is ImageLayout.VALUE_LIST else MAX_GROUP_SIZE


def _text_result(tag: str, image: str, lines: list[str]) -> dict[str, object]:
    name = f"note-{tag}"
    return {
        "id": name,
        "from_name": tag,
        "to_name": image,
        "type": TEXT,
        "value": {"text": lines},
    }


def _label_of_prompt(
    value: WireValue | None, schema: LabelSchema
) -> tuple[RegionKind | None, str | None]:
    texts = texts_of(value)
    if schema.kind is not None and schema.kind.type is ControlType.LABELS:
        return kind_of(texts, schema), None
    return None, texts[0] if texts else None


def _prompt_box_image(result: WireResult, schema: LabelSchema) -> int | None:
    """Returns the image whose prompt box holds a text; None for a text of another tag."""
    index = image_index(result, schema)
    return index if index is not None and schema.slot(index).ask == result.from_name else None


def _read_highlight(result: WireResult, schema: LabelSchema) -> TextPrompt | None:
    """Returns the words of a region of a text; None for a result of another tag.

    A label that is a name of the project says what the words mean; any other label only marks them.
    """
    value = result.value
    if result.from_name not in schema.highlights or value is None or not has_id(result):
        return None
    words = value.text if isinstance(value.text, str) else " ".join(value.text or ())
    given = value.labels or value.paragraphlabels or value.hypertextlabels or ()
    names = () if schema.name is None else schema.name.values
    known = {label.value for label in names}
    text = next((label for label in given if label in known), words.strip(_MARKS))
    return TextPrompt(str(result.id), 0, text, is_highlight=True) if text else None


def _line(value: WireValue | None) -> str:
    """Returns the last line that an annotator typed, "" if there is none."""
    if value is None or value.text is None:
        return ""
    lines = [value.text] if isinstance(value.text, str) else value.text
    typed = [line.strip() for line in lines if not line.startswith(REPLY_MARK)]
    return next((line for line in reversed(typed) if line), "")
