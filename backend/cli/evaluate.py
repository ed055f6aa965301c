"""`calico evaluate`: how good the model is, in numbers that can be compared and gated on."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from backend.cli import load as load_command
from backend.cli.labeled_data import (
    CocoOption,
    ImagesOption,
    SidesOption,
    open_coco,
    open_labeled,
    read_group_size,
)
from backend.cli.options import DeviceOption, WeightsOption, is_given, load_weights, refuse_options
from backend.cli.progress import peak_rss_mib, progress_bar
from backend.cli.source_evaluation import evaluate_sources, open_named
from backend.cli.tables import print_fitted
from calico_model.data.groups import GroupSet
from calico_model.data.opening import DrawnGroups, drawn_taxonomy, open_groups, read_taxonomy
from calico_model.data.synthetic import SceneSplit
from calico_model.errors import InvalidConfigError
from calico_model.evaluation import gate, protocol, report
from calico_model.evaluation.choices import Taxonomy
from calico_model.evaluation.page import page
from calico_model.evaluation.saved import PredictionFile, SavedPredictions
from calico_model.types import GroupPrediction, ImageGroup, LabeledGroup
from calico_model.vocabulary import Vocabulary


class Compat(StrEnum):
    """The released evaluation whose figures are shown first and checked by --require."""

    GLAMM = "glamm"
    PARTONOMY = "partonomy"


_FIRST = {None: "strict", Compat.GLAMM: "compat", Compat.PARTONOMY: "partonomy"}


def evaluate(
    context: typer.Context,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            "--dataset",
            help="Labeled groups: a folder of calico synth, or a mixed_parts_*.json.",
            metavar="PATH",
        ),
    ] = None,
    coco: CocoOption = None,
    images: ImagesOption = None,
    merge_sides: SidesOption = True,
    skip_broken: Annotated[
        bool, typer.Option("--skip-broken", help="With MixedParts: leave out broken records.")
    ] = False,
    split: Annotated[
        SceneSplit, typer.Option("--split", help="Without --data: kind of groups to draw.")
    ] = SceneSplit.SEEN,
    groups: Annotated[
        int, typer.Option("--groups", min=1, help="Without --data: how many to draw.")
    ] = 300,
    seed: Annotated[
        int,
        typer.Option("--seed", min=0, help="Without --data: the same seed draws the same groups."),
    ] = 0,
    group_size: Annotated[
        str,
        typer.Option("--group-size", help="Images per group, drawn or of --coco.", metavar="N[-M]"),
    ] = "2",
    weights: WeightsOption = None,
    device: DeviceOption = "cpu",
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Write report.json, charts and worst groups.", metavar="DIR"),
    ] = None,
    require: Annotated[
        list[str] | None,
        typer.Option(
            "--require", help="Fail unless this is true; may be repeated.", metavar="METRIC>=X"
        ),
    ] = None,
    compat: Annotated[
        Compat | None,
        typer.Option("--compat", help="Show the figures of this released evaluation first."),
    ] = None,
    forced: Annotated[
        bool,
        typer.Option("--forced", help="Also draw masks for the true answers, as Partonomy does."),
    ] = False,
    choices: Annotated[
        bool, typer.Option("--choices", help="Also ask five-choice questions, by likelihood.")
    ] = False,
    consistency: Annotated[
        int,
        typer.Option(
            "--consistency", min=0, help="Also ask N groups in other words and in another order."
        ),
    ] = 0,
    vocabulary: Annotated[
        Path | None,
        typer.Option("--vocabulary", help="Closed label set, one label a line.", metavar="FILE"),
    ] = None,
    save_predictions: Annotated[
        Path | None,
        typer.Option("--save-predictions", help="Write the predictions to a file.", metavar="FILE"),
    ] = None,
    predictions: Annotated[
        Path | None,
        typer.Option(
            "--predictions", help="Score a file of predictions, without a model.", metavar="FILE"
        ),
    ] = None,
    interactive: Annotated[
        bool,
        typer.Option("--interactive", help="Measure the help while annotating instead."),
    ] = False,
    sources: Annotated[
        str | None,
        typer.Option(
            "--sources",
            help="Measure these sources of masks instead, each alone and all together: calico, "
            "names or folders as in CALICO_SOURCES, separated by commas. stand-ins: four made "
            "from the truth.",
            metavar="NAMES",
        ),
    ] = None,
    corrected: Annotated[
        int,
        typer.Option("--corrected", min=1, help="With --sources: groups that teach trust."),
    ] = 10,
    only: Annotated[
        list[str] | None,
        typer.Option(
            "--only", help="With --interactive: only this figure; may be repeated.", metavar="KEY"
        ),
    ] = None,
) -> None:
    """Measure the model on labeled groups: masks, names, and common against unique.

    Every metric is given twice and in percent. Strict metrics count what is missing and what is
    too much; decide by them. Compat metrics count like the code behind the published tables, which
    forgives both; compare papers by them. The interval is a 95 % bootstrap over groups.
    docs/evaluation.md explains each figure.

    Draw new groups and measure the shipped model:
    calico evaluate --split seen --groups 300

    Measure groups of three to eight images, and report by size:
    calico evaluate --groups 300 --group-size 3-8 --out report

    Measure on your files, and keep the report, the charts and pictures of the worst groups:
    calico evaluate --data DIR --out report

    Ask about parts as the Partonomy benchmark does, with questions of five choices:
    calico evaluate --compat partonomy --choices

    Check requirements in a pipeline. The exit status is 1 if a requirement is not met, and 2 if it
    cannot be read:
    calico evaluate --require "compat.mIoU>=52" --require "annotator.NoC@90<=3"

    Measure the help while annotating with simulated annotators, on drawn groups (60 of each kind
    without --groups) or on your own:
    calico evaluate --interactive
    calico evaluate --interactive --coco annotations.json --images DIR

    Measure sources of masks: the first groups are corrected and teach who is believed about which
    label, the others are answered by each source alone and by all together:
    calico evaluate --sources calico,sam2 --coco annotations.json --images DIR

    The last line of the output is JSON: compat and strict means of the three subtasks, and the
    number of groups. With --interactive it holds the figures of the help, with --sources those of
    the sources.
    """
    if sources is not None:
        given = {name for name in context.params if is_given(context, name)}
        refuse_options(given - _SOURCES_OPTIONS, "is not for --sources")
        labeled = open_labeled(
            data, coco, images, group_size=group_size, seed=seed, merge_sides=merge_sides
        )
        drawn = DrawnGroups(split, groups, seed, read_group_size(group_size))
        evaluate_sources(
            sources,
            labeled or drawn,
            corrected=corrected,
            seed=seed,
            open_other=lambda name: open_named(name, weights, device),
        )
        return
    refuse_options({"corrected"} if is_given(context, "corrected") else set(), "is for --sources")
    if interactive:
        given = {name for name in context.params if is_given(context, name)}
        refuse_options(given - _INTERACTIVE_OPTIONS, "is not for --interactive")
        count = groups if "groups" in given else None
        photos = open_labeled(
            data, coco, images, group_size=group_size, seed=seed, merge_sides=merge_sides
        )
        measure = load_command("research.interactive_eval.command:measure")
        measure(weights, device, count, seed, tuple(only or ()), photos)
        return
    refuse_options({"only"} if only else set(), "is for --interactive")
    first = _FIRST[compat]
    mode = "compat" if compat is Compat.GLAMM else "strict"
    requirements = tuple(gate.parse_requirement(text) for text in require or ())
    for requirement in requirements:
        gate.resolve(requirement.name, mode=mode)
    words = read_vocabulary(vocabulary) if vocabulary else None
    _check_places(out, save_predictions)
    if coco is not None:
        labeled = open_coco(coco, images, group_size=group_size, seed=seed, merge_sides=merge_sides)
        run: dict[str, object] = {"coco": str(coco), "seed": seed, "group_size": group_size}
    elif data is None:
        labeled = DrawnGroups(split, groups, seed, read_group_size(group_size))
        run = {"split": split, "seed": seed, "group_size": group_size}
    else:
        labeled, run = _open(data, skip_broken), {"data": str(data)}
    started = time.perf_counter()
    model = SavedPredictions(predictions) if predictions else load_weights(weights, device)
    load_s = time.perf_counter() - started
    extras = protocol.ask_also(
        model,
        vocabulary=words,
        forced=forced or compat is Compat.PARTONOMY,
        taxonomy=_taxonomy(labeled) if choices else None,
        consistency=consistency,
    )
    predictor = WatchedPredictor(model, save_predictions)
    with predictor, progress_bar("Predicting groups", len(labeled)) as advance_to:
        outcome = protocol.evaluate(predictor, labeled, extras=extras, on_group=advance_to)
    if isinstance(model, SavedPredictions) and model.unasked:
        typer.echo(f"calico evaluate: {model.unasked} predictions are of other groups", err=True)
    print_fitted(page(outcome, first=first))
    if out is not None:
        run |= {"weights": str(predictions or weights or "calico-tiny"), "first_mode": first}
        efficiency = {"load_s": round(load_s, 3)} | predictor.efficiency()
        report.write_report(outcome, out, run=run, efficiency=efficiency)
        typer.echo(f"report.json, charts and the worst groups are in {out}.")
    unmet = gate.failures(outcome, requirements, mode=mode)
    for message in unmet:
        typer.secho(f"calico evaluate: {message}", fg=typer.colors.RED, err=True)
    typer.echo(json.dumps(report.headline(outcome)))
    if unmet:
        raise typer.Exit(1)


_DATA_OPTIONS = {"data", "coco", "images", "merge_sides", "group_size"}
_INTERACTIVE_OPTIONS = {
    "interactive",
    "only",
    "groups",
    "seed",
    "weights",
    "device",
} | _DATA_OPTIONS
_SOURCES_OPTIONS = {
    "sources",
    "corrected",
    "split",
    "groups",
    "seed",
    "weights",
    "device",
} | _DATA_OPTIONS


def read_vocabulary(path: Path) -> Vocabulary:
    """Reads a closed label set, one label a line; empty lines do not count.

    Raises:
        InvalidConfigError: no readable file, no labels, or two that mean the same.
    """
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidConfigError(f"--vocabulary: cannot read {path}: {error}") from error
    labels = tuple(line.strip() for line in lines if line.strip())
    if not labels:
        raise InvalidConfigError(f"--vocabulary: expected one label a line in {path}, got none")
    try:
        return Vocabulary(labels)
    except InvalidConfigError as error:
        raise InvalidConfigError(f"--vocabulary: {path.name}: {error}") from error


def _check_places(out: Path | None, save_predictions: Path | None) -> None:
    """Refuses output paths that cannot be written, before the evaluation takes hours."""
    if out is not None and not _has_folder(out / "report.json"):
        raise InvalidConfigError(f"--out: expected a folder, or a place for one, got {out}")
    if save_predictions is not None and (
        save_predictions.is_dir() or not _has_folder(save_predictions)
    ):
        raise InvalidConfigError(f"--save-predictions: expected a file, got {save_predictions}")


def _has_folder(file: Path) -> bool:
    """Whether the folder of a file exists or can be created."""
    return next(place for place in file.absolute().parents if place.exists()).is_dir()


def _taxonomy(labeled: Sequence[LabeledGroup]) -> Taxonomy:
    """Returns the taxonomy from which wrong answers are composed."""
    return Taxonomy(read_taxonomy(labeled) if isinstance(labeled, GroupSet) else drawn_taxonomy())


def _open(data: Path, skip_broken: bool) -> Sequence[LabeledGroup]:
    """Opens a data set; broken records that are left out are listed on stderr."""
    with progress_bar("Checking records", None) as advance_to:
        labeled = open_groups(data, skip_broken=skip_broken, on_progress=advance_to)
    for message in labeled.skipped:
        typer.echo(f"calico evaluate: skipped {message}", err=True)
    return labeled


class WatchedPredictor:
    """A predictor that measures the time of every group and can write the predictions.

    Attributes:
        version: of the weights.
    """

    def __init__(self, predictor: protocol.GroupPredictor, keep: Path | None = None) -> None:
        self.version = predictor.version
        self._predictor = predictor
        self._seconds: list[float] = []
        self._file = PredictionFile(keep) if keep else None

    def __enter__(self) -> None:
        """Starts recording."""

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Completes the file of predictions; discards it after an error."""
        if self._file is not None and kind is None:
            self._file.close()
        elif self._file is not None:
            self._file.discard()

    def predict(self, group: ImageGroup) -> GroupPrediction:
        """Returns the predictor's answer, and records its time."""
        started = time.perf_counter()
        prediction = self._predictor.predict(group)
        self._seconds.append(time.perf_counter() - started)
        if self._file is not None:
            self._file.add(group, prediction)
        return prediction

    def efficiency(self) -> dict[str, float]:
        """Seconds per group and peak memory of this process, so far."""
        p50, p95 = np.quantile(self._seconds, (0.5, 0.95)) if self._seconds else (0.0, 0.0)
        return {
            "predict_p50_s": round(float(p50), 4),
            "predict_p95_s": round(float(p95), 4),
            "predict_total_s": round(sum(self._seconds), 2),
            "peak_rss_mib": round(peak_rss_mib(), 1),
        }
