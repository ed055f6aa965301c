"""`calico bench caption`: how many phrases of true captions have a mask in the written ones."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from typing import Annotated

import numpy as np
import typer
from rich.table import Table

from backend.cli.options import DeviceOption, WeightsOption, load_weights
from backend.cli.progress import progress_bar
from backend.cli.tables import print_fitted
from calico_model.data.opening import DrawnGroups
from calico_model.data.synthetic import SceneSplit
from calico_model.inference.caption import Caption, Level, compose_caption
from calico_model.masks import mask_iou
from calico_model.types import BoolMask, PartMask
from calico_model.vocabulary import normalise

_SAME = 0.5  # IoU
Named = dict[tuple[Level, str, int], BoolMask]
"""Level, name and image -> what the phrases of that name show there."""


def bench_caption(
    groups: Annotated[int, typer.Option("--groups", min=1, help="Number of groups.")] = 40,
    split: Annotated[
        SceneSplit, typer.Option("--split", help="What the model has not seen in training.")
    ] = SceneSplit.SEEN,
    seed: Annotated[int, typer.Option("--seed", min=0, help="The same seed, the same groups.")] = 0,
    weights: WeightsOption = None,
    device: DeviceOption = "cpu",
) -> None:
    """Write captions of drawn groups, and measure the mask recall of their phrases.

    A phrase of the true caption counts on each image that it is linked to. It is found if the
    written caption has a phrase of that name whose masks there reach IoU 0.5 with the true ones;
    an attribute, if its thing is found and has the same attribute on that image.

    Example: calico bench caption --groups 40

    The last line of the output is JSON.
    """
    model = load_weights(weights, device)
    found: dict[Level, list[bool]] = defaultdict(list)
    with progress_bar("Writing captions", groups) as show:
        for number, labeled in enumerate(DrawnGroups(split, groups, seed, (2, 2)), start=1):
            images = labeled.group.images
            predicted = model.predict(labeled.group).parts
            truth = compose_caption(labeled.parts, images)
            written = compose_caption(predicted, images)
            for level, hits in recalled(truth, labeled.parts, written, predicted).items():
                found[level] += hits
            show(number)
    table = Table(title="Mask recall of phrases", title_justify="left")
    for name in ("phrases", "number", "recall"):
        table.add_column(name, justify="left" if name == "phrases" else "right")
    figures = {}
    for level in Level:
        recall = round(float(np.mean(found[level])), 3) if found[level] else None
        figures[str(level)] = {"phrases": len(found[level]), "recall": recall}
        table.add_row(f"{level}s", str(len(found[level])), str(recall))
    print_fitted(table)
    typer.echo(json.dumps({"groups": groups, "split": split} | figures))


def recalled(
    truth: Caption,
    true_parts: Sequence[PartMask],
    written: Caption,
    parts: Sequence[PartMask],
) -> dict[Level, list[bool]]:
    """Returns per level whether each true phrase, on each of its images, is found."""
    wanted, given = _named(truth, true_parts), _named(written, parts)
    hits: dict[Level, list[bool]] = {level: [] for level in Level}
    for key, mask in wanted.items():
        other = given.get(key)
        is_found = other is not None and mask_iou(other, mask) >= _SAME
        hits[key[0]].append(is_found)
    return hits


def _named(caption: Caption, parts: Sequence[PartMask]) -> Named:
    named: Named = {}
    for phrase in caption.phrases:
        name = normalise(caption.words(phrase))
        if phrase.level is Level.ATTRIBUTE and phrase.parent is not None:
            name = f"{normalise(caption.words(caption.phrases[phrase.parent]))}: {name}"
        for number in phrase.regions:
            key = (phrase.level, name, parts[number].image_index)
            known = named.get(key)
            named[key] = parts[number].mask if known is None else known | parts[number].mask
    return named
