"""`calico calibrate` on the micro model: a file beside the weights, and figures of other groups."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from backend.cli import calibrate as command
from backend.cli import command_tree
from calico_model import predictor as predicting
from calico_model.evaluation.calibration import judge_regions
from calico_model.inference.confidence import read_confidence
from calico_model.types import GroupPrediction, LabeledGroup, MaskEvidence, PartMask

FIGURES = {"ECE", "Brier", "AUROC"}


class Teller:
    """Tells the truth about every group, but drops half of a mask where it is not sure."""

    version = "teller"
    confidence = None

    def __init__(self, labeled: dict[bytes, LabeledGroup]) -> None:
        self._labeled = labeled
        self._rng = np.random.default_rng(0)

    def predict(self, group):
        parts = []
        for part in self._labeled[group.images[0].tobytes()].parts:
            sure = float(self._rng.uniform(0.3, 1.0))
            is_right = self._rng.random() < sure**2
            mask = part.mask if is_right else np.roll(part.mask, 100, axis=0)
            parts.append(
                PartMask(
                    part.image_index,
                    part.kind,
                    part.label,
                    mask,
                    score=sure,
                    evidence=MaskEvidence(sure, 0.9, 1.0),
                )
            )
        return GroupPrediction(tuple(parts), self.version)


@pytest.fixture
def teller(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {}
    drawn = command.DrawnGroups

    def remember(split, groups, seed, sizes):
        found = drawn(split, groups, seed, sizes)
        made = [found[index] for index in range(groups)]
        seen.update({one.group.images[0].tobytes(): one for one in made})
        return made

    monkeypatch.setattr(command, "DrawnGroups", remember)
    monkeypatch.setattr(predicting, "load_predictor", lambda folder, device: Teller(seen))


def run(*words: object) -> dict[str, object]:
    arguments = ["calibrate", *map(str, words)]
    result = CliRunner().invoke(command_tree(arguments), arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    found: dict[str, object] = json.loads(result.stdout.splitlines()[-1])
    return found


@pytest.mark.usefixtures("teller")
def test_scores_mean_more_afterwards(tmp_path: Path) -> None:
    said = run("--weights", tmp_path, "--groups", 40)
    before, after = said["before"], said["after"]
    assert set(before) == set(after) == FIGURES
    assert after["ECE"] < before["ECE"]
    confidence = read_confidence(tmp_path)
    assert confidence is not None
    assert confidence.iou > 0
    assert said["confidence"] == {
        name: round(getattr(confidence, name), 4) for name in confidence.__struct_fields__
    }


@pytest.mark.usefixtures("teller")
def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    run("--weights", tmp_path, "--groups", 20, "--dry-run")
    assert list(tmp_path.iterdir()) == []


def test_regions_are_judged_as_evaluation_does() -> None:
    (labeled,) = command.DrawnGroups(command.SceneSplit.SEEN, 1, 0, (2, 2))
    evidence = MaskEvidence(0.5, 0.9, 0.5)
    right = labeled.parts[0]

    def judged(part: PartMask, **changes: object) -> bool:
        fields = {name: getattr(part, name) for name in part.__dataclass_fields__} | changes
        told = GroupPrediction((PartMask(**fields | {"evidence": evidence}),), "v")
        (outcome,) = judge_regions(told, labeled)
        return outcome.is_right

    assert judged(right)
    assert not judged(right, label="something else")
    assert not judged(right, mask=~right.mask)
    assert not judged(right, image_index=1 - right.image_index)
    assert judge_regions(GroupPrediction((right,), "v"), labeled) == ()
