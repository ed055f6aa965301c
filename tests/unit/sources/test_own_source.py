"""CALICO's own decoder answers as a source what it answers by itself."""

from __future__ import annotations

import numpy as np

from calico_model.assistant import Assistant
from calico_model.inference.prompt import Click, MaskPrompt
from calico_model.predictor import DEFAULT_WEIGHTS, load_predictor
from calico_model.sources.own import OwnSource
from calico_model.sources.source import Ability, PromptSource
from calico_model.types import ImageGroup


def test_a_click_and_a_box_give_the_masks_of_the_assistant() -> None:
    assistant = Assistant(load_predictor(DEFAULT_WEIGHTS, threads=1))
    source = OwnSource(assistant)
    assert isinstance(source, PromptSource)
    description = source.describe()
    assert description.abilities == {Ability.CLICK, Ability.BOX}
    assert description.parameters > 1_000_000
    image = np.random.default_rng(0).integers(0, 255, (90, 120, 3), np.uint8)
    encoding = source.encode(image)
    for prompt in (MaskPrompt((Click(40, 50),)), MaskPrompt((), (10, 10, 60, 80))):
        (mask,) = source.segment_prompt(encoding, prompt)
        alone = assistant.refine(ImageGroup((image,), ("x",)), 0, prompt)
        assert np.array_equal(mask.mask, alone.mask)
        assert mask.score == alone.iou
