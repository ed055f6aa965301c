"""Kept predictions come back as they were, and broken files say where."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from calico_model.errors import InvalidRecordError
from calico_model.evaluation.protocol import evaluate
from calico_model.evaluation.saved import PredictionFile, SavedPredictions
from calico_model.types import GroupPrediction, LabeledGroup, PartMask
from tests.unit.evaluation.labeled_chairs import COMMON_PART, Oracle


def keep(path: Path, groups: list[LabeledGroup]) -> None:
    file = PredictionFile(path)
    for labeled in groups:
        answers = {"common_part": "They share <p> the leg </p>"}
        file.add(labeled.group, GroupPrediction(labeled.parts, "kept-1", answers))
    file.close()


def test_kept_predictions_come_back_as_they_were(
    tmp_path: Path, chairs: list[LabeledGroup]
) -> None:
    keep(tmp_path / "kept.jsonl", chairs)
    saved = SavedPredictions(tmp_path / "kept.jsonl")
    assert saved.version == "kept-1"
    for labeled in reversed(chairs):
        prediction = saved.predict(labeled.group)
        assert prediction.answers == {"common_part": "They share <p> the leg </p>"}
        for ours, theirs in zip(prediction.parts, labeled.parts, strict=True):
            assert np.array_equal(ours.mask, theirs.mask)
            assert (ours.image_index, ours.kind, ours.label, ours.object_label, ours.part_id) == (
                theirs.image_index,
                theirs.kind,
                theirs.label,
                theirs.object_label,
                theirs.part_id,
            )


def test_lines_of_the_same_images_answer_in_turn(
    tmp_path: Path, chairs: list[LabeledGroup]
) -> None:
    other = replace(chairs[0], parts=chairs[0].parts[:1])
    keep(tmp_path / "kept.jsonl", [chairs[0], other])
    saved = SavedPredictions(tmp_path / "kept.jsonl")
    lengths = [len(saved.predict(chairs[0].group).parts) for _ in range(2)]
    assert lengths == [len(chairs[0].parts), 1]
    with pytest.raises(InvalidRecordError, match=r"no prediction for images \['0a', '0b'\]"):
        saved.predict(chairs[0].group)


def test_empty_masks_are_not_kept(tmp_path: Path, chairs: list[LabeledGroup]) -> None:
    file = PredictionFile(tmp_path / "kept.jsonl")
    ghost = PartMask(0, COMMON_PART, "ghost", np.zeros((32, 32), dtype=bool))
    file.add(chairs[0].group, GroupPrediction((ghost,), "kept-1"))
    assert not (tmp_path / "kept.jsonl").exists()
    file.close()
    assert SavedPredictions(tmp_path / "kept.jsonl").predict(chairs[0].group).parts == ()


def test_a_discarded_file_leaves_nothing(tmp_path: Path, chairs: list[LabeledGroup]) -> None:
    file = PredictionFile(tmp_path / "kept.jsonl")
    file.add(chairs[0].group, GroupPrediction(chairs[0].parts, "kept-1"))
    file.discard()
    assert list(tmp_path.iterdir()) == []


def test_groups_without_a_line_count_as_empty(tmp_path: Path, chairs: list[LabeledGroup]) -> None:
    keep(tmp_path / "kept.jsonl", chairs[:3])
    report = evaluate(SavedPredictions(tmp_path / "kept.jsonl"), chairs, resamples=5)
    assert report.mean["strict"]["mIoU"].value == 50
    assert sum("no prediction for images" in note for note in report.warnings) == 3
    assert (
        report.mean
        == evaluate(Oracle(chairs, refuses=("3a", "4a", "5a")), chairs, resamples=5).mean
    )


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"regions": [{"image": 0, "kind": "common_part"}]}, "line 1: .*label.*regions"),
        ({"regions": [{"kind": "wheel"}]}, r"line 1: .*`\$.regions\[0\].kind`"),
        ({"ids": "0a"}, r"line 1: .*`\$.ids`"),
        ({"version": 3}, r"line 1: .*`\$.version`"),
    ],
)
def test_broken_lines_are_named(tmp_path: Path, change: dict[str, object], what: str) -> None:
    line = {"ids": ["0a", "0b"], "version": "v", "regions": []} | change
    (tmp_path / "kept.jsonl").write_text(json.dumps(line) + "\n")
    with pytest.raises(InvalidRecordError, match=f"kept.jsonl: {what}"):
        SavedPredictions(tmp_path / "kept.jsonl")


@pytest.mark.parametrize(
    ("field", "value", "what"),
    [
        ("image", 5, r"line 1: regions\[0\].image: expected 0 to 1, got 5"),
        ("segmentation", {"size": [4, 4], "counts": [0, 16]}, r"regions\[0\].segmentation.size"),
        ("segmentation", {"size": [32, 32], "counts": [0, 7]}, r"regions\[0\].segmentation"),
    ],
)
def test_masks_that_do_not_fit_are_named(
    tmp_path: Path, chairs: list[LabeledGroup], field: str, value: object, what: str
) -> None:
    keep(tmp_path / "kept.jsonl", chairs[:1])
    document = json.loads((tmp_path / "kept.jsonl").read_text())
    document["regions"][0][field] = value
    (tmp_path / "kept.jsonl").write_text(json.dumps(document))
    with pytest.raises(InvalidRecordError, match=what):
        SavedPredictions(tmp_path / "kept.jsonl").predict(chairs[0].group)


@pytest.mark.parametrize("content", [None, b"", b"\n\n", b"not json\n"])
def test_files_that_hold_no_predictions_are_refused(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "kept.jsonl").write_bytes(content)
    with pytest.raises(InvalidRecordError, match=r"kept\.jsonl"):
        SavedPredictions(tmp_path / "kept.jsonl")
