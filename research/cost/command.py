"""`calico flops`: counts the FLOPs of answering the questions about a group, part by part."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from backend.cli.progress import progress_bar
from backend.cli.tables import print_fitted
from calico_model.errors import InvalidConfigError
from calico_model.staging import replace_text, staged_file
from calico_model.types import MAX_GROUP_SIZE

if TYPE_CHECKING:
    from research.cost.pipelines import GroupCosts


class NetworkSize(StrEnum):
    """A preset of the network."""

    TINY = "tiny"
    FULL = "7b"


def flops(
    preset: Annotated[
        NetworkSize, typer.Option("--preset", help="Which network.")
    ] = NetworkSize.FULL,
    images: Annotated[
        str, typer.Option("--images", help="Group sizes, 1 to 8.", metavar="N[..M]")
    ] = "2..8",
    tokens: Annotated[
        int | None,
        typer.Option("--tokens", min=1, help="Length of each answer; typical ones if not given."),
    ] = None,
    only_json: Annotated[
        bool, typer.Option("--json", help="Print only the last line, without tables.")
    ] = False,
    plot: Annotated[
        Path | None, typer.Option("--plot", help="Write a picture, .svg or .png.", metavar="FILE")
    ] = None,
    markdown: Annotated[
        Path | None, typer.Option("--markdown", help="Write a page.", metavar="FILE")
    ] = None,
) -> None:
    """Count what three questions about a group cost, without weights and without a GPU.

    The real modules run on torch's meta device under its FLOP counter. --markdown writes a page
    that says what is counted, what is not, and every assumption. Three ways are compared:

    - ours: images are encoded once, and common beginnings of the prompts are computed once.
    - three separate runs of the same network, as in the paper.
    - GLaMM's way: three runs of its encoders, 576 rows per image, the same LLM.

    This command makes the page of the documentation again:
    calico flops --preset 7b --images 2..8 --markdown docs/cost.md --plot docs/cost.svg

    The last line of the output is JSON, for the pair if it is among the sizes: TFLOPs of three
    questions; ratio = ours / separate; vs_glamm and single_vs_glamm (one question like for like)
    in percent. With several sizes, per_images lists all of them.
    """
    sizes = read_sizes(images)
    for file, suffixes in ((plot, (".svg", ".png")), (markdown, (".md",))):
        _check_file(file, suffixes)
    with progress_bar("Counting", 1 + len(sizes)) as advance_to:
        # torch takes seconds to import: `--help` and a wrong argument must not wait for it.
        from research.cost import report
        from research.cost.pipelines import CostModel
        from research.cost.workload import counted_preset, typical_workload

        model = CostModel(*counted_preset(preset.value))
        comparisons = []
        for done, size in enumerate(sizes, start=1):
            advance_to(done)
            workload = typical_workload(model.config, size, model.tokenizer, tokens)
            comparisons.append(model.compare(workload))
        text = None
        if markdown is not None:
            chart = None if plot is None else os.path.relpath(plot, markdown.parent)
            command = f"calico flops --preset {preset} --images {images}"
            command += f" --tokens {tokens}" if tokens else ""
            text = report.markdown(model, comparisons, command=command, chart=chart)
    if plot is not None:
        with staged_file(plot) as staged:
            report.cost_chart(comparisons, staged, title=f"{model.config.name}: counted cost")
    if markdown is not None and text is not None:
        replace_text(markdown, text)
    shown = report.headline(comparisons)
    if not only_json:
        _show(comparisons, report.component_rows(shown), shown.workload.images)
    outcome = report.figures(shown)
    if len(comparisons) > 1:
        outcome["per_images"] = [report.figures(comparison) for comparison in comparisons]
    typer.echo(json.dumps(outcome))


def read_sizes(text: str) -> tuple[int, ...]:
    """Reads group sizes: "2", "2..8" or "2-8".

    Raises:
        InvalidConfigError: anything else, or a size out of bounds.
    """
    match = re.fullmatch(r"(\d)(?:(?:\.\.|-)(\d))?", text)
    first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not 1 <= first <= last <= MAX_GROUP_SIZE:
        raise InvalidConfigError(
            f"--images: expected N or N..M from 1 to {MAX_GROUP_SIZE}, got {text!r}"
        )
    return tuple(range(first, last + 1))


def _check_file(file: Path | None, suffixes: tuple[str, ...]) -> None:
    if file is None:
        return
    if file.suffix not in suffixes:
        raise InvalidConfigError(f"{file}: expected a name ending in {' or '.join(suffixes)}")
    if not file.absolute().parent.is_dir():
        raise InvalidConfigError(f"{file}: its folder does not exist")


def _show(comparisons: Sequence[GroupCosts], parts: Sequence[tuple[str, ...]], images: int) -> None:
    table = Table(title=f"Three questions, {images} images, TFLOPs by part")
    for name in ("part", "GLaMM's way", "three runs", "ours"):
        table.add_column(name, justify="left" if name == "part" else "right")
    for row in parts:
        table.add_row(*row, end_section=row is parts[-2])
    print_fitted(table)
    sizes = Table(title="By group size, TFLOPs")
    for name in (
        "images",
        "GLaMM's way",
        "three runs",
        "ours",
        "ratio",
        "vs GLaMM",
        "one question",
    ):
        sizes.add_column(name, justify="right")
    for costs in comparisons:
        totals = (costs.glamm_style.total, costs.separate.total, costs.ours.total)
        sizes.add_row(
            str(costs.workload.images),
            *(f"{total / 1e12:.4g}" for total in totals),
            f"{costs.ratio:.1%}",
            f"{costs.vs_glamm:.1f} %",
            f"{costs.single_vs_glamm:.1f} %",
        )
    print_fitted(
        sizes,
        "One question: one CALICO run against one GLaMM run. A multiply-add counts as two "
        "operations. --markdown FILE writes a page that says what is counted.",
    )
