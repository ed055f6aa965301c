"""Where the time of three questions goes: `python tests/bench/bench_full_size.py --preset 7b`.

Regime: one process, random weights, features not cached, eager PyTorch, one group at a time;
answers of a typical length in tokens, whatever the weights say, in the batch all as long as the
longest. Medians of repeated runs after one warm-up, the device synchronised around each. Decoding
reads all weights of the LLM once a step, so its floor is their bytes over the memory bandwidth,
which is measured here by copying. Shared and separate prompts are compared within the run. On a
CPU: `--preset tiny --dtype float32`. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from transformers import DynamicCache

from backend.cli.progress import peak_rss_mib
from calico_model.data.collate import Turn, collate_prompts
from calico_model.modeling.features import ImageFeatures, Pixels
from calico_model.modeling.language import Conversations, decode_greedily, packed
from calico_model.modeling.model import Calico
from research.cost.workload import Workload, counted_preset, typical_workload

_NEVER = -1
_COPY_BYTES = {"cuda": 4 * 2**30, "cpu": 2**27}


@dataclass(frozen=True)
class Prompted:
    state: Tensor
    is_token: Tensor
    cache: DynamicCache


class Bench:
    def __init__(self, given: argparse.Namespace) -> None:
        config, self.tokenizer = counted_preset(given.preset)
        self.device, self.repeats = torch.device(given.device), given.repeats
        self.dtype: torch.dtype = getattr(torch, given.dtype)
        self.workload: Workload = typical_workload(
            config, given.images, self.tokenizer, given.tokens
        )
        # An answer ends at its typical length, not where random weights say so.
        self.config = replace(config, max_answer_tokens=max(self.workload.answer_tokens))
        self.model = self._build()
        self.together = self.conversations(range(len(self.workload.prompts)))

    def _build(self) -> Calico:
        torch.manual_seed(0)
        before = torch.get_default_dtype()
        torch.set_default_dtype(self.dtype)
        try:
            with self.device:
                model = Calico(self.config)
        finally:
            torch.set_default_dtype(before)
        model.mask_decoder.float()
        return model.eval().requires_grad_(False)

    def conversations(self, prompts: Sequence[int]) -> Conversations:
        everything = tuple(range(self.workload.images))
        turns = [Turn(self.workload.prompts[k], "", everything) for k in prompts]
        queries = self.config.qformer.queries
        return collate_prompts(turns, self.tokenizer, queries).to(self.device)

    # --- stages -----------------------------------------------------------------------------

    def encode(self) -> ImageFeatures:
        config, count = self.config, self.workload.images
        square, eva, dino = (
            torch.randn(count, 3, side, side, device=self.device, dtype=self.dtype)
            for side in (config.image_size, config.eva.input_size, config.dino.input_size)
        )
        pixels = Pixels(square, eva, dino) if config.trunk is None else Pixels(square)
        return self.model.encode(pixels)

    def prefill(self, features: ImageFeatures, layout: Conversations) -> Prompted:
        cache = DynamicCache()
        hidden = self.model.prefill(
            self.model.embed(layout, self.model.image_rows(features)),
            layout,
            self.model.correspondence(features),
            (packed(layout, own_images=False), packed(layout, own_images=True)),
            cache,
        )
        return Prompted(hidden[:, -1], layout.is_token, cache)

    def decode(self, prompted: Prompted, tokens: int) -> None:
        bias = torch.zeros(self.config.language.vocab_size, device=self.device)
        decode_greedily(
            self.model.language,
            prompted.state,
            prompted.is_token,
            prompted.cache,
            bias=bias,
            seg=_NEVER,
            end=_NEVER,
            limit=tokens,
        )

    def masks(self, features: ImageFeatures) -> None:
        count, width = self.workload.masks, self.config.language.width
        states = torch.randn(count, width, device=self.device, dtype=self.dtype)
        image = torch.arange(count, device=self.device) % self.workload.images
        self.model.segment(features, states, image)

    def three_at_once(self) -> None:
        features = self.encode()
        self.decode(self.prefill(features, self.together), self.config.max_answer_tokens)
        self.masks(features)

    def three_runs(self) -> None:
        for question, tokens in enumerate(self.workload.answer_tokens):
            features = self.encode()
            self.decode(self.prefill(features, self.conversations([question])), tokens)
        self.masks(features)

    # --- measuring --------------------------------------------------------------------------

    def seconds(self, work: Callable[..., object], prepare: Callable[[], tuple] = tuple) -> float:
        times: list[float] = []
        for _ in range(1 + self.repeats):
            given = prepare()
            self._wait()
            began = time.perf_counter()
            work(*given)
            self._wait()
            times.append(time.perf_counter() - began)
        return statistics.median(times[1:])

    def bandwidth(self) -> float:
        """Bytes a second, read and written, of a copy within the device's memory."""
        source = torch.ones(_COPY_BYTES[self.device.type], dtype=torch.uint8, device=self.device)
        target = torch.empty_like(source)
        return 2 * source.numel() / self.seconds(lambda: target.copy_(source))

    def step_bytes(self) -> int:
        language = self.model.language
        parts = (*language.model.layers.parameters(), *language.lm_head.parameters())
        return sum(p.numel() * p.element_size() for p in parts)

    def peak_mib(self) -> float:
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) / 2**20
        return peak_rss_mib()

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


@torch.inference_mode()
def measure(bench: Bench) -> dict[str, object]:
    features = bench.encode()
    alone = [bench.conversations([k]) for k in range(len(bench.workload.prompts))]
    tokens = bench.config.max_answer_tokens

    def one_by_one() -> None:
        for layout in alone:
            bench.prefill(features, layout)

    def decode(rows: Conversations) -> float:
        return bench.seconds(
            lambda prompted: bench.decode(prompted, tokens),
            lambda: (bench.prefill(features, rows),),
        )

    stages = {
        "encode": bench.seconds(bench.encode),
        "prefill_three_shared": bench.seconds(lambda: bench.prefill(features, bench.together)),
        "prefill_three_separate": bench.seconds(one_by_one),
        "decode_three": decode(bench.together),
        "decode_one": decode(alone[0]),
        "masks": bench.seconds(lambda: bench.masks(features)),
        "three_at_once": bench.seconds(bench.three_at_once),
        "three_runs": bench.seconds(bench.three_runs),
    }
    bandwidth = bench.bandwidth()
    floor = bandwidth / bench.step_bytes()
    return {
        "model": bench.config.name,
        "device": _name(bench.device),
        "dtype": str(bench.dtype).removeprefix("torch."),
        "images": bench.workload.images,
        "answer_tokens": tokens,
        "masks": bench.workload.masks,
        "ms": {stage: round(1e3 * seconds, 2) for stage, seconds in stages.items()},
        "ratio": round(stages["three_at_once"] / stages["three_runs"], 4),
        "tokens_per_s_three": round(3 * tokens / stages["decode_three"], 1),
        "tokens_per_s_one": round(tokens / stages["decode_one"], 1),
        "bandwidth_gb_s": round(bandwidth / 1e9, 1),
        "floor_tokens_per_s_one": round(floor, 1),
        "share_of_floor_one": round(tokens / stages["decode_one"] / floor, 4),
        "peak_mib": round(bench.peak_mib(), 1),
    }


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--preset", choices=("tiny", "7b"), default="7b")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--images", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--tokens", type=int, help="of each answer; typical ones if not given")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    report = measure(Bench(parser.parse_args(arguments)))
    print(f"{report['model']} on {report['device']}, {report['images']} images")
    for stage, milliseconds in report["ms"].items():
        print(f"{stage:>24} {milliseconds:>10.2f} ms")
    for name in ("ratio", "tokens_per_s_one", "tokens_per_s_three", "floor_tokens_per_s_one"):
        print(f"{name:>24} {report[name]:>10}")
    print(json.dumps(report))


if __name__ == "__main__":
    main()
