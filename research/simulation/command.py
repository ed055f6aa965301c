"""`calico simulate`: an oracle annotator corrects groups, and the model that learns is measured."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Annotated

import httpx
import typer
from rich.table import Table

from backend.cli.connect import PasswordOption, UserOption
from backend.cli.labeled_data import CocoOption, ImagesOption, SidesOption, open_labeled
from backend.cli.options import DeviceOption, WeightsOption
from backend.cli.progress import training_bar
from backend.cli.tables import print_fitted
from backend.cli.trainer import BASE_GROUPS
from calico_model.data.opening import DrawnGroups, open_groups
from calico_model.data.synthetic import SceneSplit
from calico_model.errors import InvalidConfigError
from calico_model.types import LabeledGroup, RegionKind
from research.label_studio.editor import SimulatedProject, open_config
from research.simulation import protocol
from research.simulation.curve import Simulation, as_json, draw_curve
from research.simulation.protocol import POINTS
from research.simulation.site import PROJECT_ID, BackendAccess, BaseData, served

_PAIRS = (2, 2)
_REPLAY_SEED, _BASE_SEED = 7001, 7002

Run = Callable[..., Simulation]
"""`protocol.simulate` with every argument except the loop."""


def simulate(
    dataset: Annotated[
        Path | None,
        typer.Option("--dataset", "--data", help="Labeled groups to learn from.", metavar="PATH"),
    ] = None,
    coco: CocoOption = None,
    images: ImagesOption = None,
    group_size: Annotated[
        str, typer.Option("--group-size", help="With --coco: images per group.", metavar="N[-M]")
    ] = "2",
    merge_sides: SidesOption = True,
    split: Annotated[
        SceneSplit, typer.Option("--split", help="Without --dataset: which groups to draw.")
    ] = SceneSplit.UNSEEN_DOMAIN,
    corrections: Annotated[
        str,
        typer.Option(
            "--corrections", help="Measure after so many corrected groups.", metavar="N,…"
        ),
    ] = ",".join(map(str, POINTS)),
    next_groups: Annotated[
        int, typer.Option("--next", min=1, help="Groups to measure on, after the corrected ones.")
    ] = 40,
    base: Annotated[
        Path | None,
        typer.Option(
            "--base", help="Old drawings, which must not be forgotten; drawn if not given."
        ),
    ] = None,
    measured: Annotated[
        int, typer.Option("--base-groups", min=1, help="Number of old drawings to measure on.")
    ] = 40,
    replay: Annotated[
        int,
        typer.Option("--replay", min=0, help="Old drawings to rehearse; they are not measured."),
    ] = 48,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of drawn groups.")] = 1,
    seconds: Annotated[
        float, typer.Option("--seconds", min=1, help="Budget of one update.")
    ] = 30.0,
    settle: Annotated[
        float,
        typer.Option(
            "--settle",
            min=0,
            help="Seconds to wait for better versions after a first one; a person takes longer for "
            "the next groups.",
        ),
    ] = 240.0,
    weights: WeightsOption = None,
    device: DeviceOption = "cpu",
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Write simulation.json and curve.png.", metavar="DIR"),
    ] = None,
    in_process: Annotated[
        bool,
        typer.Option(
            "--in-process",
            help="Learn in this process, without a server, in seconds of processor time.",
        ),
    ] = False,
    backend: Annotated[
        str | None,
        typer.Option(
            "--backend", help="Learn at this running backend, in --project.", metavar="URL"
        ),
    ] = None,
    files: Annotated[
        Path | None,
        typer.Option("--files", help="With --backend: its CALICO_LOCAL_FILES_ROOT.", metavar="DIR"),
    ] = None,
    project: Annotated[
        int, typer.Option("--project", min=1, help="Id of a project nobody else uses.")
    ] = PROJECT_ID,
    user: UserOption = None,
    password: PasswordOption = None,
) -> None:
    """Let an annotator who knows the truth correct groups, and measure what the model learns.

    Groups are predicted, corrected and learned from. After 0, 1, 2, 5, ... corrected groups, the
    same next groups are predicted; nobody corrects those. This is the curve. Old drawings, like
    those that the shipped model learned from, are predicted too: what they lose is forgetting.

    Draw a domain that the model has never met, and learn it at a backend and a trainer of its own,
    over HTTP like Label Studio:
    calico simulate --corrections 0,5,20 --out simulation

    Use your own labeled groups, as calico synth or MixedParts write them:
    calico simulate --dataset DIR

    Use your own labeled photographs in COCO format:
    calico simulate --coco annotations.json --images DIR --corrections 0,5,20 --next 20

    Measure the model alone, without server, queue, quality check and database:
    calico simulate --in-process --dataset DIR

    Metrics are strict and in percent. clicks_saved compares two ways to annotate: correct the
    prediction, or draw and name everything from nothing. At a backend, about a fifth of the later
    corrected groups is kept for testing. The quality check uses them, and a version that it
    rejects is never served.

    The last line of the output is JSON: curve, forgetting, domain.
    """
    points = read_points(corrections)
    given = open_labeled(
        dataset, coco, images, group_size=group_size, seed=seed, merge_sides=merge_sides
    )
    domain = _domain(given, split, points[-1] + next_groups, seed)
    rehearsed, old = base_groups(base, replay=replay, measured=measured)
    run = partial(
        protocol.simulate, domain=domain, base=old, points=points, next_groups=next_groups
    )
    if in_process:
        outcome = _in_process(run, rehearsed, weights, device, seconds)
    else:
        access = BackendAccess(backend, files, user, password)
        rehearsal = BaseData(base, replay, _REPLAY_SEED)
        with served(access, weights, device, seconds, rehearsal) as (client, folder):
            outcome = _live(run, client, folder, project, (*domain, *old), settle)
    print_fitted(_table(outcome))
    name = f"{split} (drawn, seed {seed})" if given is None else str(dataset or coco)
    document = as_json(outcome, name)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "simulation.json").write_text(json.dumps(document, indent=1) + "\n", "utf-8")
        draw_curve(outcome, out / "curve.png", title=name)
        typer.echo(f"simulation.json and curve.png are in {out}.")
    typer.echo(json.dumps(document))


def _in_process(
    run: Run,
    rehearsed: Sequence[LabeledGroup],
    weights: Path | None,
    device: str,
    seconds: float,
) -> Simulation:
    # torch takes seconds to import: `--help` and a wrong argument must not wait for it.
    from calico_model.predictor import DEFAULT_WEIGHTS, load_predictor
    from calico_model.training.online.update import UpdatePlan, UpdateProgress
    from research.simulation.in_process import InProcessLoop

    with training_bar("Encoding base groups") as show:

        def on_step(progress: UpdateProgress) -> None:
            show(f"learning, loss {progress.loss:.2f}", progress.step, progress.steps)

        loop = InProcessLoop(
            load_predictor(weights or DEFAULT_WEIGHTS, device=device, threads=1),  # as a trainer
            rehearsed,
            UpdatePlan(seconds=seconds),
            clock=time.process_time,  # like the trainer, whatever else the machine does
            on_progress=on_step,
        )
        return run(loop, on_group=show)


def _live(
    run: Run,
    client: httpx.Client,
    files: Path,
    project: int,
    groups: Sequence[LabeledGroup],
    settle_s: float,
) -> Simulation:
    """Runs a simulation at a backend over HTTP."""
    from research.simulation.live_loop import LiveLoop

    kinds = [kind for kind in RegionKind if any(kind in labeled.known for labeled in groups)]
    with training_bar("Importing groups") as show:
        loop = LiveLoop(
            client,
            files,
            SimulatedProject(project, open_config(kinds)),
            on_training=lambda what, share: show(what, round(100 * share), 100),
            settle_s=settle_s,
        )
        loop.import_tasks(groups, on_task=lambda n: show("Importing groups", n, len(groups)))
        return run(loop, on_group=show)


def read_points(text: str) -> tuple[int, ...]:
    """Reads `0,1,2,5`.

    Raises:
        InvalidConfigError: the text is not a list of rising numbers.
    """
    try:
        points = tuple(int(number) for number in text.split(","))
    except ValueError:
        points = ()
    if not points or points[0] < 0 or list(points) != sorted(set(points)):
        raise InvalidConfigError(
            f"--corrections: expected rising numbers such as 0,1,2,5, got {text!r}"
        )
    return points


def _domain(
    given: Sequence[LabeledGroup] | None, split: SceneSplit, groups: int, seed: int
) -> Sequence[LabeledGroup]:
    """Groups to learn from: drawn ones, or the first ones of a data set."""
    if given is None:
        return DrawnGroups(split, groups, seed, _PAIRS)
    first = list(islice(given, groups))
    if len(first) < groups:
        raise InvalidConfigError(
            f"--dataset: it holds {len(first)} groups, but --corrections and --next ask "
            f"for {groups}"
        )
    return first


def base_groups(
    base: Path | None, *, replay: int, measured: int
) -> tuple[Sequence[LabeledGroup], Sequence[LabeledGroup]]:
    """Returns groups to rehearse, and other groups to measure forgetting on.

    Args:
        base: a data set; None draws groups.
        replay: number of groups to rehearse.
        measured: upper limit of the groups to measure on.

    Raises:
        InvalidConfigError: the data set is too small.
    """
    if base is None:
        drawn = DrawnGroups(SceneSplit.SEEN, measured, _BASE_SEED, _PAIRS)
        return DrawnGroups(SceneSplit.SEEN, replay, _REPLAY_SEED, _PAIRS), drawn
    # The trainer chooses the groups it rehearses itself: none of them may be measured on.
    used = max(replay, BASE_GROUPS)
    groups = list(islice(open_groups(base), used + measured))
    if len(groups) <= used:
        raise InvalidConfigError(f"--base: expected more than {used} groups, got {len(groups)}")
    return groups[:replay], groups[used:]


def _table(outcome: Simulation) -> Table:
    table = Table(title="Next groups and old drawings, by number of corrected groups")
    for name in (
        "corrected",
        "mIoU",
        "Recall",
        "mIoU, old drawings",
        "Recall, old drawings",
        "update s",
    ):
        table.add_column(name, justify="right")
    table.add_column("clicks saved", justify="right")
    for point in outcome.points:
        table.add_row(
            str(point.corrections),
            *(f"{v:.1f}" for v in (point.miou, point.recall, point.old_miou, point.old_recall)),
            f"{point.update_s:.0f}",
            f"{point.clicks_saved:.0f} %",
        )
    return table
