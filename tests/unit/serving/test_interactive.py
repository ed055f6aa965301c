"""Clicks and boxes: which region they mean, what it is called, and what is asked of the model."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from backend.errors import InvalidRleError
from backend.serving.click_targets import overlapping_region, prompt_chains, prompted_region
from backend.serving.interactive import InteractiveSegmenter
from backend.serving.source_pool import SourceAnswers
from backend.types import Prompt, Region, RegionOrigin, runs_of
from calico_model.inference.prompt import MaskPrompt
from calico_model.types import GroupPrediction, ImageGroup, PartMask, RegionKind
from tests.doubles import ModelDouble, proposal, refined

SIZE = (40, 60)
PART, OBJECT = RegionKind.COMMON_PART, RegionKind.COMMON_OBJECT


def block(rows, columns):
    mask = np.zeros(SIZE, np.bool_)
    mask[rows, columns] = True
    return mask


def undecoded():
    raise AssertionError("a mask nobody refines was decoded")


def region(name, mask, *, image=0, kind=PART, label="handle", is_open=False):
    return Region(
        name, image, SIZE, kind, label, RegionOrigin.PREDICTION, None,
        load_mask=mask.copy if is_open else undecoded,
        encoding=name.encode(),
        load_runs=lambda: runs_of(mask),
    )  # fmt: skip


def click(x, y, name="p1", *, image=0, is_positive=True, kind=PART, label="handle"):
    return Prompt(name, image, (x, y, x, y), is_positive, kind, label)


def box(x0, y0, x1, y1, name="b1"):
    return Prompt(name, 0, (x0, y0, x1, y1), True, PART, "handle")


@dataclass
class Clickable(ModelDouble):
    """Outlines a block around the last click; a model that finds nothing elsewhere."""

    version: str = "v"
    asked: list[MaskPrompt] = field(default_factory=list)
    told: list[GroupPrediction | None] = field(default_factory=list)
    known: PartMask | None = None

    def predict(self, group):
        raise AssertionError("the language model was asked")

    def refine(self, group, image_index, prompt, group_prediction=None):
        self.asked.append(prompt)
        self.told.append(group_prediction)
        if prompt.clicks:
            x, y = int(prompt.clicks[-1].x), int(prompt.clicks[-1].y)
            mask = block(slice(max(y - 4, 0), y + 4), slice(max(x - 4, 0), x + 4))
            return refined(mask, meant=None if prompt.previous is not None else self.known)
        x0, y0, x1, y1 = (int(value) for value in prompt.box)
        return refined(block(slice(y0, y1), slice(x0, x1)))


@pytest.fixture
def group():
    rng = np.random.default_rng(0)
    images = tuple(rng.integers(0, 255, (*SIZE, 3)).astype(np.uint8) for _ in range(2))
    return ImageGroup(images, ("a", "b"))


def suggest(group, prompts, canvas=(), model=None):
    model = model or Clickable()
    return InteractiveSegmenter().suggest(group, prompts, canvas, model), model


BODY = region("body", block(slice(0, 40), slice(0, 60)), kind=OBJECT, label="cup")
LARGE = region("large", block(slice(0, 20), slice(0, 30)))
SMALL = region("small", block(slice(5, 10), slice(5, 10)), is_open=True)
SPOUT = region("spout", block(slice(5, 10), slice(5, 10)), label="spout")


def test_a_click_means_the_smallest_region_of_its_label_under_it():
    canvas = (BODY, LARGE, SMALL, SPOUT)
    assert prompted_region(click(7, 7), canvas, SIZE) is SMALL
    assert prompted_region(click(15, 7), canvas, SIZE) is LARGE
    assert prompted_region(click(50, 30), canvas, SIZE) is None
    assert prompted_region(click(7, 7, label="Spouts"), canvas, SIZE) is SPOUT
    assert prompted_region(click(7, 7, kind=None, label=None), (BODY, LARGE), SIZE) is LARGE
    assert prompted_region(click(7, 7, image=1), canvas, SIZE) is None
    assert prompted_region(click(7, 7), canvas, (10, 10)) is None


def test_a_box_means_the_region_it_fits():
    assert prompted_region(box(0, 0, 29, 21), (LARGE, SMALL), SIZE) is LARGE
    assert prompted_region(box(0, 0, 12, 12), (LARGE, SMALL), SIZE) is None


def test_a_region_that_cannot_be_read_is_passed_over():
    def fail():
        raise InvalidRleError("broken")

    assert prompted_region(click(7, 7), (replace(SMALL, load_runs=fail), LARGE), SIZE) is LARGE


def test_overlap_is_counted_from_runs():
    def part(mask):
        return PartMask(0, PART, "handle", mask)

    half = block(slice(0, 20), slice(0, 14))
    assert overlapping_region(part(block(slice(0, 20), slice(0, 16))), (LARGE,)) is LARGE
    assert overlapping_region(part(half), (LARGE,)) is None
    assert overlapping_region(part(half), (LARGE, region("half", half))).id == "half"


def test_prompts_of_one_label_correct_one_region_and_a_box_begins_another():
    first, second, third = click(1, 1, "a"), click(2, 2, "b"), click(3, 3, "c", label="lid")
    found = prompt_chains([first, second, box(1, 1, 9, 9), click(4, 4, "d"), third])
    assert [[p.id for p in chain.prompts] for chain in found] == [["a", "b"], ["b1", "d"], ["c"]]


def test_an_existing_region_is_refined_in_place_and_no_other_mask_is_decoded(group):
    many = tuple(region(f"r{k}", block(slice(30, 39), slice(50, 58))) for k in range(100))
    found, model = suggest(group, [click(7, 7, is_positive=False)], (*many, LARGE, SMALL))
    assert found.ids == ("small",)
    (prompt,) = model.asked
    assert (prompt.previous == SMALL.mask).all()
    assert not prompt.clicks[0].is_positive


def test_a_linked_region_is_suggested_beside_itself(group):
    linked = replace(SMALL, is_linked=True)
    found, model = suggest(group, [click(7, 7)], (LARGE, linked))
    again, _ = suggest(group, [click(7, 7), click(8, 8, "p2")], (LARGE, linked))
    assert found.ids == again.ids
    assert not {"small", "large"} & set(found.ids)
    assert (model.asked[0].previous == SMALL.mask).all()


def test_a_new_region_keeps_its_id_while_clicks_accumulate(group):
    one, _ = suggest(group, [click(30, 20)])
    two, model = suggest(group, [click(30, 20), click(40, 20, "p2", is_positive=False)])
    other, _ = suggest(group, [click(30, 20, "else")])
    assert one.ids == two.ids != other.ids
    assert model.asked[0].previous is None
    assert (model.asked[1].previous == one.prediction.parts[0].mask).all()
    assert [c.is_positive for c in model.asked[1].clicks] == [True, False]


def test_what_was_asked_before_is_not_asked_again(group):
    model, assisting = Clickable(), InteractiveSegmenter()
    assisting.suggest(group, [click(30, 20)], (), model)
    assisting.suggest(group, [click(30, 20), click(40, 20)], (), model)
    assert [len(prompt.clicks) for prompt in model.asked] == [1, 2]


def test_the_model_hears_what_it_said(group):
    model, group_prediction = Clickable(), GroupPrediction((), "v")
    InteractiveSegmenter().suggest(group, [click(30, 20)], (), model, group_prediction)
    assert model.told == [group_prediction]


def test_a_mask_that_was_shown_is_the_one_the_next_click_corrects(group):
    model, assisting = Clickable(), InteractiveSegmenter()
    shown = assisting.suggest(group, [click(30, 20)], (), model).prediction.parts[0].mask
    group_prediction = GroupPrediction((), "v")  # meanwhile it has looked at the whole group
    assisting.suggest(group, [click(30, 20), click(40, 20, "p2")], (), model, group_prediction)
    assert model.told == [None, group_prediction]
    assert (model.asked[1].previous == shown).all()


def test_a_click_beside_a_region_it_would_outline_again_refines_it(group):
    drawn = block(slice(16, 24), slice(22, 30))
    drawn[19:22] = False  # a strip is missing, and clicked
    near = region("near", drawn, is_open=True)
    found, model = suggest(group, [click(26, 20)], (near,))
    assert found.ids == ("near",)
    assert (model.asked[-1].previous == drawn).all()
    found, _ = suggest(group, [click(10, 30)], (near,))
    assert found.ids != ("near",)


def test_the_chosen_label_wins_and_without_one_the_region_keeps_its_own(group):
    found, _ = suggest(group, [click(7, 7, label="Handle")], (SMALL,))
    assert found.prediction.parts[0].label == "Handle"
    found, _ = suggest(group, [click(7, 7, kind=None, label=None)], (SMALL,))
    assert (found.prediction.parts[0].kind, found.prediction.parts[0].label) == (PART, "handle")
    found, _ = suggest(group, [click(30, 30, kind=RegionKind.UNIQUE_PART, label=None)])
    assert found.prediction.parts[0].kind is RegionKind.UNIQUE_PART
    assert found.prediction.parts[0].score == 0.75


def test_a_negative_click_on_nothing_and_an_unknown_image_suggest_nothing(group):
    found, model = suggest(group, [click(30, 30, is_positive=False), click(3, 3, image=7)])
    assert found.prediction.parts == ()
    assert model.asked == []


def test_a_box_is_asked_for_and_corrected_by_clicks(group):
    found, model = suggest(group, [box(10, 10, 30, 30), click(12, 12, "p2", is_positive=False)])
    assert found.prediction.parts[0].mask.any()
    assert model.asked[0].box == model.asked[1].box == (10, 10, 30, 30)
    assert model.asked[0].clicks == ()
    assert model.asked[1].previous is not None


class Spreading(Clickable):
    """Also finds the part on the other image."""

    def transfer(self, group, part, group_prediction):
        there = replace(part, image_index=1, mask=block(slice(0, 9), slice(0, 9)))
        return [proposal(1, there)]


def test_what_is_alike_is_suggested_elsewhere_unless_it_is_drawn_there(group):
    model = Spreading()
    found, _ = suggest(group, [click(30, 20)], (), model)
    spread = found.propagated(group, model, None, ())
    assert [part.image_index for part in spread.prediction.parts] == [0, 1]
    assert spread.prediction.parts[1].label == "handle"
    assert len(set(spread.ids)) == 2
    again, _ = suggest(group, [click(30, 20), click(33, 20, "p2")], (), model)
    assert again.propagated(group, model, None, ()).ids == spread.ids
    drawn = region("there", block(slice(0, 9), slice(0, 8)), image=1)
    assert len(found.propagated(group, model, None, (drawn,)).ids) == 1


def test_predictions_carry_the_version_that_answered(group):
    found, _ = suggest(group, [click(30, 20)])
    assert isinstance(found.prediction, GroupPrediction)
    assert found.prediction.version == "v"


def nameless(x, y, name="p1", **group_prediction):
    return click(x, y, name, kind=None, label=None, **group_prediction)


def test_a_click_on_what_the_model_has_found_has_its_name(group):
    known = PartMask(0, RegionKind.UNIQUE_PART, "lid", block(slice(0, 9), slice(0, 9)))
    model = Clickable(known=known)
    found, _ = suggest(group, [nameless(5, 5)], model=model)
    assert (found.prediction.parts[0].label, found.prediction.parts[0].kind) == ("", PART)
    (named,) = found.with_predicted_names().prediction.parts
    assert (named.label, named.kind) == ("lid", known.kind)
    kept, _ = suggest(group, [click(5, 5, label=None)], model=model)
    (named,) = kept.with_predicted_names().prediction.parts
    assert (named.label, named.kind) == ("lid", PART), "the kind was chosen"
    # Who goes on clicking still means it.
    again, _ = suggest(group, [nameless(5, 5), nameless(9, 9, "p2")], model=model)
    assert again.with_predicted_names().prediction.parts[0].label == "lid"
    assert again.ids == found.ids


def test_the_name_that_was_chosen_wins_over_the_models_own(group):
    model = Clickable(known=PartMask(0, OBJECT, "mug", block(slice(0, 9), slice(0, 9))))
    found, _ = suggest(group, [click(5, 5, kind=None)], model=model)
    (named,) = found.with_predicted_names().prediction.parts
    assert (named.label, named.kind) == ("handle", PART)
    unnamed = Clickable(known=PartMask(0, PART, "", block(slice(0, 9), slice(0, 9))))
    found, _ = suggest(group, [nameless(5, 5)], model=unnamed)
    assert found.with_predicted_names().prediction.parts[0].label == ""


def test_what_is_alike_elsewhere_has_that_name_too(group):
    class Spreading(Clickable):
        def transfer(self, group, part, group_prediction):
            assert part.label == ""  # by its looks: a name would ask the language model
            return [proposal(1, replace(part, image_index=1))]

    unique = PartMask(0, RegionKind.UNIQUE_PART, "lid", block(slice(0, 9), slice(0, 9)))
    model = Spreading(known=unique)
    found, _ = suggest(group, [nameless(5, 5)], model=model)
    everywhere = found.propagated(group, model, None, ()).with_predicted_names()
    assert [part.label for part in everywhere.prediction.parts] == ["lid", "lid"]
    assert [part.kind for part in everywhere.prediction.parts] == [PART, PART], "on two images"
    # Another kind of the same thing is no reason to draw it beside itself.
    there = region("there", block(slice(1, 9), slice(1, 9)), image=1, label="lid")
    once = found.propagated(group, model, None, (there,))
    assert len(once.prediction.parts) == 1


def test_the_masks_of_long_chains_do_not_fill_the_memory(group, monkeypatch):
    monkeypatch.setattr("backend.serving.interactive._BYTES_PER_STEP", 100)
    assisting = InteractiveSegmenter(most_steps=30)
    for number in range(40):
        assisting.suggest(group, [click(number, 5, f"p{number}")], (), Clickable())
    assert 0 < assisting._steps.used_bytes <= 3000
    assert len(assisting._steps) > 1


class Time:
    """Goes on for a number of questions."""

    def __init__(self, left):
        self.left = left

    def __call__(self):
        self.left -= 1
        return self.left >= 0


@pytest.mark.parametrize("left", [0, 1, 5])
@pytest.mark.parametrize("kind", ["clicks", "boxes", "places"])
def test_prompts_are_heeded_as_long_as_there_is_time_and_the_first_always(group, kind, left):
    prompts = {
        "clicks": [click(2 + k % 50, 20, f"c{k}") for k in range(100)],
        "boxes": [box(k % 50, 1, k % 50 + 9, 9, f"b{k}") for k in range(100)],
        "places": [click(2 + k % 50, 20, f"c{k}", label=f"part {k}") for k in range(100)],
    }[kind]
    model = Clickable()
    found = InteractiveSegmenter().suggest(group, prompts, (), model, has_time=Time(left))
    assert 1 <= len(model.asked) <= left + 2
    assert len(found.ids) >= 1


def test_asked_again_the_same_prompts_get_further(group):
    prompts = [click(2 + k, 20, f"c{k}") for k in range(12)]
    assisting, model = InteractiveSegmenter(), Clickable()
    for _ in range(11):
        assisting.suggest(group, prompts, (), model, has_time=Time(1))
    assert len(model.asked[-1].clicks) == 12
    assert len(model.asked) <= 14


def test_suggestions_spread_as_long_as_there_is_time(group):
    class Spreading(Clickable):
        sought = 0

        def transfer(self, group, part, group_prediction):
            self.sought += 1
            return []

    model = Spreading()
    prompts = [box(k, 1, k + 9, 9, f"b{k}") for k in range(30)]
    found = InteractiveSegmenter().suggest(group, prompts, (), model)
    cut = found.propagated(group, model, None, (), has_time=Time(3))
    assert model.sought == 3
    assert cut.ids == found.ids


class Sometimes:
    """Stands for the sources: lacks one until it is told that all are there."""

    def __init__(self):
        self.is_complete, self.asked = False, 0

    def __bool__(self):
        return True

    def begin(self, ability, call):
        return self

    def collect(self):
        self.asked += 1
        return SourceAnswers((), () if self.is_complete else ("slow",))


def test_a_step_that_lacked_a_source_is_made_again_as_an_answer_but_not_below_a_later_click(group):
    sources = Sometimes()
    segmenter, model = InteractiveSegmenter(sources), Clickable()
    first, second = click(20, 20), click(24, 24, "p2")

    def ask(*prompts):
        segmenter.suggest(group, prompts, (), model)
        return sources.asked

    assert ask(first) == 1
    assert ask(first) == 2  # the source may be there now
    assert ask(first, second) == 3  # only the second click; the first one's mask was shown
    sources.is_complete = True
    assert ask(first, second) == 4
    assert ask(first, second) == 4  # complete: remembered
