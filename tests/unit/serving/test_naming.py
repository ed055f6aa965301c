"""Regions are put into the project's labels; what is unsure is left to the annotator."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from backend.label_studio.label_config import parse_label_config
from backend.label_studio.result import Omission, render_prediction
from backend.serving.naming import ProjectNames, name_prediction, name_unnamed, naming_state
from backend.types import Task
from calico_model.interactive.naming.closed_set import ClosedSet, Named, Outline
from calico_model.interactive.naming.prototypes import Prototypes
from calico_model.types import GroupPrediction, ImageGroup, PartMask, RegionKind
from calico_model.vocabulary import Vocabulary
from tests.doubles import ModelDouble

BRUSH_LABELS = """<View><Image name="a" value="$a"/><BrushLabels name="b" toName="a">
<Label value="Lid"/><Label value="Rim" predicted_values="edge"/></BrushLabels></View>"""
LABELS = """<View><Image name="a" value="$a"/><Brush name="b" toName="a"/>
<Labels name="l" toName="a"><Label value="Lid"/><Label value="Rim"/></Labels></View>"""
OPEN = """<View><Image name="a" value="$a"/><Brush name="m" toName="a"/>
<Labels name="k" toName="a"><Label value="common_part"/></Labels>
<TextArea name="p" toName="a" perRegion="true"/></View>"""
GROUP = ImageGroup(tuple(np.zeros((8, 8, 3), np.uint8) for _ in range(2)), ("a", "b"))
CLOSED = ClosedSet(Vocabulary(("Lid", "Rim")))
TASK = Task(1, 7, ("/data/a.png",), ("tasks[0].data.a",))


def part(label: str, *, image: int = 0, part_id: str | None = None, left: int = 0) -> PartMask:
    mask = np.zeros((8, 8), np.bool_)
    mask[2:5, left : left + 3] = True
    return PartMask(image, RegionKind.COMMON_PART, label, mask, part_id=part_id)


class Model(ModelDouble):
    """Calls regions on the left "Rim" and is unsure about the others."""

    def predict(self, group: ImageGroup) -> GroupPrediction:
        raise AssertionError("nobody asked for a prediction")

    def __init__(self) -> None:
        self.asked: list[tuple[Outline, ...]] = []
        self.group_prediction: list[GroupPrediction | None] = []

    def name(
        self,
        group: ImageGroup,
        outlines: Sequence[Outline],
        closed: ClosedSet,
        group_prediction: GroupPrediction | None = None,
    ) -> tuple[Named, ...]:
        self.asked.append(tuple(outlines))
        self.group_prediction.append(group_prediction)
        return tuple(
            Named("Rim", 0.9, (("Rim", 0.9),))
            if one.mask[:, 0].any()
            else Named(None, 0.2, (("Lid", 0.2),))
            for one in outlines
        )


def test_every_region_of_a_prediction_gets_a_label_of_the_set_or_none() -> None:
    parts = (
        part("border", part_id="common_part:border"),
        part("border", image=1, part_id="common_part:border"),
        part("knob", part_id="common_part:knob", left=4),
    )
    model = Model()
    named = name_prediction(GroupPrediction(parts, "v1"), GROUP, model, CLOSED).parts
    assert [one.label for one in named] == ["Rim", "Rim", ""]
    assert [one.part_id for one in named] == [
        "common_part:Rim",
        "common_part:Rim",
        "common_part:knob",
    ]
    assert [(one.predicted_label, one.same) for one in model.asked[0]] == [
        ("border", "common_part:border"),
        ("border", "common_part:border"),
        ("knob", "common_part:knob"),
    ]
    assert all(a.mask is b.mask for a, b in zip(named, parts, strict=True))


def test_a_new_region_keeps_the_label_its_annotator_chose() -> None:
    model = Model()
    chosen, nameless = part("Lid"), part("")
    named = name_unnamed((chosen, nameless), GROUP, model, CLOSED)
    assert [one.label for one in named] == ["Lid", "Rim"]
    assert named[0] is chosen
    assert len(model.asked[0]) == 1
    assert model.group_prediction == [None]


def test_the_set_is_the_projects_and_open_where_names_are_free() -> None:
    accepted = Prototypes().add("Lid", np.ones(3, np.float32))
    names = ProjectNames(lambda project: accepted if project == 7 else Prototypes(), 0.4)
    closed = names.closed_set(parse_label_config(BRUSH_LABELS), TASK)
    assert closed is not None
    assert closed.vocabulary.labels == ("Lid", "Rim")
    assert dict(closed.vocabulary.aliases) == {"edge": "Rim"}
    assert (closed.accepted, closed.least) == (accepted, 0.4)
    assert names.closed_set(parse_label_config(OPEN), TASK) is None


def test_kept_answers_are_made_anew_as_accepted_regions_double() -> None:
    states = []
    accepted = Prototypes()
    for number in range(9):
        states.append(naming_state(ClosedSet(CLOSED.vocabulary, accepted)))
        accepted = accepted.add("Lid", np.array([1.0, number], np.float32))
    assert [a != b for a, b in zip(states, states[1:], strict=False)] == [
        True,
        True,
        False,
        True,
        False,
        False,
        False,
        True,
    ]
    assert naming_state(None) == ""


def test_a_region_without_a_label_is_not_sent_even_if_it_was_pointed_at() -> None:
    prediction = GroupPrediction((part(""), part("Rim", left=4), part("robot")), "v1")
    for config in (BRUSH_LABELS, LABELS):
        schema = parse_label_config(config)
        for pointed_at in (False, True):
            sent = render_prediction(
                prediction, schema, sizes_hw=((8, 8),), with_other_kinds=pointed_at
            )
            assert (len(sent.region_ids), sent.omitted) == (1, {Omission.UNKNOWN_LABEL: 2})
