"""`calico bench photos`: measures how the model learns from photographs, set by set, over HTTP."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Annotated, Any

import typer
from rich.table import Table

from backend.cli.labeled_data import open_coco
from backend.cli.options import DeviceOption, WeightsOption
from backend.cli.progress import training_bar
from backend.cli.tables import print_fitted
from calico_model.data.coco_parts import ANNOTATIONS_FILE, CocoParts, write_coco
from calico_model.errors import InvalidConfigError, InvalidRecordError
from calico_model.types import LabeledGroup, RegionKind
from research.label_studio.editor import SimulatedProject, open_config
from research.simulation import protocol
from research.simulation.curve import Point
from research.simulation.site import PROJECT_ID, BackendAccess, BaseData, served

_SECONDS = 30.0
_FEWEST = 8  # least number of groups in a set
_SETS = typer.Option(
    "--sets",
    help="Folder of sets, each a folder with annotations.json (COCO) and images.",
    metavar="DIR",
    exists=True,
    file_okay=False,
)
SetsOption = Annotated[Path, _SETS]
OptionalSetsOption = Annotated[Path | None, _SETS]
NextOption = Annotated[
    int, typer.Option("--next", min=1, help="Pairs to measure on, after the corrected ones.")
]


def bench_photos(
    sets: SetsOption,
    only: Annotated[
        list[str] | None, typer.Option("--only", help="Only the set of this name; repeatable.")
    ] = None,
    corrections: Annotated[
        str, typer.Option(help="Measure after so many corrected pairs.", metavar="N,…")
    ] = "0,5,20",
    next_groups: NextOption = 20,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the pairs.")] = 0,
    merge_sides: Annotated[
        bool, typer.Option("--merge-sides/--keep-sides", help="Count left and right as one part.")
    ] = True,
    settle: Annotated[
        float, typer.Option(min=0, help="Seconds to wait for better versions after a first one.")
    ] = 240.0,
    recipe: Annotated[
        Path | None,
        typer.Option(
            help="Script of a baseline: SCRIPT FOLDER --train IMAGES --test IMAGES --seconds 30, "
            "its last line JSON with recall_by_kind and recall.",
            metavar="SCRIPT",
        ),
    ] = None,
    weights: WeightsOption = None,
    device: DeviceOption = "cpu",
) -> None:
    """Let an annotator who knows the truth correct photographs, one set after the other.

    Every set is a project of its own at a backend of its own, over HTTP. This is what calico
    simulate does, with the same figures side by side. Recall is strict: the mean of objects,
    common parts and unique parts. recall_parts counts a part
    whatever kind it was predicted with.

    Example: calico bench photos --sets DIR --settle 60

    The last line is JSON, by set and as their mean: recall_0, recall_5, recall_20,
    recall_parts_20, recipe_5, recipe_20 (null without --recipe), clicks_saved_min and
    first_version_s. Other --corrections change the numbers in the keys. A set with fewer pairs is
    corrected as far as it goes.
    """
    from research.simulation.command import read_points

    points = read_points(corrections)
    folders = find_sets(sets, only=only)
    figures: dict[str, dict[str, float | None]] = {}
    with training_bar("opening sets") as show:
        for folder in folders:
            groups = open_pairs(folder, seed=seed, merge_sides=merge_sides)
            reached = _points_for(len(groups), points, next_groups)
            if reached is None:
                typer.echo(f"{folder.name}: fewer than {_FEWEST} pairs, left out", err=True)
                continue
            coming = min(next_groups, len(groups) - reached[-1])
            chosen = list(groups[: reached[-1] + coming])
            curve, outcomes = _simulate(
                folder.name, chosen, reached, coming, settle, weights, device, show
            )
            baselines = {}
            if recipe is not None:
                later = chosen[reached[-1] :]
                for number in (point for point in reached if point):
                    show(f"{folder.name}: baseline after {number} corrections", 1, 1)
                    baselines[number] = _baseline(recipe, (*chosen[:number], *later), number)
            figures[folder.name] = _figures(points, curve, baselines) | {
                "refused": float(sum(outcome != "published" for outcome in outcomes))
            }
            typer.echo(f"{folder.name}: {json.dumps(figures[folder.name])}", err=True)
    if not figures:
        raise InvalidConfigError(f"--sets: expected a set of {_FEWEST} pairs or more in {sets}")
    document = {"sets": figures, "mean": _means(list(figures.values()))}
    print_fitted(_table(figures))
    typer.echo(json.dumps(document))


def find_sets(
    sets: Path, *, only: Sequence[str] | None, **named: Sequence[str] | None
) -> list[Path]:
    """Returns the folders of the sets to measure, by name.

    Args:
        sets: folder of all.
        only: names of those to measure; all if None or empty.
        named: option -> names of sets that it was given.

    Raises:
        InvalidConfigError: there is no set, or none of a given name; names the option.
    """
    folders = [path for path in sorted(sets.iterdir()) if (path / ANNOTATIONS_FILE).is_file()]
    if not folders:
        is_set = (sets / ANNOTATIONS_FILE).is_file()
        hint = f", which is a set itself: give the folder above, and --only {sets.name}"
        raise InvalidConfigError(
            f"--sets: expected folders with {ANNOTATIONS_FILE} in {sets}{hint if is_set else ''}"
        )
    names = [path.name for path in folders]
    for option, chosen in {"only": only, **named}.items():
        unknown = sorted(set(chosen or ()) - set(names))
        if unknown:
            raise InvalidConfigError(
                f"--{option}: expected sets of {sets} ({', '.join(names)}), "
                f"got {', '.join(unknown)}"
            )
    return [path for path in folders if not only or path.name in only]


def open_pairs(folder: Path, *, seed: int, merge_sides: bool = True) -> CocoParts:
    """Opens the pairs of a set.

    Raises:
        InvalidRecordError: its annotations cannot be used; names the set.
    """
    try:
        return open_coco(folder, None, group_size="2", seed=seed, merge_sides=merge_sides)
    except InvalidRecordError as error:
        raise InvalidRecordError(f"{folder}: {error}") from error


def _points_for(groups: int, points: Sequence[int], coming: int) -> tuple[int, ...] | None:
    """Points that a set of `groups` groups reaches; the last point of a small set is its limit."""
    if groups < _FEWEST:
        return None
    most = max(groups - coming, 2 * groups // 3)
    reached = [point for point in points if point <= most]
    if reached[-1] < points[-1] and most > reached[-1]:
        reached.append(most)
    return tuple(reached)


def _simulate(
    name: str,
    groups: Sequence[LabeledGroup],
    points: Sequence[int],
    coming: int,
    settle_s: float,
    weights: Path | None,
    device: str,
    show: Any,
) -> tuple[Sequence[Point], Sequence[str]]:
    from research.simulation.command import base_groups
    from research.simulation.live_loop import LiveLoop

    _, old = base_groups(None, replay=0, measured=1)
    kinds = [kind for kind in RegionKind if any(kind in labeled.known for labeled in groups)]
    base = BaseData(None, 0, 0)
    with served(BackendAccess(), weights, device, _SECONDS, base) as (client, files):
        loop = LiveLoop(
            client,
            files,
            SimulatedProject(PROJECT_ID, open_config(kinds)),
            on_training=lambda what, share: show(f"{name}: {what}", round(100 * share), 100),
            settle_s=settle_s,
        )
        loop.import_tasks(
            (*groups, *old),
            on_task=lambda done: show(f"{name}: importing", done, len(groups) + len(old)),
        )
        outcome = protocol.simulate(
            loop,
            groups,
            old,
            points=points,
            next_groups=coming,
            on_point=lambda point: show(
                f"{name}: after {point.corrections} corrections Recall {point.recall:.1f}, "
                f"parts {point.recall_parts:.1f}, clicks saved {point.clicks_saved:.0f} %",
                1,
                1,
            ),
            on_group=lambda what, done, total: show(f"{name}: {what}", done, total),
        )
        return outcome.points, loop.outcomes


def _baseline(
    script: Path, groups: Sequence[LabeledGroup], corrected: int
) -> dict[str, Any] | None:
    """Runs a baseline that learns from the first groups; returns the JSON of its last line.

    A baseline that fails is reported and left out: what was measured until then stays.
    """
    with tempfile.TemporaryDirectory(prefix="calico-photos-") as place:
        folder = Path(place) / "set"
        write_coco(groups, folder)
        images = ["--train", str(2 * corrected), "--test", str(2 * (len(groups) - corrected))]
        command = [sys.executable, str(script.resolve()), str(folder), *images, "--seconds", "30"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        typer.echo(f"--recipe: {script.name} failed, left out: {done.stderr[-500:]}", err=True)
        return None
    report: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return report


def _figures(
    points: Sequence[int],
    curve: Sequence[Point],
    baselines: Mapping[int, dict[str, Any] | None],
) -> dict[str, float | None]:
    by_point = {point.corrections: point for point in curve}
    last = curve[-1]
    figures: dict[str, float | None] = {}
    for number in points:
        point = by_point.get(number, last if number == points[-1] else None)
        figures[f"recall_{number}"] = None if point is None else round(point.recall, 1)
    end = points[-1]
    figures[f"recall_parts_{end}"] = round(last.recall_parts, 1)
    figures["corrected"] = float(last.corrections)
    for number in (point for point in points if point):
        baseline = baselines.get(last.corrections if number == end else number)
        kinds = None if baseline is None else list(baseline["recall_by_kind"].values())
        figures[f"recipe_{number}"] = None if not kinds else round(mean(kinds), 1)
        figures[f"recipe_parts_{number}"] = None if baseline is None else float(baseline["recall"])
    figures["clicks_saved_min"] = round(min(point.clicks_saved for point in curve), 1)
    figures[f"clicks_saved_{end}"] = round(last.clicks_saved, 1)
    figures["wrong_per_image_0"] = round(curve[0].wrong_per_image, 3)
    figures["first_version_s"] = round(max(point.update_s for point in curve), 1)
    return figures


def _means(rows: Sequence[dict[str, float | None]]) -> dict[str, float | None]:
    means: dict[str, float | None] = {}
    for key in rows[0]:
        values = [value for row in rows if (value := row[key]) is not None]
        means[key] = round(mean(values), 1) if values else None
    return means


def _table(figures: dict[str, dict[str, float | None]]) -> Table:
    table = Table(title="Photographs")
    table.add_column("set")
    for key in next(iter(figures.values())):
        table.add_column(key.replace("_", " "), justify="right")
    for name, row in figures.items():
        table.add_row(name, *("-" if value is None else f"{value:g}" for value in row.values()))
    return table
