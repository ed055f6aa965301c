"""Words and exemplars over HTTP with sources of the real classes, small and random."""

from __future__ import annotations

import re
import threading
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from backend import prediction_side
from backend.app import close_app
from calico_model.sources.registry import open_source
from calico_model.sources.sam3 import Sam3Source
from calico_model.types import GroupPrediction, ImageGroup
from tests.doubles import reference, refined
from tests.integration.fake_predictor import FakePredictor
from tests.integration.test_http_click import asked, mask_of, shapes
from tests.integration.test_http_prompt_box import CONFIGS, ask, lines
from tests.integration.test_http_sources import first_click
from tests.unit.sources import test_sam
from tests.unit.sources.small_text_models import (
    bert_tokenizer,
    clip_model,
    clip_tokenizer,
    dino_model,
    grounding_dino_model,
    owlv2_model,
    sam3_model,
)

SIZE = (60, 80)
CLICK_SIZE = (480, 640)  # of the images that the captured click was made on


class Wordless(FakePredictor):
    """Knows no word, and finds nothing elsewhere."""

    def refer(self, group, names, group_prediction):
        return [reference(name, (), (), is_known=False) for name, _ in names]

    def refine(self, group, image_index, prompt, group_prediction=None):
        mask = np.zeros(group.sizes_hw[image_index], bool)
        mask[100:200, 100:300] = True
        return refined(mask, iou=0.5, meant=None)

    def transfer(self, group, part, group_prediction):
        return []


class Noise:
    """Images of the size that a test wants."""

    size = SIZE

    def fetch_group(self, task):
        rng = np.random.default_rng(0)
        drawn = [rng.integers(0, 256, (*self.size, 3), np.uint8) for _ in task.image_urls]
        return ImageGroup(tuple(drawn), tuple(f"i{k}" for k in range(len(drawn))))


def drawn(size):
    return np.random.default_rng(0).integers(0, 256, (2, *size, 3), np.uint8)


def save_sam3(folder, *, lite):
    sam3_model(lite=lite).save_pretrained(folder)
    clip_tokenizer(32).save_pretrained(folder)
    return str(folder)


def save_detector(folder, kind):
    from transformers import GroundingDinoImageProcessorPil, Owlv2ImageProcessorPil

    if kind == "owlv2":
        parts = [
            owlv2_model(),
            clip_tokenizer(40),
            Owlv2ImageProcessorPil(size={"height": 32, "width": 32}),
        ]
    else:
        size = {"shortest_edge": 64, "longest_edge": 96}
        parts = [
            grounding_dino_model(),
            bert_tokenizer(),
            GroundingDinoImageProcessorPil(size=size),
        ]
    for part in parts:
        part.save_pretrained(folder)
    masks = folder.parent / "masks"
    test_sam.save(masks, is_hq=False)
    return f"{folder}+{masks}"


def save_cass(folder):
    clip_model().save_pretrained(folder / "clip")
    clip_tokenizer(60).save_pretrained(folder / "clip")
    dino_model("vit").save_pretrained(folder / "dino")
    return f"cass={folder / 'clip'}+{folder / 'dino'}"


SAVERS = {
    "cass": save_cass,
    "sam3": lambda folder: save_sam3(folder, lite=False),
    "sam3-litetext": lambda folder: save_sam3(folder, lite=True),
    "owlv2": lambda folder: save_detector(folder, "owlv2"),
    "grounding-dino": lambda folder: save_detector(folder, "grounding-dino"),
}


@pytest.fixture
def predictor():
    return Wordless()


@pytest.fixture
def images():
    return Noise()


@pytest.fixture
def refines():
    return True


@pytest.fixture(scope="module", params=SAVERS)
def entry(request, tmp_path_factory):
    """The source as `CALICO_SOURCES` names it."""
    return SAVERS[request.param](tmp_path_factory.mktemp("hub") / request.param)


@pytest.fixture
def served(make_app):
    """Builds an app with sources that are sure enough of their random answers."""

    def serve(*entries, **settings):
        app = make_app(sources=",".join(entries), **({"source_budget_s": 60.0} | settings))
        components = app.extensions["calico"]
        components.host.wait(30)
        components.sources.wait_until_loaded(120)
        source = components.sources._workers[0].source
        getattr(source, "_detector", source)._threshold = 0.01
        return app, components

    return serve


def test_a_word_is_answered_with_the_instances_of_the_source(served, entry):
    app, components = served(entry)
    result = ask(app.test_client(), "handle")
    (status,) = components.sources.status()
    assert status.state == "ready", status.problem
    assert status.asked["answered"] == 1
    source = components.sources._workers[0].source
    found = {
        index: source.segment_names(source.encode(image), ["handle"])
        for index, image in enumerate(drawn(SIZE))
    }
    masks = [mask_of(shape) for shape in shapes(result).values()]
    assert len(masks) > 0
    assert len({region["id"] for region in result if region["type"] == "brush"}) == len(masks)
    given = [answer.mask for answers in found.values() for answer in answers]
    assert all(any(np.array_equal(mask, one) for one in given) for mask in masks)
    assert "handle: on image" in lines(result)[1]


def test_a_source_that_fails_at_a_word_is_left_out_and_counted(served, entry, monkeypatch):
    app, components = served(entry)
    worker = components.sources._workers[0]

    def fails(*_):
        raise RuntimeError("on purpose")

    monkeypatch.setattr(worker.source, "segment_names", fails)
    result = ask(app.test_client(), "handle")
    assert lines(result)[1] == '→ I do not know "handle" yet: outline it once'
    assert components.sources.status()[0].asked["failed"] == 1


@pytest.fixture(scope="module")
def exemplar_entry(tmp_path_factory):
    return save_sam3(tmp_path_factory.mktemp("exemplar") / "sam3", lite=False)


def test_a_clicked_part_is_sought_on_the_other_image_by_the_source(served, exemplar_entry, images):
    images.size = CLICK_SIZE
    app, components = served(exemplar_entry)
    regions = shapes(asked(app.test_client(), first_click()))
    source = components.sources._workers[0].source
    assert isinstance(source, Sam3Source)
    clicked = np.zeros(CLICK_SIZE, bool)
    clicked[100:200, 100:300] = True
    encoded = [source.encode(image) for image in drawn(CLICK_SIZE)]
    answers = [
        mask.mask
        for index, other in ((0, 1), (1, 0))
        for mask in source.segment_alike(encoded[other], encoded[index], clicked)
    ]
    masks = [mask_of(shape) for shape in regions.values()]
    assert any(np.array_equal(mask, clicked) for mask in masks)
    others = [mask for mask in masks if not np.array_equal(mask, clicked)]
    assert len(others) > 0
    assert all(any(np.array_equal(mask, one) for one in answers) for mask in others)


def predicted(client):
    body = {
        "tasks": [{"id": 5, "project": 14, "data": {"images": ["a.png", "b.png"]}}],
        "label_config": (CONFIGS / "cosegment_labels.xml").read_text("utf-8"),
        "project": "14.1795191017",
    }
    return asked(client, body)


def test_labels_are_looked_for_before_anybody_asks(served, exemplar_entry, predictor):
    predictor.predict = lambda group: GroupPrediction((), predictor.version)
    app, components = served(
        exemplar_entry, source_task_budget_s=60.0, settle_overlaps=False, unknown_parts=False
    )
    client = app.test_client()
    masks = [mask_of(shape) for shape in shapes(predicted(client)).values()]
    source = components.sources._workers[0].source
    config = (CONFIGS / "cosegment_labels.xml").read_text("utf-8")
    labels = tuple(dict.fromkeys(re.findall(r'<Label value="([^"]+)"', config)))
    given = [
        mask.mask
        for image in drawn(SIZE)
        for mask in source.segment_names(source.encode(image), labels)
    ]
    assert len(masks) > 0
    assert all(any(np.array_equal(mask, one) for one in given) for mask in masks)
    again = shapes(predicted(client))
    assert len(again) == len(masks)
    assert components.sources.status()[0].asked["answered"] == 1, "the answer was kept"


def test_a_kept_answer_is_of_the_weights_in_the_folder(served, tmp_path, predictor):
    predictor.predict = lambda group: GroupPrediction((), predictor.version)
    folder = Path(save_sam3(tmp_path / "sam3", lite=False))
    asked_in_turn = []
    for is_other in (False, False, True):
        if is_other:
            tensors = load_file(folder / "model.safetensors")
            name = next(name for name, tensor in tensors.items() if tensor.is_floating_point())
            tensors[name] = tensors[name] + 1
            save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        app, components = served(str(folder), source_task_budget_s=60.0)
        predicted(app.test_client())
        asked_in_turn.append(components.sources.status()[0].asked["answered"])
        close_app(app)
    assert asked_in_turn == [1, 0, 1]


def test_a_kept_answer_waits_for_the_sources_after_a_restart(
    served, make_app, exemplar_entry, predictor, monkeypatch
):
    predictor.predict = lambda group: GroupPrediction((), predictor.version)
    first, _ = served(exemplar_entry, source_task_budget_s=60.0)
    before = shapes(predicted(first.test_client()))
    assert before
    close_app(first)
    may_load = threading.Event()

    def open_when_told(choice, device="cpu"):
        may_load.wait(60)
        return open_source(choice, device)

    monkeypatch.setattr(prediction_side, "open_source", open_when_told)
    app = make_app(sources=exemplar_entry, source_task_budget_s=60.0)
    sources = app.extensions["calico"].sources
    wait = sources.wait_until_loaded

    def wait_while_it_loads(timeout_s):
        may_load.set()
        wait(timeout_s)

    monkeypatch.setattr(sources, "wait_until_loaded", wait_while_it_loads)
    try:
        assert shapes(predicted(app.test_client())).keys() == before.keys()
    finally:
        may_load.set()
    assert sources.status()[0].asked["answered"] == 0


def test_a_source_that_fails_unasked_leaves_an_empty_task_that_is_not_kept(
    served, exemplar_entry, predictor, monkeypatch
):
    predictor.predict = lambda group: GroupPrediction((), predictor.version)
    app, components = served(exemplar_entry, source_task_budget_s=60.0)
    client = app.test_client()
    source = components.sources._workers[0].source
    with monkeypatch.context() as broken:
        broken.setattr(source, "segment_names", lambda *_: 1 / 0)
        assert not shapes(predicted(client))
    assert components.sources.status()[0].asked["failed"] == 1
    assert shapes(predicted(client)), "it is asked again"
