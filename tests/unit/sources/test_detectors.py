"""Grounding DINO and OWLv2 find what transformers' own pipelines find; masks come from a source."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from calico_model.errors import CheckpointError, InvalidConfigError, InvalidMaskError
from calico_model.inference.prompt import MaskPrompt
from calico_model.sources.detection import (
    Detection,
    DetectorSource,
    box_iou,
    inside,
    suppress,
)
from calico_model.sources.grounding_dino import GroundingDinoDetector, as_text, token_spans
from calico_model.sources.owlv2 import Owlv2Detector
from calico_model.sources.registry import open_source, read_choices
from calico_model.sources.source import (
    Ability,
    Encoding,
    ExemplarSource,
    SourceDescription,
    SourceMask,
    TextSource,
)
from calico_model.types import RgbImage
from tests.unit.sources import test_sam
from tests.unit.sources.small_text_models import (
    bert_tokenizer,
    clip_tokenizer,
    description,
    grounding_dino_model,
    owlv2_model,
    picture,
)

NAMES = ["handle", "left wheel", "bell"]


class FilledBoxes:
    """A source of masks: the whole box."""

    def describe(self) -> SourceDescription:
        return SourceDescription("filled", frozenset({Ability.BOX}), "f" * 12, "none", 2)

    def encode(self, image: RgbImage) -> Encoding:
        return Encoding((image.shape[0], image.shape[1]), None, 7)

    def segment_prompt(self, encoding: Encoding, prompt: MaskPrompt) -> Sequence[SourceMask]:
        assert prompt.box is not None
        x0, y0, x1, y1 = (round(value) for value in prompt.box)
        mask = np.zeros(encoding.size_hw, dtype=bool)
        mask[y0:y1, x0:x1] = True
        return [SourceMask(mask, 0.5)]


@pytest.fixture(scope="module")
def dino() -> GroundingDinoDetector:
    from transformers import GroundingDinoImageProcessorPil

    processor = GroundingDinoImageProcessorPil(size={"shortest_edge": 64, "longest_edge": 96})
    model = grounding_dino_model()
    return GroundingDinoDetector(model, bert_tokenizer(), processor, threshold=0.2)


@pytest.fixture(scope="module")
def owl() -> Owlv2Detector:
    from transformers import Owlv2ImageProcessorPil

    processor = Owlv2ImageProcessorPil(size={"height": 32, "width": 32})
    return Owlv2Detector(owlv2_model(), clip_tokenizer(40), processor, threshold=0.3)


def clipped(boxes: torch.Tensor, size_hw: tuple[int, int]) -> list[Any]:
    return [inside(box.numpy(), size_hw) for box in boxes]


def test_grounding_dino_finds_the_boxes_of_the_pipeline(dino: GroundingDinoDetector) -> None:
    from transformers import GroundingDinoProcessor

    image = picture()
    state, nbytes = dino.encode(image)
    assert nbytes > 0
    found = dino.detect(state, (60, 90), NAMES)
    processor = GroundingDinoProcessor(dino._image_processor, bert_tokenizer())
    inputs = processor(images=[image], text=[NAMES], return_tensors="pt")
    assert torch.equal(inputs["pixel_values"], state[0])
    with torch.no_grad():
        outputs = dino._model(**inputs)
    (expected,) = processor.post_process_grounded_object_detection(
        outputs, threshold=0.2, text_threshold=0.25, target_sizes=[(60, 90)]
    )
    pairs = sorted(
        (
            (float(score), box)
            for score, box in zip(
                expected["scores"], clipped(expected["boxes"], (60, 90)), strict=True
            )
            if box is not None
        ),
        key=lambda pair: -pair[0],
    )
    # the pipeline also returns boxes that match no name, only a full stop or the text's ends
    ours = [(one.score, one.box) for one in found]
    matched = [pair for pair in pairs if any(abs(pair[0] - score) < 1e-4 for score, _ in ours)]
    assert len(ours) == len(matched) > 0
    for (score, box), (known, there) in zip(ours, matched, strict=True):
        assert abs(score - known) <= 1e-4
        assert np.allclose(box, there, atol=1e-2)
    assert {one.name for one in found} <= set(NAMES)


def test_every_name_has_its_tokens() -> None:
    tokenizer = bert_tokenizer()
    names = ["Left  wheel", "st. bernard", "bell"]
    text = as_text(names)
    assert text == "left wheel. st bernard. bell."
    tokens = tokenizer(text, return_offsets_mapping=True, return_tensors="pt")
    ids = tokens["input_ids"][0]
    words = [
        "".join(tokenizer.convert_ids_to_tokens([int(ids[number])])[0] for number in span)
        for span in token_spans(names, tokens["offset_mapping"][0])
    ]
    plain = [word.replace("##", "") for word in words]
    assert plain == ["leftwheel", "stbernard", "bell"]


def test_many_names_are_asked_in_several_texts(dino: GroundingDinoDetector) -> None:
    names = [f"thing {number}" for number in range(60)]
    texts = dino._texts([*names, "thing 3"])
    assert [name for text in texts for name in text] == names
    assert len(texts) > 1
    lengths = [len(dino._tokenizer(as_text(text))["input_ids"]) for text in texts]
    assert max(lengths) <= 256


def test_owlv2_finds_the_boxes_of_the_pipeline(owl: Owlv2Detector) -> None:
    from transformers import Owlv2Processor

    image = picture()
    state, nbytes = owl.encode(image)
    assert nbytes == sum(t.numel() * 4 for t in (state.features, state.corners, state.objectness))
    found = owl.detect(state, (60, 90), NAMES)
    processor = Owlv2Processor(owl._image_processor, clip_tokenizer(40))
    text = [[f"a photo of a {name}" for name in NAMES]]
    inputs = processor(images=[image], text=text, return_tensors="pt")
    with torch.no_grad():
        outputs = owl._model(**inputs)
    (expected,) = processor.post_process_grounded_object_detection(
        outputs, threshold=0.3, target_sizes=[(60, 90)], text_labels=[NAMES]
    )
    boxes = clipped(expected["boxes"], (60, 90))
    known = sorted(
        (
            (float(score), box, name)
            for score, box, name in zip(
                expected["scores"], boxes, expected["text_labels"], strict=True
            )
            if box is not None
        ),
        key=lambda row: -row[0],
    )
    assert len(found) == len(known) > 0
    for one, (score, box, name) in zip(found, known, strict=True):
        assert abs(one.score - score) <= 1e-4
        assert np.allclose(one.box, box, atol=1e-2)
        assert one.name == name


def test_owlv2_takes_an_exemplar_as_the_pipeline_takes_an_image(owl: Owlv2Detector) -> None:
    from transformers import Owlv2Processor

    image, example = picture(), picture(50, 70, seed=5)
    state, _ = owl.encode(image)
    exemplar, _ = owl.encode(example)
    processor = Owlv2Processor(owl._image_processor, clip_tokenizer(40))
    inputs = processor(images=[image], query_images=[example], return_tensors="pt")
    with torch.no_grad():
        outputs = owl._model.image_guided_detection(**inputs)
    scores = outputs.logits[0].max(-1).values.sigmoid()
    patch = int(exemplar.objectness.argmax())  # which thing the pipeline looks for
    x0, y0, x1, y1 = (float(value) * 70 for value in exemplar.corners[patch])
    owl._exemplar_threshold = 0.0
    found = owl.detect_alike(state, (60, 90), exemplar, (x0, y0, x1, y1), (50, 70))
    centre, size = outputs.target_pred_boxes[0].split(2, dim=-1)
    corners = torch.cat([centre - size / 2, centre + size / 2], dim=-1) * 90
    known = sorted(
        (
            (float(score), box)
            for score, box in zip(scores, clipped(corners, (60, 90)), strict=True)
            if box is not None
        ),
        key=lambda row: -row[0],
    )
    assert len(found) == len(known) > 0
    for one, (score, box) in zip(found, known, strict=True):
        assert abs(one.score - score) <= 1e-4
        assert np.allclose(one.box, box, atol=1e-2)
        assert one.name is None


def test_boxes_become_masks_of_the_other_source(owl: Owlv2Detector) -> None:
    source = DetectorSource(owl, FilledBoxes(), description("owlv2"))
    assert isinstance(source, TextSource)
    assert isinstance(source, ExemplarSource)
    about = source.describe()
    assert about.abilities == {Ability.TEXT, Ability.EXEMPLAR, Ability.BOX}
    assert about.weights == "000000000000-ffffffffffff"
    assert about.parameters == owl.parameters + 2
    encoding = source.encode(picture())
    masks = source.segment_names(encoding, NAMES)
    found = owl.detect(encoding.state[0], (60, 90), NAMES)
    assert len(masks) > 0
    for name in NAMES:
        boxes = suppress([one for one in found if one.name == name])
        assert [mask.score for mask in masks if mask.label == name] == [b.score for b in boxes]
    assert all(mask.mask.shape == (60, 90) and mask.mask.any() for mask in masks)
    assert source.segment_names(encoding, []) == []


def test_a_detector_of_names_has_no_exemplars(dino: GroundingDinoDetector) -> None:
    source = DetectorSource(dino, FilledBoxes(), description("grounding-dino"))
    assert source.describe().abilities == {Ability.TEXT, Ability.BOX}
    encoding = source.encode(picture())
    with pytest.raises(InvalidMaskError, match="answers names only"):
        source.segment_alike(encoding, encoding, np.ones((60, 90), dtype=bool))


def test_the_source_of_masks_must_answer_boxes(dino: GroundingDinoDetector) -> None:
    class Clicks(FilledBoxes):
        def describe(self) -> SourceDescription:
            return description("clicks", Ability.CLICK)

    with pytest.raises(InvalidConfigError, match="answers boxes, got clicks"):
        DetectorSource(dino, Clicks(), description("grounding-dino"))


def test_an_exemplar_needs_a_region(owl: Owlv2Detector) -> None:
    source = DetectorSource(owl, FilledBoxes(), description("owlv2"))
    encoding = source.encode(picture())
    with pytest.raises(InvalidMaskError, match="exemplar: expected a mask"):
        source.segment_alike(encoding, encoding, np.zeros((60, 90), dtype=bool))


def test_only_boxes_of_one_name_suppress_each_other() -> None:
    first = Detection((0, 0, 10, 10), 0.9, "a")
    near = Detection((0, 0, 10, 9), 0.8, "a")
    other = Detection((0, 0, 10, 10), 0.7, "b")
    apart = Detection((0, 5, 10, 15), 0.6, "a")
    assert suppress([apart, near, other, first]) == [first, other, apart]
    assert box_iou((0, 0, 2, 2), (1, 0, 3, 2)) == pytest.approx(1 / 3)
    assert box_iou((0, 0, 1, 1), (1, 1, 2, 2)) == 0.0


def test_boxes_stay_inside_the_image() -> None:
    assert inside(np.array([-5.0, 2.0, 200.0, 20.0]), (60, 90)) == (0.0, 2.0, 90.0, 20.0)
    assert inside(np.array([95.0, 2.0, 99.0, 20.0]), (60, 90)) is None


@pytest.mark.parametrize("kind", ["dino", "owl"])
def test_a_folder_finds_what_the_model_in_memory_finds(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    detector = request.getfixturevalue(kind)
    for part in (detector._model, detector._tokenizer, detector._image_processor):
        part.save_pretrained(tmp_path / "detector")
    test_sam.save(tmp_path / "masks", is_hq=False)
    entry = f"{tmp_path / 'detector'}+{tmp_path / 'masks'}"
    (choice,) = read_choices([entry], tmp_path)
    source = open_source(choice)
    assert isinstance(source, DetectorSource)
    about = source.describe()
    assert about.name == "detector+masks"
    assert {Ability.TEXT, Ability.CLICK, Ability.BOX} <= about.abilities
    loaded: Any = source._detector
    loaded._threshold = detector._threshold
    image = picture(seed=9)
    expected = detector.detect(detector.encode(image)[0], (60, 90), NAMES)
    found = loaded.detect(loaded.encode(image)[0], (60, 90), NAMES)
    assert [(one.name, one.box) for one in found] == [(one.name, one.box) for one in expected]
    assert len(found) > 0
    encoding = source.encode(image)
    assert all(mask.label in NAMES for mask in source.segment_names(encoding, NAMES))
    assert len(source.segment_prompt(encoding, MaskPrompt(box=(5, 5, 40, 40)))) > 0


def test_a_detector_needs_a_source_of_masks(owl: Owlv2Detector, tmp_path: Path) -> None:
    for part in (owl._model, owl._tokenizer):
        part.save_pretrained(tmp_path / "owl")
    test_sam.save(tmp_path / "sam", is_hq=False)
    own, named = read_choices([f"{tmp_path / 'owl'}", f"x={tmp_path / 'owl'}+sam-base"], tmp_path)
    assert (named.name, named.masks and named.masks.name) == ("x", "sam-base")
    with pytest.raises(CheckpointError, match="such as owlv2-base.sam-base, got owlv2 alone"):
        open_source(own)
    (swapped,) = read_choices([f"{tmp_path / 'sam'}+{tmp_path / 'owl'}"], tmp_path)
    with pytest.raises(CheckpointError, match="got sam as detector"):
        open_source(swapped)
    (bare,) = read_choices([f"{tmp_path / 'owl'}+{tmp_path / 'sam'}"], tmp_path)
    with pytest.raises(CheckpointError, match="expected preprocessor_config.json"):
        open_source(bare)
