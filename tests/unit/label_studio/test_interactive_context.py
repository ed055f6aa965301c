"""Texts of the prompt box and of drawn boxes, as the editor sends them."""

from __future__ import annotations

import msgspec
import pytest

from backend.label_schema import LabelSchema
from backend.label_studio.interactive_context import REPLY_MARK, note_results, reply_result
from backend.label_studio.label_config import parse_label_config
from backend.label_studio.request import parse_predict_request
from backend.types import TextPrompt

CONFIG = """<View>
  <Repeater on="$images" indexFlag="{{idx}}">
    <View>
      <Image name="image_{{idx}}" value="$images[{{idx}}]"/>
      <Labels name="kind_{{idx}}" toName="image_{{idx}}"><Label value="common_part"/></Labels>
      <Brush name="mask_{{idx}}" toName="image_{{idx}}" smart="false"/>
      <Rectangle name="box_{{idx}}" toName="image_{{idx}}" smart="true"/>
      <TextArea name="part_{{idx}}" toName="image_{{idx}}" perRegion="true" smart="true"/>
      <TextArea name="note_{{idx}}" toName="image_{{idx}}"/>
      <TextArea name="ask_{{idx}}" toName="image_{{idx}}" smartOnly="true"/>
    </View>
  </Repeater>
</View>"""


@pytest.fixture
def schema() -> LabelSchema:
    return parse_label_config(CONFIG)


def typed(text: list[str] | str, tag: str = "ask_1", region_id: str = "t1") -> dict[str, object]:
    result = {"id": region_id, "from_name": tag, "to_name": "image_1", "type": "textarea"}
    return result | {"value": {"text": text}}


def drawn(region_id: str) -> dict[str, object]:
    value = {"x": 10, "y": 20, "width": 50, "height": 25, "rotation": 0}
    size = {"original_width": 200, "original_height": 100, "image_rotation": 0}
    names = {"id": region_id, "from_name": "box_1", "to_name": "image_1", "type": "rectangle"}
    return names | size | {"value": value}


def read(*results: dict[str, object]) -> TextPrompt | None:
    body = {
        "tasks": [{"id": 1, "data": {"images": ["/a.png", "/b.png"]}}],
        "label_config": CONFIG,
        "params": {"context": {"result": results}},
    }
    return parse_predict_request(msgspec.json.encode(body)).question


def test_only_a_smart_text_area_of_the_image_is_a_prompt_box(schema: LabelSchema) -> None:
    assert schema.slot(1).ask == "ask_1"
    assert schema.is_interactive


def test_what_was_typed_is_a_question_at_its_image() -> None:
    assert read(typed(["segment the legs"])) == TextPrompt("t1", 1, "segment the legs")


def test_the_last_line_that_is_not_ours_counts() -> None:
    lines = ["legs", f"{REPLY_MARK}leg: on image 1", " seat ", f"{REPLY_MARK}seat: on image 2", ""]
    assert read(typed(lines)) == TextPrompt("t1", 1, "seat")


@pytest.mark.parametrize("tag", ["note_1", "part_1", "other"])
def test_texts_of_other_tags_ask_nothing(tag: str) -> None:
    assert read(typed(["legs"], tag)) is None


@pytest.mark.parametrize("text", [[], [""], f"{REPLY_MARK}leg: nowhere"])
def test_nothing_typed_asks_nothing(text: list[str] | str) -> None:
    assert read(typed(text)) is None


def test_a_text_under_a_box_asks_about_the_box() -> None:
    asked = read(drawn("b1"), typed(["what is this?"], "part_1", "b1"))

    assert asked == TextPrompt("b1", 1, "what is this?", (20.0, 20.0, 120.0, 45.0))


def test_a_reply_stands_under_its_question(schema: LabelSchema) -> None:
    reply = reply_result(TextPrompt("t1", 1, "legs"), schema, "leg: on image 1")

    assert reply is not None
    assert (reply["id"], reply["from_name"], reply["to_name"]) == ("t1", "ask_1", "image_1")
    assert reply["value"] == {"text": ["legs", f"{REPLY_MARK}leg: on image 1"]}
    assert read(reply) == TextPrompt("t1", 1, "legs")  # ours is never read as theirs


def test_a_box_has_no_place_for_a_reply(schema: LabelSchema) -> None:
    assert reply_result(TextPrompt("b1", 1, "what is this?", (0, 0, 9, 9)), schema, "leg") is None


_NOTE = '<TextArea name="note_{0}" toName="i{0}" maxSubmissions="0"/>'
_ASK = '<TextArea name="ask_{0}" toName="i{0}" smart="true"/>'


def images(*tags: str) -> LabelSchema:
    """The schema of a config with one image per text of further tags."""
    inside = "".join(
        f'<Image name="i{k}" value="$i{k}"/><BrushLabels name="m{k}" toName="i{k}">'
        f'<Label value="leg"/></BrushLabels>{tag.format(k)}'
        for k, tag in enumerate(tags)
    )
    return parse_label_config(f"<View>{inside}</View>")


def lines(schema: LabelSchema, notes: dict[int, str]) -> dict[object, object]:
    return {
        (note["from_name"], note["to_name"]): note["value"]
        for note in note_results(notes, schema, 2)
    }


def test_a_note_stands_beside_its_image() -> None:
    assert lines(images(_NOTE, _NOTE), {1: "not here"}) == {
        ("note_1", "i1"): {"text": ["not here"]}
    }


def test_notes_without_a_place_go_into_the_prompt_box_and_are_no_question() -> None:
    schema = images("", _ASK)
    assert lines(schema, {1: "not here", 0: "nor here"}) == {
        ("ask_1", "i1"): {
            "text": [f"{REPLY_MARK}image 1: nor here", f"{REPLY_MARK}image 2: not here"]
        }
    }


def test_an_empty_note_takes_away_what_stands_beside_its_image_and_nothing_else() -> None:
    beside = images(_NOTE, _NOTE)
    assert lines(beside, {1: ""}) == {("note_1", "i1"): {"text": []}}
    assert lines(images("", _ASK), {1: "", 0: ""}) == {}


def test_without_any_place_there_are_no_notes() -> None:
    assert note_results({0: "not here"}, images("", ""), 2) == []


TEXT_CONFIG = CONFIG.replace(
    "<Repeater",
    """<Labels name="phrase" toName="story" smart="true"><Label value="phrase"/></Labels>
  <Text name="story" value="$story"/>
  <Repeater""",
)


def highlighted(words: str, region_id: str = "h1", **value: object) -> dict[str, object]:
    """What Label Studio 1.23 sends for words that were highlighted in a <Text>."""
    return {
        "id": region_id,
        "from_name": "phrase",
        "to_name": "story",
        "type": "labels",
        "origin": "manual",
        "value": {"start": 4, "end": 4 + len(words), "text": words, "labels": ["phrase"]} | value,
    }


def read_text(config: str, *results: dict[str, object]) -> TextPrompt | None:
    body = {
        "tasks": [{"id": 1, "data": {"images": ["/a.png", "/b.png"], "story": "A lid."}}],
        "label_config": config,
        "params": {"context": {"result": results}},
    }
    return parse_predict_request(msgspec.json.encode(body)).question


def test_the_words_that_were_highlighted_last_are_asked_about() -> None:
    asked = read_text(TEXT_CONFIG, highlighted("round lid"), highlighted(" knob,\n", "h2"))

    assert asked == TextPrompt("h2", 0, "knob", is_highlight=True)


@pytest.mark.parametrize("words", ["", "  ", "., "])
def test_a_highlight_without_words_asks_nothing(words: str) -> None:
    assert read_text(TEXT_CONFIG, highlighted(words)) is None


def test_labels_of_an_image_are_no_highlights() -> None:
    on_image = highlighted("lid") | {"from_name": "kind_0", "to_name": "image_0"}

    assert parse_label_config(TEXT_CONFIG).highlights == {"phrase"}
    assert parse_label_config(CONFIG).highlights == frozenset()
    assert read_text(TEXT_CONFIG, on_image) is None
    assert read_text(CONFIG, highlighted("lid")) is None


def test_a_label_that_is_a_name_says_what_the_words_mean() -> None:
    names = TEXT_CONFIG.replace("common_part", "lid").replace(
        '<Label value="phrase"/>', '<Label value="phrase"/><Label value="lid"/>'
    )

    named = read_text(names, highlighted("the round cover", labels=["lid"]))
    marked = read_text(names, highlighted("the round cover"))

    assert named is not None
    assert named.text == "lid"
    assert marked is not None
    assert marked.text == "the round cover"


@pytest.mark.parametrize(
    ("tag", "control"),
    [("Paragraphs", "ParagraphLabels"), ("HyperText", "HyperTextLabels"), ("HyperText", "Labels")],
)
def test_other_texts_are_read_as_well(tag: str, control: str) -> None:
    config = TEXT_CONFIG.replace("<Text ", f"<{tag} ").replace(
        '<Labels name="phrase" toName="story" smart="true"><Label value="phrase"/></Labels>',
        f'<{control} name="phrase" toName="story"><Label value="phrase"/></{control}>',
    )
    kind = control.lower()
    sent = highlighted("lid", start="0", end="0") | {"type": kind}

    asked = read_text(config, sent)

    assert asked is not None
    assert asked.text == "lid"


def test_the_prompt_box_does_not_repeat_what_is_highlighted(schema: LabelSchema) -> None:
    assert reply_result(TextPrompt("h1", 0, "lid", is_highlight=True), schema, "absent") is None
