"""The counted costs as a page of Markdown, as a picture and as numbers for machines.

The picture uses matplotlib's Figure directly, without pyplot: no window system and no global state.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from pathlib import Path

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from calico_model.config import CalicoConfig
from research.cost.glamm import TOKENS
from research.cost.pipelines import (
    DECODE,
    IMAGE_STAGES,
    MASKS,
    PREFILL,
    CostModel,
    GroupCosts,
    PipelineCost,
)
from research.cost.workload import Workload, typical_workload

PAPER_VS_GLAMM = -32.6
"""Percent, one question on a pair, as the paper states it (figure 2); no absolute number there."""
PAPER_TOKEN_RATIO = 18
_LONGEST_ANSWER = 4096
_ANSWER_LENGTHS = (32, 64, 128, 256, 512, 1024)
_CHART_PARTS = (
    ("SAM encoder", ("SAM encoder",), "#7f8c8d"),
    ("other encoders", tuple(set(IMAGE_STAGES) - {"SAM encoder"}), "#b9c3c9"),
    ("LLM prefill, CAMs", (PREFILL,), "#2f6fb4"),
    ("LLM decode", (DECODE,), "#9dc1e3"),
    ("mask decoder", (MASKS,), "#c0392b"),
)  # fmt: skip


def figures(comparison: GroupCosts) -> dict[str, object]:
    """JSON figures of one group size: TFLOPs for three questions, `vs_...` in percent."""
    return {
        "images": comparison.workload.images,
        "separate_runs_tflops": _tera(comparison.separate),
        "ours_tflops": _tera(comparison.ours),
        "ratio": round(comparison.ratio, 4),
        "glamm_style_tflops": _tera(comparison.glamm_style),
        "vs_glamm": round(comparison.vs_glamm, 1),
        "image_tokens": comparison.ours.image_tokens,
        "single_vs_glamm": round(comparison.single_vs_glamm, 1),
        "encode_once_ratio": round(comparison.encode_once_ratio, 4),
        "revisited_ratio": round(comparison.revisited_ratio, 4),
    }


def component_rows(comparison: GroupCosts) -> list[tuple[str, ...]]:
    """Rows of stage and TFLOPs in GLaMM's, the paper's and our pipeline; the last is the sum."""
    ways = (comparison.glamm_style, comparison.separate, comparison.ours)
    stages = dict.fromkeys(stage for way in reversed(ways) for stage in way.stages)
    rows = [(s, *(_shown(way.stages.get(s, 0)) for way in ways)) for s in stages]
    return [*rows, ("all", *(_shown(way.total) for way in ways))]


def answer_rows(model: CostModel, images: int) -> list[tuple[str, ...]]:
    """Rows of answer length in tokens, our ratio, and change from one GLaMM run."""
    rows: list[tuple[str, ...]] = []
    for length in _ANSWER_LENGTHS:
        costs = model.compare(typical_workload(model.config, images, model.tokenizer, length))
        rows.append((f"{length:,}", f"{costs.ratio:.1%}", f"{costs.single_vs_glamm:.1f} %"))
    return rows


def markdown(
    model: CostModel, comparisons: Sequence[GroupCosts], *, command: str, chart: str | None
) -> str:
    """Returns the page.

    Args:
        model: counts the cost of other answer lengths.
        comparisons: one per group size; the pair, or else the first, is shown part by part.
        command: command line that makes this page.
        chart: address of the picture, or None.
    """
    shown = headline(comparisons)
    parts = [
        f"# What three questions about a group cost: {model.config.name}",
        f"Counted, not timed, by `{command}`: the real modules run on torch's meta device under "
        "its FLOP counter. TFLOPs are 10^12 operations, two per multiply-add.",
        _summary(shown, model.config),
        *([f"![Cost by part and by group size]({chart})"] if chart else []),
        "## By group size",
        _table(
            ("images", "GLaMM's way", "three runs", "ours", "ours / three runs", "ours vs GLaMM",
             "one run vs one GLaMM run"),
            [_size_row(c) for c in comparisons],
        ),
        f"## By part, {shown.workload.images} images, TFLOPs",
        _table(("part", "GLaMM's way", "three runs", "ours"), component_rows(shown)),
        _rows_text(shown),
        "## What saves what",
        _savings(shown),
        "## What the answer's length changes",
        _table(("tokens per answer", "ours / three runs", "one run vs one GLaMM run"),
               answer_rows(model, shown.workload.images)),
        "## Beside the paper",
        _beside_the_paper(model, shown),
        "## How it is counted",
        _method(shown.workload, model.config),
    ]  # fmt: skip
    return "\n\n".join(parts) + "\n"


def headline(comparisons: Sequence[GroupCosts]) -> GroupCosts:
    """Costs of a pair if they are among `comparisons`, else the first."""
    return next((c for c in comparisons if c.workload.images == 2), comparisons[0])


def _summary(shown: GroupCosts, config: CalicoConfig) -> str:
    return (
        f"Three questions on {shown.workload.images} images cost {_shown(shown.ours.total)} "
        f"TFLOPs, {shown.ratio:.1%} of three separate runs ({_shown(shown.separate.total)}) and "
        f"{shown.vs_glamm:.1f} % against GLaMM's way ({_shown(shown.glamm_style.total)}). An "
        f"image is {config.qformer.queries} rows of the LLM; in GLaMM's way it is "
        f"{shown.glamm_style.image_tokens}."
    )


def _size_row(comparison: GroupCosts) -> tuple[str, ...]:
    return (
        str(comparison.workload.images),
        _shown(comparison.glamm_style.total),
        _shown(comparison.separate.total),
        _shown(comparison.ours.total),
        f"{comparison.ratio:.1%}",
        f"{comparison.vs_glamm:.1f} %",
        f"{comparison.single_vs_glamm:.1f} %",
    )


def _rows_text(shown: GroupCosts) -> str:
    ours, alone = shown.ours, shown.separate
    return (
        f"The three prompts hold {', '.join(map(str, ours.prompt_tokens))} positions, "
        f"{alone.first_rows} in all. Our layers below the first CAM compute {ours.first_rows} of "
        f"them: system prompt, image rows and wording once, then each question. From the first "
        f"CAM on, image rows depend on the question; what stands before the first image is still "
        f"computed once, which leaves {ours.last_rows}."
    )


def _savings(shown: GroupCosts) -> str:
    return "\n".join(
        (
            "- Three separate runs: 100 %.",
            f"- Images encoded once: {shown.encode_once_ratio:.1%}.",
            f"- Common beginnings of the prompts computed once, too: {shown.ratio:.1%}.",
            f"- The same images again, features cached: {shown.revisited_ratio:.1%}.",
        )
    )


def _beside_the_paper(model: CostModel, shown: GroupCosts) -> str:
    times = shown.glamm_style.image_tokens / shown.ours.image_tokens
    return (
        f"- Rows per image: {shown.glamm_style.image_tokens} / {shown.ours.image_tokens} = "
        f"{times:.0f}x; the paper says {PAPER_TOKEN_RATIO}x.\n"
        f"- One question, like for like: {shown.single_vs_glamm:.1f} % by this count; the paper "
        f"says {PAPER_VS_GLAMM} %. It gives neither absolute numbers nor what was run, so the two "
        "cannot be matched exactly. What shrinks is the prefill; what both models do alike (SAM, "
        "decoding) dilutes it. Of that, the answer's length alone would explain the difference "
        f"at {_answer_for_paper(model, shown.workload.images)} tokens per answer.\n"
        "- Encoding once comes on top: no figure of the paper contains it, since it compares "
        "single runs."
    )


def _answer_for_paper(model: CostModel, images: int) -> str:
    """Shortest answers with which one run saves no more against GLaMM than in the paper."""

    def gain(length: int) -> float:
        workload = typical_workload(model.config, images, model.tokenizer, length)
        return model.compare(workload).single_vs_glamm

    lengths = range(1, _LONGEST_ANSWER)
    index = bisect_left(lengths, PAPER_VS_GLAMM, key=gain)
    return f"{lengths[index]:,}" if index < len(lengths) else f"more than {_LONGEST_ANSWER:,}"


def _method(workload: Workload, config: CalicoConfig) -> str:
    answers = ", ".join(map(str, workload.answer_tokens))
    stand_in = (
        "CLIP-L/14 at 336 px with all 24 layers and a two-layer projector, SAM ViT-H, "
        f"{TOKENS} rows per image"
        if config.trunk is None
        else "a network of this size has no CLIP: its own trunk and global encoder stand in, with "
        f"{PAPER_TOKEN_RATIO} rows for each of CALICO's"
    )
    return "\n".join(
        (
            "- Counted: matrix products, convolutions and attention, in full squares (a causal "
            "mask halves nothing). LoRA is counted unmerged.",
            "- Not counted: norms, activations, softmax, rotary embeddings, additions, "
            "interpolation, look-ups; reading and resizing pictures; drawing masks at full size.",
            f"- Answers: one object in every image, three common parts, one unique part per image; "
            f"{answers} tokens and {workload.masks} masks, the same in all three ways.",
            "- All ways keep keys and values, run the output head on last positions only, and "
            "stop each answer at its end.",
            f"- GLaMM's way: {stand_in}; the same LLM, prompts, answers and mask decoder. Its "
            "released code decodes without a key-value cache; it is granted one here.",
            "- A FLOP is not a second: decoding is bound by memory bandwidth, so the prefill's "
            "saving shows in batches and on CPUs more than in the latency of one request.",
        )
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _tera(way: PipelineCost) -> float:
    return float(f"{way.total / 1e12:.5g}")


def _shown(flops: int) -> str:
    return f"{flops / 1e12:.4g}" if flops else "-"


def cost_chart(comparisons: Sequence[GroupCosts], path: Path, *, title: str) -> None:
    """Saves a picture, .svg or .png: the pair part by part, and all group sizes by pipeline."""
    figure = Figure(figsize=(12, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    _draw_parts(left, headline(comparisons))
    _draw_sizes(right, comparisons)
    figure.suptitle(title, x=0.01, ha="left")
    # Without these settings, every run writes a different file for the same numbers.
    metadata = {"Date": None} if path.suffix == ".svg" else None
    with rc_context({"svg.hashsalt": "calico"}):
        figure.savefig(path, dpi=120, metadata=metadata)


def _draw_parts(axes: Axes, shown: GroupCosts) -> None:
    pipelines = {
        "GLaMM's way,\nthree runs": shown.glamm_style,
        "CALICO,\nthree runs": shown.separate,
        "ours": shown.ours,
    }
    below = [0.0] * len(pipelines)
    for label, stages, colour in _CHART_PARTS:
        heights = [_stage_tera(way, stages) for way in pipelines.values()]
        axes.bar(list(pipelines), heights, 0.6, bottom=below, color=colour, label=label)
        below = [a + b for a, b in zip(below, heights, strict=True)]
    for place, height in enumerate(below):
        axes.text(place, height, f"{height:.3g}", ha="center", va="bottom")
    axes.set_title(f"three questions, {shown.workload.images} images", fontsize=10)
    axes.set_ylabel("TFLOPs")
    axes.legend(fontsize=8, frameon=False)


def _stage_tera(way: PipelineCost, stages: Sequence[str]) -> float:
    chosen = set(stages)
    if PREFILL in chosen:
        chosen |= {stage for stage in way.stages if stage.startswith("CAM ")}
    return sum(flops for stage, flops in way.stages.items() if stage in chosen) / 1e12


def _draw_sizes(axes: Axes, comparisons: Sequence[GroupCosts]) -> None:
    images = [c.workload.images for c in comparisons]
    for label, ways, colour in (
        ("GLaMM's way, three runs", [c.glamm_style for c in comparisons], "#7f8c8d"),
        ("CALICO, three runs", [c.separate for c in comparisons], "#9dc1e3"),
        ("ours", [c.ours for c in comparisons], "#2f6fb4"),
    ):
        axes.plot(images, [way.total / 1e12 for way in ways], "o-", color=colour, label=label)
    axes.set_title("by group size", fontsize=10)
    axes.set_xlabel("images")
    axes.set_xticks(images)
    axes.set_ylim(bottom=0)
    axes.grid(axis="y", alpha=0.3)
    axes.legend(fontsize=8, frameon=False)
