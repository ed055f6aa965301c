"""`calico bench older`: what a project loses of its older labels while it learns newer ones."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from rich.table import Table

from backend.cli.options import DeviceOption, WeightsOption
from backend.cli.progress import training_bar
from backend.cli.tables import print_fitted
from calico_model.errors import InvalidConfigError
from calico_model.evaluation.regions import as_regions
from calico_model.types import GroupPrediction, LabeledGroup
from research.bench.photos import SetsOption, find_sets, open_pairs
from research.bench.review import learning_loop
from research.simulation.protocol import LearningLoop, fitting

_MOST_LOST = 3.0  # points
_FEWEST_MEASURED = 4  # groups


@dataclass(frozen=True)
class OlderNewer:
    """Which groups of a set are older and which newer, as indexes into the set.

    Attributes:
        older: learned first.
        newer: of other object classes, learned afterwards.
        measured: of the classes of `older`, never learned.
        classes: object classes of the older and of the newer groups.
    """

    older: tuple[int, ...]
    newer: tuple[int, ...]
    measured: tuple[int, ...]
    classes: tuple[tuple[str, ...], tuple[str, ...]]


@dataclass(frozen=True)
class Found:
    """Parts of the measured groups, before and after the newer groups were learned.

    Attributes:
        parts: number of true parts.
        before, after: number of those found: right name, IoU of 0.5 or more.
    """

    parts: int
    before: int
    after: int

    def __add__(self, other: Found) -> Found:
        return Found(self.parts + other.parts, self.before + other.before, self.after + other.after)


def bench_older(
    sets: SetsOption,
    only: Annotated[
        list[str] | None, typer.Option("--only", help="Only the set of this name; repeatable.")
    ] = None,
    groups: Annotated[
        int, typer.Option("--groups", min=1, help="Pairs to learn of each class.")
    ] = 10,
    next_groups: Annotated[
        int, typer.Option("--next", min=1, help="Most pairs of the first class to measure on.")
    ] = 20,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Projects of each set.")] = 1,
    first_seed: Annotated[
        int, typer.Option("--first-seed", min=0, help="Seed of the pairs of the first project.")
    ] = 0,
    seconds: Annotated[
        float, typer.Option(min=0.1, help="Each training, in seconds of processor time.")
    ] = 30.0,
    weights: WeightsOption = None,
    device: DeviceOption = "cpu",
) -> None:
    """Learn pairs of one object class, then pairs of another, and measure on the first again.

    Learns in this process, as a project learns: the second training goes on from the first version
    and rehearses its pairs. Measured are other pairs of the first class: Recall over all parts,
    with the right name and an IoU of 0.5 or more.

    The first class is the one with most pairs, the second the next one. Where a class has too few,
    the next classes join it; a set that is too small for that learns fewer pairs. Sets with a
    single class are left out.

    Example: calico bench older --sets photographs

    The exit status is 1 if a set loses more than 3 points over its projects. The last line is
    JSON: by set groups, parts, before, after and lost; lost_by_set, and the worst set and its loss.
    """
    totals: dict[str, Found] = {}
    learned: dict[str, int] = {}
    with training_bar("opening sets") as show:
        for folder in find_sets(sets, only=only):
            for seed in range(first_seed, first_seed + seeds):
                pairs = open_pairs(folder, seed=seed)
                chosen = choose(pairs.object_classes, groups, next_groups)
                if chosen is None:
                    typer.echo(f"{folder.name}: too few object classes, left out", err=True)
                    break
                _, loop = learning_loop(weights, device, seconds, folder.name, show)
                found = measure(
                    loop,
                    [pairs[k] for k in chosen.older],
                    [pairs[k] for k in chosen.newer],
                    [pairs[k] for k in chosen.measured],
                )
                totals[folder.name] = totals.get(folder.name, Found(0, 0, 0)) + found
                learned[folder.name] = len(chosen.older)
                older, newer = (", ".join(names) for names in chosen.classes)
                typer.echo(
                    f"{folder.name}, seed {seed}: {len(chosen.older)} pairs of {older}, then of "
                    f"{newer}: {found.before} -> {found.after} of {found.parts} parts",
                    err=True,
                )
    if not totals:
        raise InvalidConfigError(f"--sets: expected a set of several object classes in {sets}")
    figures = older_figures(totals, learned)
    print_fitted(_table(figures["sets"]))
    typer.echo(json.dumps(figures))
    if figures["worst_lost"] > _MOST_LOST:
        raise typer.Exit(1)


def choose(classes: Sequence[str], groups: int, next_groups: int) -> OlderNewer | None:
    """Chooses the groups to learn first, to learn afterwards, and to measure on.

    Args:
        classes: object class of every group of a set.
        groups: number to learn each time; fewer where the set is too small.
        next_groups: most groups to measure on.

    Returns:
        None if the set has too few groups of different classes for even one to learn.
    """
    by_size = [name for name, _ in sorted(Counter(classes).items(), key=lambda one: -one[1])]
    for count in range(groups, 0, -1):
        first, rest = _take(classes, by_size, count + _FEWEST_MEASURED)
        second, _ = _take(classes, rest, count)
        if not first or not second:
            continue
        older, newer = (
            [k for k, name in enumerate(classes) if name in names] for names in (first, second)
        )
        measured = older[count : count + next_groups]
        return OlderNewer(
            tuple(older[:count]), tuple(newer[:count]), tuple(measured), (first, second)
        )
    return None


def _take(
    classes: Sequence[str], names: Sequence[str], least: int
) -> tuple[tuple[str, ...], Sequence[str]]:
    """The first names with `least` groups together, and the others; nothing if there are fewer."""
    for count in range(1, len(names) + 1):
        if sum(name in names[:count] for name in classes) >= least:
            return tuple(names[:count]), names[count:]
    return (), names


def measure(
    loop: LearningLoop,
    older: Sequence[LabeledGroup],
    newer: Sequence[LabeledGroup],
    measured: Sequence[LabeledGroup],
) -> Found:
    """Learns older groups, then newer ones, and counts the parts found after each."""

    def learn(corrected: Sequence[LabeledGroup]) -> int:
        for labeled in corrected:
            loop.correct(labeled, loop.predict(labeled.group))
        loop.learn()
        return sum(count_found(loop.predict(one.group), one) for one in measured)

    before = learn(older)
    parts = sum(part.kind.is_part for one in measured for part in one.parts)
    return Found(parts, before, learn(newer))


def count_found(prediction: GroupPrediction, labeled: LabeledGroup) -> int:
    """Number of true parts of a group that are predicted with their name and an IoU of 0.5."""
    found = 0
    for image in range(len(labeled.group)):
        predicted = as_regions(list(prediction.of_image(image)))
        truth = as_regions(
            [part for part in labeled.parts if part.image_index == image and part.kind.is_part]
        )
        found += int(fitting(predicted, truth).any(0).sum())
    return found


def older_figures(totals: dict[str, Found], learned: dict[str, int]) -> dict[str, Any]:
    """Returns Recall before and after in percent, and the points lost, by set.

    Args:
        totals: set -> parts over all its projects; at least one set.
        learned: set -> groups learned each time.
    """
    sets = {}
    for name, found in totals.items():
        before, after = (100 * part / max(1, found.parts) for part in (found.before, found.after))
        sets[name] = {
            "groups": learned[name],
            "parts": found.parts,
            "before": round(before, 1),
            "after": round(after, 1),
            "lost": round(before - after, 1),
        }
    lost = {name: row["lost"] for name, row in sets.items()}
    worst = max(lost, key=lost.__getitem__)
    return {"sets": sets, "lost_by_set": lost, "worst": worst, "worst_lost": lost[worst]}


def _table(sets: dict[str, dict[str, float]]) -> Table:
    table = Table(title="Recall of older parts", title_justify="left")
    table.add_column("set", overflow="fold")
    for column in ("pairs learned", "parts", "before", "after", "lost"):
        table.add_column(column, justify="right")
    for name, row in sets.items():
        table.add_row(name, *(f"{value:g}" for value in row.values()))
    return table
