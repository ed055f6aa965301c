"""One trial: a row with a seed learns on cached features and is judged on held-out groups."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from calico_model.errors import InvalidRecordError
from calico_model.evaluation import protocol, report
from calico_model.evaluation.bootstrap import Estimate
from calico_model.evaluation.outcome import HEADLINE, MODES, EvaluationReport
from calico_model.loading.checkpoints import save_model
from calico_model.modeling.model import Calico
from calico_model.predictor import Predictor
from calico_model.training.curves import CurveLog
from calico_model.training.pretraining.objective import LossWeights, PretrainingObjective
from calico_model.training.pretraining.run import use_plain_attention
from calico_model.types import LabeledGroup
from research.ablation.plan import AblationRow, TrialPlan
from research.ablation.scenes import Scenes
from research.ablation.start import PartDictionary, build_row, initialise_by_name

OUTCOME = "outcome.json"
_LOG_EVERY = 25
_PROMPT, _PRESENCE = 0.5, 0.3
_CLIP_NORM = 1.0


@dataclass(frozen=True)
class Material:
    """What all trials of a study share.

    Attributes:
        base: finished weights, in evaluation mode.
        scenes: to train on.
        dictionary: mask prompts of parts and categories, fitted to those of `base`.
        groups: held-out groups to judge on.
    """

    base: Calico
    scenes: Scenes
    dictionary: PartDictionary
    groups: Sequence[LabeledGroup]


@dataclass(frozen=True, eq=False)
class TrialOutcome:
    """What one trial measured.

    Attributes:
        row: key of the row.
        seed: of the first values and the data order.
        trained: number of trained parameters.
        means: "strict" | "compat" -> metric of `HEADLINE` -> mean of the subtasks, with its
            bootstrap copies.
    """

    row: str
    seed: int
    trained: int
    means: dict[str, dict[str, Estimate]]


def run_trial(
    plan: TrialPlan,
    row: AblationRow,
    seed: int,
    material: Material,
    folder: Path,
    *,
    on_progress: Callable[[str, int], None] = lambda _doing, _done: None,
) -> TrialOutcome:
    """Trains and judges one row.

    Args:
        plan: how to train and judge.
        row: the parts the model has.
        seed: of first values and data order.
        material: what all trials share.
        folder: receives `model/`, `curve.csv`, the report and, last, `outcome.json`; files of an
            interrupted trial are removed first.
        on_progress: called with "training" or "judging" and the number of finished steps or groups.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    model = build_row(material.base, row, seed=seed, start=plan.start)
    use_plain_attention(model)
    curve = CurveLog(folder / "curve.csv", resume_step=0)
    train_row(
        model, plan, seed, material, curve=curve, on_step=lambda done: on_progress("training", done)
    )
    save_model(model, material.scenes.tokenizer, folder / "model", dtype=torch.bfloat16)
    version = f"{model.config.name}-{row.key}-seed{seed}"
    judged = protocol.evaluate(
        Predictor(model, material.scenes.tokenizer, version=version),
        material.groups,
        resamples=plan.resamples,
        on_group=lambda done: on_progress("judging", done),
    )
    report.write_report(judged, folder, run={"row": row.key, "seed": seed, "split": plan.split})
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    outcome = TrialOutcome(row.key, seed, trained, _headline(judged))
    write_outcome(outcome, folder / OUTCOME)
    return outcome


def train_row(
    model: Calico,
    plan: TrialPlan,
    seed: int,
    material: Material,
    *,
    curve: CurveLog | None = None,
    on_step: Callable[[int], None] = lambda _done: None,
) -> None:
    """Trains a model from `build_row` in place.

    The model stays in evaluation mode: no part that learns has dropout, and no frozen part runs.
    """
    stage = plan.stage
    objective = PretrainingObjective(model, LossWeights(0.0, _PROMPT, _PRESENCE, stage.mask_weight))
    initialise_by_name(objective.presence, seed)
    with torch.no_grad():
        objective.part_prompts.weight.copy_(material.dictionary.parts)
        objective.category_prompts.weight.copy_(material.dictionary.categories)
    learning = [p for p in objective.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        learning, lr=stage.learning_rate, betas=(0.9, 0.95), weight_decay=0.0, fused=True
    )
    history: list[dict[str, float]] = []
    for step in range(stage.steps):
        batch = material.scenes.batch(model.config, plan, seed, step)
        for group in optimizer.param_groups:
            group["lr"] = stage.rate_at(step)
        # The fused attention's backward pass costs twice the plain, equally causal, one on CPUs.
        with torch.autocast("cpu", torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
            loss, terms = objective(batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learning, _CLIP_NORM)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        history.append({name: float(value) for name, value in terms.items()})
        is_logged = (step + 1) % _LOG_EVERY == 0 or step + 1 == stage.steps
        if curve is not None and is_logged:
            curve.add(
                step + 1, stage.name, {k: float(np.mean([h[k] for h in history])) for k in terms}
            )
            history.clear()
        on_step(step + 1)


def write_outcome(outcome: TrialOutcome, path: Path) -> None:
    """Writes an outcome as JSON: staged, then renamed, so that a file is always complete."""
    document = {
        "row": outcome.row,
        "seed": outcome.seed,
        "trained": outcome.trained,
        "means": {
            mode: {
                name: {
                    "value": estimate.value,
                    "n": estimate.n,
                    "copies": [round(float(copy), 6) for copy in estimate.copies],
                }
                for name, estimate in table.items()
            }
            for mode, table in outcome.means.items()
        },
    }
    staged = path.with_suffix(".tmp")
    staged.write_text(json.dumps(document) + "\n", "utf-8")
    staged.rename(path)


def read_outcome(path: Path) -> TrialOutcome:
    """Reads what `write_outcome` wrote.

    Raises:
        InvalidRecordError: the file has another form; the message names it.
    """
    try:
        document = json.loads(path.read_text("utf-8"))
        means = {
            mode: {
                name: _read_estimate(estimate) for name, estimate in document["means"][mode].items()
            }
            for mode in MODES
        }
        return TrialOutcome(document["row"], document["seed"], document["trained"], means)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidRecordError(f"{path}: not an outcome of a trial: {error!r}") from error


def _read_estimate(document: dict[str, Any]) -> Estimate:
    copies = np.array(document["copies"], np.float64)
    return Estimate(float(document["value"]), copies, int(document["n"]))


def _headline(judged: EvaluationReport) -> dict[str, dict[str, Estimate]]:
    return {
        mode: {
            name: _with_copies(judged.resampled[mode][name], judged.resamples) for name in HEADLINE
        }
        for mode in MODES
    }


def _with_copies(estimate: Estimate, resamples: int) -> Estimate:
    """Gives an estimate without copies NaN copies, so that all outcomes have one shape."""
    if estimate.copies.size:
        return estimate
    return replace(estimate, copies=np.full(resamples, np.nan))
