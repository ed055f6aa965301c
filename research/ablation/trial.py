"""One trial: a row with a seed learns on cached features and is judged on held-out groups."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from calico_model.errors import InvalidRecordError
from calico_model.evaluation import protocol, report
from calico_model.evaluation.bootstrap import Estimate
from calico_model.evaluation.outcome import HEADLINE, MODES, Report
from calico_model.loading.checkpoints import save_model
from calico_model.modeling.model import Calico
from calico_model.predictor import Predictor
from calico_model.training.curves import CurveLog
from calico_model.training.pretraining.objective import LossWeights, PretrainingObjective
from calico_model.training.pretraining.run import use_plain_attention
from calico_model.types import LabeledGroup
from research.ablation.dictionary import PartDictionary
from research.ablation.plan import Plan
from research.ablation.rows import Row
from research.ablation.scenes import Scenes
from research.ablation.start import build_row, initialise_by_name

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
        dictionary: prompts of parts, as `base` says them.
        groups: held out.
    """

    base: Calico
    scenes: Scenes
    dictionary: PartDictionary
    groups: Sequence[LabeledGroup]


@dataclass(frozen=True, eq=False)
class Outcome:
    """What one trial measured.

    Attributes:
        row: key of the row.
        seed: of its first values and its data order.
        trained: how many numbers learned.
        means: "strict" | "compat" -> metric of `HEADLINE` -> mean of the subtasks with its copies.
    """

    row: str
    seed: int
    trained: int
    means: dict[str, dict[str, Estimate]]


def run_trial(
    plan: Plan,
    row: Row,
    seed: int,
    material: Material,
    folder: Path,
    *,
    on_progress: Callable[[str, int], None] = lambda doing, done: None,
) -> Outcome:
    """Trains and judges one row.

    Args:
        plan: how.
        row: which parts the model has.
        seed: of first values and data order.
        material: what all trials share.
        folder: gets `model/`, `curve.csv`, the report and, last, `outcome.json`; what an
            interrupted trial left there is removed.
        on_progress: called with "training" or "judging" and how many steps or groups are done.
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
    outcome = Outcome(row.key, seed, trained, _headline(judged))
    write_outcome(outcome, folder / OUTCOME)
    return outcome


def train_row(
    model: Calico,
    plan: Plan,
    seed: int,
    material: Material,
    *,
    curve: CurveLog | None = None,
    on_step: Callable[[int], None] = lambda done: None,
) -> None:
    """Trains a model from `build_row` in place.

    It stays in evaluation mode: nothing that learns has dropout, nothing frozen runs.
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


def write_outcome(outcome: Outcome, path: Path) -> None:
    """Writes an outcome: staged, then renamed, so that a file that is there is whole."""
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


def read_outcome(path: Path) -> Outcome:
    """Reads what `write_outcome` wrote.

    Raises:
        InvalidRecordError: another form; the message names the file.
    """
    try:
        document = json.loads(path.read_text("utf-8"))
        means = {
            mode: {
                name: Estimate(float(e["value"]), np.array(e["copies"], np.float64), int(e["n"]))
                for name, e in document["means"][mode].items()
            }
            for mode in MODES
        }
        return Outcome(document["row"], document["seed"], document["trained"], means)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidRecordError(f"{path}: not an outcome of a trial: {error!r}") from error


def _headline(judged: Report) -> dict[str, dict[str, Estimate]]:
    return {
        mode: {name: _whole(judged.resampled[mode][name], judged.resamples) for name in HEADLINE}
        for mode in MODES
    }


def _whole(estimate: Estimate, resamples: int) -> Estimate:
    """Gives what could not be measured its copies too, so that all outcomes have one shape."""
    if estimate.copies.size:
        return estimate
    return replace(estimate, copies=np.full(resamples, np.nan))
