"""Where regions are put in order on their way out, and where they are not."""

from __future__ import annotations

import json
from typing import cast

import numpy as np
import pytest

from backend.label_studio.label_config import parse_label_config
from backend.serving.jobs import PredictionJob, PredictionResult, Problem
from backend.serving.notices import CHOOSE_LABEL, NOT_FOUND
from backend.serving.rendering import (
    NO_ANSWER,
    Look,
    code_version,
    render_answers,
    render_regions,
    renderer,
    with_arrangement,
)
from backend.storage.versions import AdapterVersion
from backend.types import PredictRequest, Prompt, Task
from calico_model.inference.arrangement import Arrangement
from calico_model.types import GroupPrediction, ImageGroup, PartMask, RegionKind
from research.label_studio.sample import REPEATER_CONFIG
from tests.unit.label_studio.golden_files import config


@pytest.fixture
def prediction():
    masks = np.zeros((2, 20, 20), bool)
    masks[0, :, :12] = True
    masks[1, :, 8:] = True
    parts = tuple(
        PartMask(0, RegionKind.COMMON_PART, name, mask, score=score)
        for name, mask, score in zip("ab", masks, (0.5, 0.9), strict=True)
    )
    return GroupPrediction(parts, "v")


def seen(prediction, arrangement, **options):
    found = []

    def render(prediction, work, group):
        found.append(prediction)
        return b"[]", 0.0

    work = PredictionJob(Task(1, 7, ("a.png",)), parse_label_config(REPEATER_CONFIG), **options)
    group = ImageGroup((np.zeros((20, 20, 3), np.uint8),), ("a",))
    with_arrangement(render, arrangement)(prediction, work, group)
    return found[0]


def test_off_is_the_same_prediction(prediction):
    assert seen(prediction, Arrangement()) is prediction


def test_on_settles_what_is_shown(prediction):
    found = seen(prediction, Arrangement(overlaps=True))
    assert [int(part.mask.sum()) for part in found.parts] == [160, 240]


def test_suggestions_to_a_click_stay_whole(prediction):
    on = Arrangement(overlaps=True, gaps=True)
    assert seen(prediction, on, is_interactive=True) is prediction


def test_answers_kept_under_another_order_are_made_anew():
    versions = {
        code_version(),
        code_version(Arrangement()),
        code_version(Arrangement(overlaps=True)),
        code_version(Arrangement(gaps=True)),
        code_version(Arrangement(overlaps=True, gaps=True)),
    }
    assert len(versions) == 4


OPEN, CLOSED = (parse_label_config(config(f"cosegment_{name}")) for name in ("open", "labels"))
PLAIN = Look()
TASK = Task(3, 7, ("a", "b"), ("tasks[0].data.images[0]", "tasks[0].data.images[1]"))
PAIR = ImageGroup(tuple(np.zeros((4, 4, 3), np.uint8) for _ in range(2)), ("a", "b"))
BROKEN = Problem("MediaUnavailableError", "tasks[0].data.images[1]: the host answered 404", False)


def part_on(image: int, label: str) -> PartMask:
    mask = np.ones((4, 4), np.bool_)
    return PartMask(image, RegionKind.COMMON_PART, label, mask, part_id=f"common_part:{label}")


def rendered(job: PredictionJob, *parts: PartMask, look: Look = PLAIN) -> list[dict[str, object]]:
    body, _ = render_regions(GroupPrediction(parts, "v1"), job, PAIR, look)
    return json.loads(body)


def notes_in(results: list[dict[str, object]]) -> dict[object, object]:
    return {
        one["from_name"]: cast("dict[str, object]", one["value"])["text"]
        for one in results
        if str(one["from_name"]).startswith(("note", "ask"))
    }


def test_arrows_are_drawn_on_request_alone() -> None:
    parts = part_on(0, "leg"), part_on(1, "leg")
    job = PredictionJob(TASK, OPEN)
    assert "relation" not in {one["type"] for one in rendered(job, *parts)}
    assert "relation" in {one["type"] for one in rendered(job, *parts, look=Look(relations=True))}
    assert code_version(look=Look(relations=True)) != code_version(look=Look())
    click = PredictionJob(TASK, OPEN, is_interactive=True)
    assert "relation" not in {one["type"] for one in rendered(click, *parts, look=Look(True))}


def test_where_nothing_is_shown_a_note_says_why() -> None:
    new = rendered(PredictionJob(TASK, CLOSED), part_on(0, "propeller"), look=Look(False, 8))
    assert notes_in(new) == {
        "note_0": [
            "I propose nothing by myself yet: outline the parts of about 8 groups and submit; "
            "then I learn them."
        ]
    }
    trained = PredictionJob(TASK, CLOSED, version=cast("AdapterVersion", object()))
    assert notes_in(rendered(trained)) == {"note_0": [NOT_FOUND]}
    assert notes_in(rendered(PredictionJob(TASK, OPEN), part_on(0, "leg"))) == {}


def test_a_click_whose_region_has_no_label_of_the_set_asks_for_one() -> None:
    prompts = (Prompt("p", 1, (1.0, 1.0, 1.0, 1.0)),)
    click = PredictionJob(TASK, CLOSED, prompts, is_interactive=True)
    assert notes_in(rendered(click, part_on(1, ""))) == {"note_1": [CHOOSE_LABEL]}
    render = renderer(Look())
    assert render(GroupPrediction((), "v1"), click, PAIR) == (b"[]", 0.0)


def test_a_config_without_notes_has_them_in_its_prompt_box() -> None:
    plain = config("cosegment_open").replace('maxSubmissions="0"', "")
    schema = parse_label_config(plain)
    answer = rendered(PredictionJob(TASK, schema, notes={1: "not here"}), part_on(0, "leg"))
    assert notes_in(answer) == {"ask_0": ["\u2192 image 2: not here"]}


@pytest.mark.parametrize(
    ("tasks", "is_interactive", "is_lasting", "version"),
    [
        (1, False, False, NO_ANSWER),
        (1, False, True, "v1"),
        (2, False, True, "v1"),
        (1, True, False, "v1"),
        (2, False, False, None),
    ],
)
def test_who_opens_a_task_with_a_broken_image_reads_what_is_wrong(
    tasks: int, is_interactive: bool, is_lasting: bool, version: str | None
) -> None:
    problem = Problem(BROKEN.error, BROKEN.detail, is_lasting)
    request = PredictRequest((TASK,) * tasks, OPEN, 7, is_interactive=is_interactive)
    results = [PredictionResult(b"", 0.0, "v1", problem)] * tasks
    item = json.loads(render_answers(request, results, "v1"))["results"][0]
    assert item["problem"] == {"error": BROKEN.error, "detail": BROKEN.detail}
    if version is None:
        assert "result" not in item, "Label Studio stores nothing, and asks again"
        return
    assert item["model_version"] == version
    assert notes_in(item["result"]) == {
        "note_1": ["This image cannot be used, so nothing is suggested: the host answered 404"]
    }


CAPTION_AREA = '<TextArea name="caption_{{idx}}" toName="image_{{idx}}" editable="true"/>'


def captioned(prediction, label_config, **options):
    work = PredictionJob(Task(1, 7, ("a.png",)), parse_label_config(label_config), **options)
    group = ImageGroup((np.zeros((20, 20, 3), np.uint8),), ("a",))
    return json.loads(render_regions(prediction, work, group)[0])


def test_a_text_area_for_captions_gets_one_of_the_regions(prediction):
    with_area = config("cosegment_open").replace("<Brush ", f"{CAPTION_AREA}<Brush ", 1)
    first, *others = captioned(prediction, with_area)
    assert (first["from_name"], first["to_name"]) == ("caption_0", "image_0")
    assert first["value"] == {"text": ["Image 1 shows an a (black). Image 1 shows a b (black)."]}
    assert others == captioned(prediction, config("cosegment_open"))


def test_suggestions_to_a_click_bring_no_caption(prediction):
    with_area = config("cosegment_open").replace("<Brush ", f"{CAPTION_AREA}<Brush ", 1)
    names = {one["from_name"] for one in captioned(prediction, with_area, is_interactive=True)}
    assert names
    assert "caption_0" not in names
