"""Digests of what the shipped model answers, to compare before and after a change of its code.

Equal code on one machine gives equal bits, so a change that must not change behaviour must not
change a digest: predictions of ten groups, strict metrics of 50, one online update on drawings and
one on generated photographs, and a session of clicks, names and proposals.

    .venv/bin/python tools/same_answers.py > before.json
    .venv/bin/python tools/same_answers.py > after.json && diff before.json after.json

Takes about five minutes of one core. Progress goes to stderr, one JSON object to stdout.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from calico_model.assistant import Assistant
from calico_model.data import synthetic
from calico_model.data.synthetic import SceneSplit
from calico_model.inference.prompt import Click, MaskPrompt
from calico_model.interactive.naming.closed_set import ClosedSet, Outline
from calico_model.modeling.adapter import Adapter
from calico_model.predictor import Predictor, load_predictor
from calico_model.training.online.example import example_of
from calico_model.training.online.update import Replay, UpdatePlan, update_adapter
from calico_model.types import GroupPrediction, LabeledGroup, RegionKind
from calico_model.vocabulary import Vocabulary
from tests.e2e.generated_photos import cart_groups

SEED = 11


def drawn(split: SceneSplit, count: int) -> list[LabeledGroup]:
    """Pairs of a split, drawn from the seed."""
    groups = []
    for index in range(count):
        rng = synthetic.group_rng(synthetic.Stream.EVALUATION, SEED, index)
        scenes = synthetic.draw_group(rng, split=split, group_size=2)
        groups.append(synthetic.labeled_group(scenes, [f"{split}-{index}-{n}" for n in range(2)]))
    return groups


def digest(values: Iterable[bytes | str | float | None]) -> str:
    """SHA-256 over values, floats by all of their digits."""
    total = hashlib.sha256()
    for value in values:
        total.update(value if isinstance(value, bytes) else repr(value).encode())
    return total.hexdigest()[:16]


def of_prediction(prediction: GroupPrediction) -> str:
    """Digest of every region: image, kind, label, score and mask."""
    return digest(
        value
        for part in prediction.parts
        for value in (
            part.image_index,
            part.kind.value,
            part.label,
            part.score,
            part.mask.tobytes(),
        )
    )


def of_adapter(adapter: Adapter) -> str:
    """Digest of every tensor."""
    return digest(
        value
        for name, tensor in sorted(adapter.tensors.items())
        for value in (name, tensor.detach().float().numpy().tobytes())
    )


def learned(predictor: Predictor, groups: list[LabeledGroup]) -> tuple[str, str]:
    """Digests of an update from all but the last group, and of what it then predicts for that."""
    examples = [
        example_of(labeled, predictor.encode(labeled.group), f"group-{number}")
        for number, labeled in enumerate(groups)
    ]
    base = [
        example_of(labeled, predictor.encode(labeled.group), f"base-{number}")
        for number, labeled in enumerate(drawn(SceneSplit.SEEN, 2))
    ]
    plan = replace(UpdatePlan(), least_steps=6, most_steps=6)
    update = update_adapter(predictor.adapters, examples[:-1], Replay((), tuple(base)), plan)
    version = f"learned-{groups[0].group.keys[0]}"
    predictor.adapters.add(version, update.adapter)
    prediction = predictor.predict(groups[-1].group, adapter=version)
    predictor.adapters.drop(version)
    return of_adapter(update.adapter), of_prediction(prediction)


def clicked(predictor: Predictor, labeled: LabeledGroup) -> str:
    """Digest of a session: click, correction, box, the part elsewhere, its name, words."""
    assistant, group = Assistant(predictor), labeled.group
    prediction = predictor.predict(group)
    part = next(one for one in labeled.parts if one.kind is not RegionKind.COMMON_OBJECT)
    rows, columns = np.nonzero(part.mask)
    middle = len(rows) // 2
    click = Click(float(columns[middle]) + 0.5, float(rows[middle]) + 0.5)
    box = (float(columns.min()), float(rows.min()), float(columns.max() + 1), float(rows.max() + 1))
    first = assistant.refine(group, part.image_index, MaskPrompt((click,)), prediction)
    away = replace(click, x=2.5, y=2.5, is_positive=False)
    second = MaskPrompt((click, away), previous=first.mask)
    masks = [
        first,
        assistant.refine(group, part.image_index, second, prediction),
        assistant.refine(group, part.image_index, MaskPrompt(box=box)),
    ]
    proposals = assistant.transfer(group, part, prediction)
    labels = Vocabulary(tuple(sorted({one.label for one in labeled.parts})))
    outlines = [Outline(one.image_index, one.mask, one.kind) for one in labeled.parts]
    names = assistant.name(group, outlines, ClosedSet(labels), prediction)
    references = assistant.refer(group, [(part.label, None)], prediction)
    return digest(
        [
            *(value for one in masks for value in (one.mask.tobytes(), one.iou)),
            *(
                repr((one.score, [int(piece.mask.sum()) for piece in one.parts]))
                for one in proposals
            ),
            *(value for one in names for value in (one.label, one.chance)),
            *(piece.mask.tobytes() for one in references for piece in one.parts),
        ]
    )


def evaluated() -> str:
    """Digest of the JSON line of `calico evaluate` on 50 groups."""
    command = [sys.executable, "-m", "backend.cli", "evaluate", "--groups", "50", "--seed", "3"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    figures = json.loads(result.stdout.splitlines()[-1])
    return digest(f"{key}={value}" for key, value in sorted(figures.items()) if "_s" not in key)


def main() -> None:
    """Prints the digests."""
    torch.set_num_threads(1)
    predictor = load_predictor()
    strange, photos = drawn(SceneSplit.UNSEEN_DOMAIN, 5), cart_groups(4)
    asked = [*drawn(SceneSplit.SEEN, 5), *strange]
    steps: dict[str, Callable[[], object]] = {
        "predict": lambda: [of_prediction(predictor.predict(one.group)) for one in asked],
        "update_drawings": lambda: learned(predictor, strange),
        "update_photographs": lambda: learned(predictor, photos),
        "click_drawings": lambda: [clicked(predictor, one) for one in asked[:2]],
        "click_photographs": lambda: [clicked(predictor, one) for one in photos[:2]],
        "evaluate": evaluated,
    }
    found = {}
    for name, step in steps.items():
        print(f"{name} ...", file=sys.stderr, flush=True)
        found[name] = step()
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
