"""The 7B itself, planned from headers of its true sizes; not one weight exists."""

from __future__ import annotations

import json
import math
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from calico_model.loading.memory_plan import parameter_table
from calico_model.loading.released.offers import recipe_shape
from calico_model.loading.released.plan import LoadingPlan, make_plan, part_of
from calico_model.modeling.adapter import trainable_count
from calico_model.presets import full
from tests.unit.loading.released import writers
from tests.unit.loading.released.conftest import merge, reference_parts
from tests.unit.loading.released.writers import State


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> LoadingPlan:
    folder = tmp_path_factory.mktemp("sparse") / "CALICO"
    writers.write_llama_tokenizer(folder, tags=True)
    with torch.device("meta"):
        state = merge(full(), reference_parts(full(), folder)).state
    _write_sparse(state, folder / "model.safetensors")
    return make_plan(folder, full())


def _write_sparse(state: State, path: Path) -> None:
    """A safetensors file in bfloat16 with its header and a hole for each tensor."""
    header: dict[str, object] = {}
    end = 0
    for name, tensor in state.items():
        start, end = end, end + 2 * tensor.numel()
        header[name] = {
            "dtype": "BF16",
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    raw = json.dumps(header).encode()
    path.write_bytes(len(raw).to_bytes(8, "little") + raw)
    os.truncate(path, 8 + len(raw) + end)


def test_the_weights_alone_give_the_7b_preset(plan: LoadingPlan) -> None:
    assert plan.config == replace(full(), cem_norms=False)
    assert plan.report.untrained == ("lora",)


def test_the_plan_has_the_published_parameters(plan: LoadingPlan) -> None:
    """Counts of the released tensors beside the table; LoRA is ours to add."""
    counts: dict[str, int] = {}
    for name, recipe in plan.recipes.items():
        part = part_of(name)
        counts[part] = counts.get(part, 0) + math.prod(recipe_shape(name, recipe))
    million = {part: round(count / 1e6, 1) for part, count in counts.items()}
    assert million["language"] == 6738.5
    assert million["eva"] == 986.0
    assert million["qformer"] == 105.1
    assert million["sam_encoder"] == 637.0
    assert million["dino"] == 86.6
    assert million["segmentation_projection"] == 17.8
    assert counts["cem"] == 6_133_248
    assert counts["cams"] == 12_592_640
    assert counts["query_tokens"] == 24_576
    total = sum(counts.values()) + 4_194_304
    assert round(total / 1e6) == 8601


def test_the_table_differs_from_the_published_figures_by_rounding_only() -> None:
    for row in parameter_table(full()):
        assert row.published is not None
        digits = len(str(row.published).partition(".")[2])
        assert round(row.parameters / 1e6, digits) == row.published, row.part
    total = sum(row.parameters for row in parameter_table(full()))
    assert round(100 * trainable_count(full()) / total, 1) == 0.3
