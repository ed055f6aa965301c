"""The oracle annotator's loop, with a model whose skill is a number."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from calico_model.errors import InvalidConfigError
from calico_model.evaluation.regions import as_regions
from calico_model.types import GroupPrediction, ImageGroup, LabeledGroup, PartMask, RegionKind
from research.simulation.curve import as_json, draw_curve, sum_up
from research.simulation.protocol import AnnotationEffort, effort, simulate

KIND = RegionKind.COMMON_OBJECT


def square(label: str, image: int = 0, *, first: int = 4, side: int = 8) -> PartMask:
    mask = np.zeros((24, 24), dtype=bool)
    mask[first : first + side, first : first + side] = True
    return PartMask(image, KIND, label, mask, part_id=f"{KIND}/{label}")


def group(number: int, label: str) -> LabeledGroup:
    image = np.full((24, 24, 3), number % 256, dtype=np.uint8)
    return LabeledGroup(
        ImageGroup((image,), (f"{label}-{number}",)), (square(label),), known=frozenset({KIND})
    )


class Pupil:
    """Knows the names of the groups it was corrected on; forgets `base` after two updates."""

    def __init__(self, truths: Sequence[LabeledGroup]) -> None:
        self._truth = {one.group.ids[0]: one for one in truths}
        self._told: set[str] = set()
        self._names = {"base"}
        self.updates = 0
        self.corrected: list[str] = []

    @property
    def version(self) -> str:
        return f"pupil-{self.updates}"

    def predict(self, group: ImageGroup) -> GroupPrediction:
        parts = self._truth[group.ids[0]].parts
        known = [p if p.label in self._names else replace(p, label="thing") for p in parts]
        return GroupPrediction(tuple(known), self.version)

    def correct(self, labeled: LabeledGroup, prediction: GroupPrediction) -> None:
        assert prediction.version == self.version
        self.corrected.append(labeled.group.ids[0])
        self._told |= {part.label for part in labeled.parts}

    def learn(self) -> float:
        self.updates += 1
        self._names |= self._told
        if self.updates == 2:
            self._names.discard("base")
        return 2.5


@pytest.fixture
def domain() -> list[LabeledGroup]:
    return [group(n, ("rotor", "claw")[n % 2]) for n in range(8)]


@pytest.fixture
def base() -> list[LabeledGroup]:
    return [group(n, "base") for n in range(2)]


def test_the_curve_is_of_groups_nobody_corrects(
    domain: list[LabeledGroup], base: list[LabeledGroup]
) -> None:
    pupil = Pupil([*domain, *base])
    outcome = simulate(pupil, domain, base, points=(0, 1, 2), next_groups=4)
    assert pupil.corrected == ["rotor-0", "claw-1"]
    assert [point.recall for point in outcome.points] == [0.0, 50.0, 100.0]
    assert [point.miou for point in outcome.points] == [100.0, 100.0, 100.0]
    assert [point.version for point in outcome.points] == ["pupil-0", "pupil-1", "pupil-2"]
    assert [point.update_s for point in outcome.points] == [0.0, 2.5, 2.5]
    assert outcome.recall.gain == 100.0
    assert outcome.recall.forgetting == 100.0
    assert outcome.miou.forgetting == 0.0


def test_what_is_written_down(
    domain: list[LabeledGroup], base: list[LabeledGroup], tmp_path: Path
) -> None:
    outcome = simulate(Pupil([*domain, *base]), domain, base, points=(0, 2), next_groups=4)
    written = json.loads(json.dumps(as_json(outcome, "claws")))
    assert set(written) == {"curve", "forgetting", "domain"}
    assert {"corrections", "mIoU", "Recall", "update_s", "clicks_saved"} <= set(written["curve"][0])
    assert written["forgetting"] == {"mIoU": 0.0, "Recall": 0.0}
    draw_curve(outcome, tmp_path / "curve.png", title="claws")
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("points", [(), (2, 1), (1, 1), (-1, 2)])
def test_points_must_rise(
    points: tuple[int, ...], domain: list[LabeledGroup], base: list[LabeledGroup]
) -> None:
    with pytest.raises(InvalidConfigError, match="points"):
        simulate(Pupil(domain), domain, base, points=points, next_groups=1)


def test_the_domain_must_be_large_enough(
    domain: list[LabeledGroup], base: list[LabeledGroup]
) -> None:
    with pytest.raises(InvalidConfigError, match="at least 9 groups"):
        simulate(Pupil(domain), domain, base, points=(0, 5), next_groups=4)


def test_adaptation_remembers_what_was_lost() -> None:
    summary = sum_up([0.5, 0.7], [0.8, 0.9, 0.6])
    assert summary.gain == pytest.approx(0.2)
    assert summary.forgetting == pytest.approx(0.3)


def test_right_regions_take_no_effort() -> None:
    truth = as_regions([square("rotor"), square("claw", first=14)])
    assert effort(truth, truth, 1) == AnnotationEffort()


def test_effort_is_clicks_names_and_pixels() -> None:
    truth = as_regions([square("rotor")])
    # From nothing: one click, one name, 64 pixels.
    assert effort((), truth, 1) == AnnotationEffort(2, 64)
    assert effort(as_regions([square("wing")]), truth, 1) == AnnotationEffort(1, 0)
    # 36 of 64 pixels are there: half overlap, so one click repairs it.
    assert effort(as_regions([square("rotor", side=6)]), truth, 1) == AnnotationEffort(1, 28)
    # Elsewhere: one to delete, one to draw, one name.
    assert effort(as_regions([square("rotor", first=15)]), truth, 1) == AnnotationEffort(3, 64)


def test_a_hopeless_mask_is_drawn_anew() -> None:
    """A comb over a square: many small mistakes, but one stroke draws the square."""
    truth = as_regions([square("wing", side=16)])
    comb = square("wing", side=16)
    mask = comb.mask.copy()
    mask[::3, ::2] = False
    (edited,) = as_regions([replace(comb, mask=mask)])
    assert effort((edited,), truth, 1).clicks == 3  # delete, draw, name
