"""Memory while a release is loaded: `python -m tests.bench.bench_release_loading`.

Regime: one process; memory that no file backs, read after every tensor placed. What is expected is
the placed model and one tensor, for safetensors and for pickles.
The last line is one JSON document.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from safetensors.torch import save_file
from torch import Tensor

from calico_model.loading.placement import Placement, put
from calico_model.loading.precision import Precision
from calico_model.loading.released.assembly import load_released
from calico_model.modeling.model import Calico
from tests.unit.loading.released import writers
from tests.unit.loading.released.conftest import merge, reference_parts


def _measure(folder: Path, suffix: str) -> dict[str, float]:
    torch.manual_seed(0)
    base = writers.base_config()
    base = replace(base, language=replace(base.language, width=1024, heads=64, mlp=2816))
    writers.write_llama_tokenizer(folder, tags=True)
    state = merge(base, reference_parts(base, folder)).state
    state = {k: v.clone() for k, v in state.items()}
    largest = max(v.numel() * v.element_size() for v in state.values())
    if suffix == ".pth":
        torch.save(state, folder / f"calico{suffix}")
    else:
        save_file(state, folder / f"model{suffix}")
    del state
    before, peak = _own_bytes(), 0

    def watch(model: Calico, name: str, tensor: Tensor, placement: Placement) -> None:
        nonlocal peak
        put(model, name, tensor, placement)
        peak = max(peak, _own_bytes())

    placement = Placement(Precision.BF16)
    model = load_released(folder, base=base, placement=placement, put=watch).model
    placed = sum(t.numel() * t.element_size() for t in model.state_dict().values())
    return {
        "model_mib": round(placed / 2**20, 1),
        "largest_tensor_mib": round(largest / 2**20, 1),
        "extra_at_peak_mib": round((peak - before - placed) / 2**20, 1),
    }


def _own_bytes() -> int:
    """Memory of this process that no file backs."""
    status = Path("/proc/self/status").read_text("utf-8")
    match = re.search(r"RssAnon:\s+(\d+) kB", status)
    assert match is not None
    return 1024 * int(match[1])


def main() -> None:
    """Measures a release of 200 MB on disk, placed in bfloat16."""
    found = {}
    for suffix in (".safetensors", ".pth"):
        with TemporaryDirectory() as folder:
            found[suffix] = _measure(Path(folder), suffix)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
