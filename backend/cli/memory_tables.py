"""Parameters and memory as tables, for people who are about to load a large model."""

from __future__ import annotations

from collections.abc import Iterator

from rich.table import Table

from backend.cli.tables import print_fitted
from calico_model.config import CalicoConfig
from calico_model.errors import InsufficientMemoryError
from calico_model.loading.fitting import card_bytes, choose_placement
from calico_model.loading.memory_plan import (
    MemoryPlan,
    parameter_table,
    plan_inference,
    plan_training,
)
from calico_model.loading.placement import Placement
from calico_model.loading.precision import Precision

_GIB, _MIB, _KIB = 2**30, 2**20, 2**10
_CARDS_GB = (12, 24, 80)


def show_plan(plan: MemoryPlan) -> None:
    """Prints what will be held where on stderr; stdout belongs to results."""
    print_fitted(plan_table(plan), to_stderr=True)


def parameter_rows(config: CalicoConfig) -> Table:
    """The network's parameters by part, beside those of the released parts."""
    rows = parameter_table(config)
    table = Table(title=f"{config.name}: parameters, in millions")
    for name in ("part", "here", "released", "difference"):
        table.add_column(name, justify="left" if name == "part" else "right")
    for row in rows:
        here = row.parameters / 1e6
        published = "" if row.published is None else f"{row.published:.2f}"
        difference = "" if row.published is None else f"{here - row.published:+.2f}"
        table.add_row(row.part, f"{here:.2f}", published, difference)
    total = sum(row.parameters for row in rows) / 1e6
    released = [row.published for row in rows if row.published is not None]
    known = len(released) == len(rows)
    table.add_row(
        "total",
        f"{total:.2f}",
        f"{sum(released):.2f}" if known else "",
        f"{total - sum(released):+.2f}" if known else "",
        style="bold",
    )
    if known:
        table.caption = "released figures are rounded, most to 0.1 million"
    return table


def plan_table(plan: MemoryPlan) -> Table:
    """One placement: weights by part, and what comes on top."""
    placement = plan.placement
    title = (
        f"{placement.precision} on {placement.device}, groups of {plan.images}, encoded "
        f"{min(plan.images, placement.images_at_once)} at once"
    )
    table = Table(title=title)
    for name in ("held", "in", "where", "GiB"):
        table.add_column(name, justify="right" if name == "GiB" else "left")
    for part in plan.parts:
        table.add_row(part.part, part.precision, part.device, f"{part.nbytes / _GIB:.2f}")
    table.add_row("weights", "", "", f"{plan.weight_bytes / _GIB:.1f}", style="bold")
    for item in plan.kept:
        table.add_row(item.name, "", item.device, f"{item.nbytes / _GIB:.2f}")
    for item in plan.phases:
        table.add_row(f"then: {item.name}", "", item.device, f"{item.nbytes / _GIB:.2f}")
    for device in dict.fromkeys(part.device for part in plan.parts):
        peak = plan.peak_bytes(device) / _GIB
        table.add_row(f"peak of {device}", "", device, f"{peak:.1f}", style="bold")
    table.caption = (
        f"kept per image: {plan.cache_bytes_per_image / _MIB:.2f} MiB of features\n"
        f"kept per token: {plan.kv_bytes_per_token / _KIB:.0f} KiB of keys and values"
    )
    return table


def precision_rows(config: CalicoConfig, images: int) -> Table:
    """What every precision takes on a GPU, to predict and to train."""
    table = Table(title=f"{config.name} on a GPU, in GiB")
    for name in ("precision", "weights", "predicting", "training", "QLoRA"):
        table.add_column(name, justify="left" if name == "precision" else "right")
    for precision in (Precision.BF16, Precision.INT8, Precision.NF4):
        plan = plan_inference(config, Placement(precision, "cuda", images_at_once=1), images)
        learning = plan_training(config, precision).peak_bytes("cuda") / _GIB
        table.add_row(
            precision,
            f"{plan.weight_bytes / _GIB:.1f}",
            f"{plan.peak_bytes('cuda') / _GIB:.1f}",
            f"{learning:.1f}" if precision is Precision.BF16 else "",
            f"{learning:.1f}" if precision.is_quantised else "",
        )
    table.caption = (
        f"predicting: groups of {images}, encoded one at a time; training: one pair a step, "
        "gradient checkpointing"
    )
    return table


def card_rows(config: CalicoConfig, images: int) -> Table:
    """Which placement common GPUs get."""
    table = Table("GPU", "placement", title="Chosen by size of the GPU")
    for size, words in _cards(config, images):
        table.add_row(f"{size} GB", words)
    return table


def _cards(config: CalicoConfig, images: int) -> Iterator[tuple[int, str]]:
    for size in _CARDS_GB:
        try:
            chosen = choose_placement(config, "cuda", card_bytes(size), images=images)
        except InsufficientMemoryError:
            yield size, "does not fit"
            continue
        placement, peak = chosen.placement, chosen.peak_bytes("cuda") / _GIB
        where = "encoders on the CPU" if placement.are_encoders_offloaded else "all on the GPU"
        together = min(images, placement.images_at_once)
        yield size, f"{placement.precision}, {where}, {together} images at once: {peak:.1f} GiB"
