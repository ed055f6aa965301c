"""NoC with a model in the loop: what counts as a click, and where the annotator begins."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from calico_model.inference.prompt import MaskPrompt
from calico_model.types import GroupPrediction, ImageGroup, LabeledGroup, PartMask, RegionKind
from research.interactive_eval.clicks import CLICKS, curves_of
from research.interactive_eval.figure import Subject

SIZE = (40, 40)


def part(rows, label, kind=RegionKind.COMMON_PART):
    mask = np.zeros(SIZE, np.bool_)
    mask[rows] = True
    return PartMask(0, kind, label, mask)


TRUTH = (
    part(slice(0, 40), "cup", RegionKind.COMMON_OBJECT),
    part(slice(0, 10), "lid"),
    part(slice(30, 40), "base"),
)
GROUP = ImageGroup((np.zeros((*SIZE, 3), np.uint8),), ("a",))
LABELED = LabeledGroup(GROUP, TRUTH)


@dataclass
class Outlined:
    mask: np.ndarray


@dataclass
class Knowing:
    """Proposes the cup, and half of the lid; needs `clicks` clicks for a region."""

    clicks: int = 1
    asked: list[MaskPrompt] = field(default_factory=list)
    told: list[object] = field(default_factory=list)

    def predict(self, group):
        half = replace(TRUTH[1], mask=part(slice(0, 5), "lid").mask)
        return GroupPrediction((TRUTH[0], half), "v")

    def refine(self, group, image_index, prompt, group_prediction=None):
        if prompt.box is not None:
            x0, y0, x1, y1 = map(int, prompt.box)
            mask = np.zeros(SIZE, np.bool_)
            mask[y0:y1, x0:x1] = True
            return Outlined(mask)
        self.asked.append(prompt)
        self.told.append(
            (
                prompt.previous is None,
                None if group_prediction is None else group_prediction.version,
            )
        )
        if len(prompt.clicks) < self.clicks:
            return Outlined(np.zeros(SIZE, np.bool_))
        first = prompt.clicks[0]
        under = [one for one in TRUTH if one.mask[int(first.y), int(first.x)]]
        return Outlined(min(under, key=lambda one: one.mask.sum()).mask)


def subject(model):
    return Subject(model, model, lambda split, count, size: [LABELED] * count, 2, 0)


def test_a_right_proposal_needs_no_click_and_none_begins_from_nothing():
    cup, lid, base = curves_of(subject(Knowing()), LABELED)
    assert cup.preannotated == (1.0,)
    assert not cup.is_part
    assert (lid.preannotated, lid.scratch) == ((0.5, 1.0), (0.0, 1.0))
    assert base.preannotated == base.scratch == (0.0, 1.0)
    assert (cup.boxed, lid.boxed, base.boxed) == (1.0, 1.0, 1.0)


def test_a_first_click_is_measured_with_and_without_what_the_model_found():
    model = Knowing()
    list(curves_of(subject(model), LABELED))
    firsts = [version for is_first, version in model.told if is_first]
    assert firsts == ["v", None] * 3
    assert {version for is_first, version in model.told if not is_first} == {None}


def test_clicks_accumulate_and_the_mask_before_is_fed_back():
    model = Knowing(clicks=2)
    list(curves_of(subject(model), LABELED))
    assert max(len(prompt.clicks) for prompt in model.asked) >= 2
    fed = [prompt.previous for prompt in model.asked if prompt.previous is not None]
    assert any((mask == part(slice(0, 5), "lid").mask).all() for mask in fed)
    assert all(mask.any() for mask in fed)


def test_the_figure_is_the_median_of_all_regions():
    done: list[int] = []
    finding = CLICKS.measure(subject(Knowing(clicks=1)), done.append)
    assert done == [1, 2]
    assert set(finding.values) == set(CLICKS.keys)
    assert finding.values["noc85_preannotated"] == 1.0
    assert finding.values["click_iou_median"] == finding.values["box_iou_median"] == 1.0
