"""What a trial sees, what it leaves, and what its cached features are."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from calico_model.errors import CheckpointError, InvalidConfigError, InvalidRecordError
from calico_model.evaluation.bootstrap import Estimate
from calico_model.evaluation.outcome import HEADLINE, MODES
from calico_model.loading.checkpoints import load_model
from calico_model.modeling.features import Pixels
from calico_model.modeling.model import Calico
from calico_model.training.pretraining.batches import batch_scenes
from research.ablation.plan import COMPONENTS, FULL, Start, TrialPlan
from research.ablation.scenes import SceneFeatures
from research.ablation.start import build_row
from research.ablation.study import Study, prepare
from research.ablation.trial import (
    OUTCOME,
    Material,
    TrialOutcome,
    read_outcome,
    run_trial,
    train_row,
    write_outcome,
)

ROWS = {row.key: row for row in COMPONENTS}


def test_cached_features_are_those_of_the_encoders(base: Calico, material: Material) -> None:
    picks = [7, 0, 7]
    scenes = batch_scenes([material.scenes.pool.scene(i) for i in picks])
    with torch.no_grad():
        fresh = base.encode(Pixels(scenes.pixels))
    kept = material.scenes.features.of(picks)
    pairs = [
        (kept.global_tokens, fresh.global_tokens),
        (kept.semantic_tokens, fresh.semantic_tokens),
        (kept.mask.embedding, fresh.mask.embedding),
        *zip(kept.mask.fine, fresh.mask.fine, strict=True),
    ]
    for own, expected in pairs:
        assert own.dtype == torch.float32
        torch.testing.assert_close(own, expected, rtol=2**-7, atol=1e-5)


def test_a_killed_encoding_goes_on_where_it_was(
    base: Calico, material: Material, tmp_path: Path
) -> None:
    told: list[int] = []

    def interrupt(done: int) -> None:
        raise KeyboardInterrupt

    features = SceneFeatures(base, material.scenes.pool, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        features.fill(base, on_progress=interrupt)
    with pytest.raises(CheckpointError, match="missing"):
        features.of([40])
    features.fill(base, on_progress=told.append)
    assert told[0] == 64
    assert told[-1] == len(material.scenes.pool)
    features.of([0, 40, len(material.scenes.pool) - 1])
    features.fill(base, on_progress=interrupt)  # nothing is left to do


@pytest.mark.parametrize("key", ["without_qformer", "without_dino", "without_cem_and_cam"])
def test_every_row_sees_the_same_data_in_the_same_order(
    base: Calico, material: Material, key: str
) -> None:
    plan = TrialPlan(pairs=2, masks=4)
    full = build_row(base, ROWS[FULL], seed=27, start=Start.SCRATCH)
    row = build_row(base, ROWS[key], seed=27, start=Start.SCRATCH)
    steps = [material.scenes.batch(full.config, plan, 27, step) for step in range(3)]
    for step, expected in enumerate(steps):
        batch = material.scenes.batch(row.config, plan, 27, step)
        assert batch.turns is not None
        assert expected.turns is not None
        assert torch.equal(batch.turns.labels, expected.turns.labels)
        assert torch.equal(batch.masks.target, expected.masks.target)
        assert torch.equal(batch.scenes.pixels, expected.scenes.pixels)
    assert not torch.equal(steps[0].scenes.pixels, steps[1].scenes.pixels)
    other = material.scenes.batch(full.config, plan, 28, 0)
    assert not torch.equal(other.scenes.pixels, steps[0].scenes.pixels)


def test_features_of_a_batch_are_those_of_its_scenes(base: Calico, material: Material) -> None:
    model = build_row(base, ROWS[FULL], seed=27, start=Start.SCRATCH)
    batch = material.scenes.batch(model.config, TrialPlan(pairs=2, masks=4), 27, 0)
    assert batch.features is not None
    with torch.no_grad():
        fresh = base.encode(Pixels(batch.scenes.pixels))
    torch.testing.assert_close(
        batch.features.global_tokens, fresh.global_tokens, rtol=2**-7, atol=1e-5
    )


def test_the_same_seed_trains_to_the_same_weights(base: Calico, material: Material) -> None:
    plan = TrialPlan(steps=2, pairs=2, masks=4)
    models = [build_row(base, ROWS[FULL], seed=27, start=Start.SCRATCH) for _ in range(2)]
    for model in models:
        train_row(model, plan, 27, material)
    first, second = (model.state_dict() for model in models)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_trial_leaves_a_model_a_curve_a_report_and_its_outcome(
    study: Study, material: Material, tmp_path: Path
) -> None:
    told: list[tuple[str, int]] = []
    folder = tmp_path / "trial"
    (folder / "leftover").mkdir(parents=True)
    plan = replace(study.plan, steps=2)
    outcome = run_trial(
        plan,
        ROWS["without_dino"],
        27,
        material,
        folder,
        on_progress=lambda doing, done: told.append((doing, done)),
    )
    model, _ = load_model(folder / "model")
    assert not model.config.ablation.use_dino
    assert (folder / "curve.csv").read_text().splitlines()[1].startswith("2,")
    assert (folder / "report.json").is_file()
    assert not (folder / "leftover").exists()
    assert told[-1] == ("judging", 2)
    kept = read_outcome(folder / OUTCOME)
    assert (kept.row, kept.seed, kept.trained) == ("without_dino", 27, outcome.trained)
    for mode in MODES:
        for name in HEADLINE:
            own, written = outcome.means[mode][name], kept.means[mode][name]
            np.testing.assert_allclose(written.copies, own.copies, atol=1e-6)
            np.testing.assert_equal(written.value, own.value)
            assert len(written.copies) == plan.resamples


def test_a_broken_outcome_is_named(tmp_path: Path) -> None:
    table = {name: Estimate(0.5, np.array([0.4, np.nan]), 3) for name in HEADLINE}
    path = tmp_path / OUTCOME
    write_outcome(TrialOutcome(FULL, 27, 9, dict.fromkeys(MODES, table)), path)
    assert read_outcome(path).means["strict"]["mIoU"].n == 3
    path.write_text(path.read_text()[:40])
    with pytest.raises(InvalidRecordError, match=r"outcome\.json: not an outcome"):
        read_outcome(path)


@pytest.mark.parametrize("name", ["steps", "scenes", "groups"])
def test_a_plan_without_work_is_refused(name: str) -> None:
    with pytest.raises(InvalidConfigError, match=f"{name}: expected >= 1, got 0"):
        TrialPlan(**{name: 0})


@pytest.mark.parametrize("change", [{"steps": 4}, {"start": Start.LANGUAGE}, {"masks": 5}])
def test_a_folder_keeps_to_its_plan(study: Study, change: dict[str, object]) -> None:
    (name,) = change
    other = replace(study, plan=replace(study.plan, **change))
    with pytest.raises(InvalidConfigError, match=f"begun with {name}"):
        prepare(other, workers=1, on_progress=lambda progress: None)


def test_weights_that_lack_a_part_cannot_be_ablated(study: Study, tmp_path: Path) -> None:
    weights = tmp_path / "lame"
    shutil.copytree(study.weights, weights)
    config = json.loads((weights / "config.json").read_text())
    config["ablation"]["use_cam_guidance"] = False
    (weights / "config.json").write_text(json.dumps(config))
    with pytest.raises(InvalidConfigError, match="all parts, lame lacks some"):
        prepare(replace(study, weights=weights), workers=1, on_progress=lambda progress: None)
