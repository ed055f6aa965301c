"""`calico bench codec`: compares our brush codec with label_studio_sdk's, in time and bytes.

Both run on the same masks on this machine; the best of several calls counts. The SDK runs in its
own environment. Ratios are the lowest over the kinds of masks: parts with a smooth outline resemble
predictions, parts with a ragged outline resemble noise and human strokes.
"""

from __future__ import annotations

import json
import math
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
import typer
from numpy.typing import NDArray
from rich.table import Table

from backend.cli.label_studio_process import installed_label_studio
from backend.cli.tables import print_fitted
from backend.errors import SettingsError
from backend.label_studio.brush import decode_mask, encode_mask
from calico_model.types import BoolMask

SIDES = (512, 1024, 2048, 4096)
_SDK_SCRIPT = Path(__file__).with_name("sdk_codec.py")
_REPEATS = 7
_SDK_REPEATS = 3
_T = TypeVar("_T")


@dataclass(frozen=True)
class CodecTiming:
    """One mask in both codecs: seconds of ours and of the SDK, and whether the bytes agree."""

    rle_bytes: int
    encode_s: float
    decode_s: float
    sdk_encode_s: float
    sdk_decode_s: float
    is_identical: bool

    @property
    def encode_ratio(self) -> float:
        """Seconds of the SDK's encoder divided by seconds of ours."""
        return self.sdk_encode_s / self.encode_s

    @property
    def decode_ratio(self) -> float:
        """Seconds of the SDK's decoder divided by seconds of ours."""
        return self.sdk_decode_s / self.decode_s


def bench_codec(
    sdk_python: Annotated[
        Path | None,
        typer.Option(help="Python with label_studio_sdk; Label Studio's own if unset."),
    ] = None,
    random_masks: Annotated[
        int, typer.Option(min=0, help="Number of random masks to compare.")
    ] = 2_000,
    sides: Annotated[str, typer.Option(help="Sides of the masks in pixels.")] = ",".join(
        map(str, SIDES)
    ),
    seed: Annotated[int, typer.Option(help="Seed of the masks.")] = 0,
) -> None:
    """Time the brush codec against label_studio_sdk, and compare their bytes.

    Example: calico bench codec

    The last line is JSON.
    """
    python = sdk_python or installed_label_studio() / "bin" / "python"
    rng = np.random.default_rng(seed)
    timed = {
        f"{side} {kind}": draw(rng, side)
        for side in map(int, sides.split(","))
        for kind, draw in (("part", draw_part), ("ragged", draw_ragged))
    }
    results = compare(timed, python, repeats=_REPEATS, sdk_repeats=_SDK_REPEATS)
    drawn = {str(i): mask for i, mask in enumerate(draw_random(rng, random_masks))}
    compared = compare(drawn, python, repeats=1, sdk_repeats=1)
    agreed = [timing.is_identical for timing in compared.values()]
    _print_table(results)
    report: dict[str, object] = {}
    for side in dict.fromkeys(name.split()[0] for name in results):
        timings = [timing for name, timing in results.items() if name.split()[0] == side]
        report[side] = {
            "encode_ratio": round(min(timing.encode_ratio for timing in timings), 1),
            "decode_ratio": round(min(timing.decode_ratio for timing in timings), 1),
            "identical": all(timing.is_identical for timing in timings),
        }
    report["random"] = {"masks": len(agreed), "identical": sum(agreed)}
    typer.echo(json.dumps(report))
    if not all(agreed) or not all(timing.is_identical for timing in results.values()):
        raise typer.Exit(1)


def compare(
    masks: dict[str, BoolMask], python: Path, *, repeats: int, sdk_repeats: int
) -> dict[str, CodecTiming]:
    """Runs both codecs over named masks.

    Raises:
        SettingsError: the given python cannot run the SDK.
    """
    with tempfile.TemporaryDirectory() as folder:
        sdk = _run_sdk(masks, python, Path(folder), sdk_repeats)
    results = {}
    for name, mask in masks.items():
        sdk_rle = sdk[f"{name}.rle"]
        height, width = mask.shape
        encode_s, rle = _best_of(partial(encode_mask, mask), repeats)
        decode = partial(decode_mask, sdk_rle.tolist(), size_hw=(height, width))
        decode_s, decoded = _best_of(decode, repeats)
        sdk_encode_s, sdk_decode_s = sdk[f"{name}.seconds"].tolist()
        results[name] = CodecTiming(
            rle_bytes=len(rle),
            encode_s=encode_s,
            decode_s=decode_s,
            sdk_encode_s=sdk_encode_s,
            sdk_decode_s=sdk_decode_s,
            is_identical=bytes(rle) == sdk_rle.tobytes()
            and np.array_equal(np.packbits(decoded), sdk[f"{name}.alpha"])
            and np.array_equal(decoded, mask),
        )
    return results


def draw_part(rng: np.random.Generator, side: int) -> BoolMask:
    """Returns a (side, side) bool mask of one part: a wavy outline around the middle."""
    y, x = np.mgrid[:side, :side] / side - 0.5
    angle, radius = np.arctan2(y, x), np.hypot(x, y)
    waves = (rng.uniform(0, 0.3 / n) * np.cos(n * angle + rng.uniform(0, 6)) for n in range(2, 9))
    outline = rng.uniform(0.2, 0.35) * (1 + sum(waves))
    mask: BoolMask = radius < outline
    return mask


def draw_ragged(rng: np.random.Generator, side: int) -> BoolMask:
    """Returns a (side, side) bool mask of a part whose outline is torn by coarse noise."""
    y, x = np.mgrid[:side, :side] / side - 0.5
    cell = max(side // 128, 1)
    noise = rng.random((math.ceil(side / cell),) * 2).repeat(cell, 0).repeat(cell, 1)[:side, :side]
    mask: BoolMask = np.hypot(x, y) < 0.2 + 0.2 * noise
    return mask


def draw_random(rng: np.random.Generator, count: int) -> Iterator[BoolMask]:
    """Yields masks of many kinds and shapes: noise, parts, stripes, one pixel, empty, full."""
    kinds: tuple[Callable[[int, int], NDArray[np.bool_]], ...] = (
        lambda h, w: rng.random((h, w)) < rng.random(),
        lambda h, w: draw_part(rng, max(h, w))[:h, :w],
        lambda h, w: draw_ragged(rng, max(h, w))[:h, :w],
        lambda h, w: np.arange(h * w).reshape(h, w) // rng.integers(1, 400) % 2 == 0,
        lambda h, w: np.arange(h * w).reshape(h, w) == rng.integers(0, h * w),
        lambda h, w: np.zeros((h, w), dtype=np.bool_),
        lambda h, w: np.ones((h, w), dtype=np.bool_),
    )
    for index in range(count):
        # Every eighth is large enough for runs beyond 65,536 values.
        most = 400 if index % 8 == 0 else 48
        height, width = (int(side) for side in rng.integers(1, most, 2))
        yield kinds[index % len(kinds)](height, width)


def _run_sdk(
    masks: dict[str, BoolMask], python: Path, folder: Path, repeats: int
) -> dict[str, NDArray[Any]]:
    arrays: dict[str, Any] = {name: mask.astype(np.uint8) * 255 for name, mask in masks.items()}
    np.savez(folder / "masks.npz", **arrays)
    command = [str(python), str(_SDK_SCRIPT), str(folder), str(repeats)]
    try:
        run = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise SettingsError(f"--sdk-python: {python} cannot be run ({error})") from error
    if run.returncode != 0:
        last = run.stderr.strip().splitlines()[-1:] or ["no message"]
        raise SettingsError(f"--sdk-python: {python} cannot run label_studio_sdk: {last[0]}")
    with np.load(folder / "sdk.npz") as answers:
        return {name: answers[name] for name in answers.files}


def _best_of(call: Callable[[], _T], repeats: int) -> tuple[float, _T]:
    best = math.inf
    for _ in range(repeats):
        began = time.perf_counter()
        value = call()
        best = min(best, time.perf_counter() - began)
    return best, value


def _print_table(results: dict[str, CodecTiming]) -> None:
    table = Table(
        "mask", "RLE bytes", "encode ms", "SDK ms", "x", "decode ms", "SDK ms", "x", "same"
    )
    for name, timing in results.items():
        table.add_row(
            name,
            str(timing.rle_bytes),
            f"{timing.encode_s * 1e3:.2f}",
            f"{timing.sdk_encode_s * 1e3:.1f}",
            f"{timing.encode_ratio:.1f}",
            f"{timing.decode_s * 1e3:.2f}",
            f"{timing.sdk_decode_s * 1e3:.1f}",
            f"{timing.decode_ratio:.1f}",
            "yes" if timing.is_identical else "NO",
        )
    print_fitted(table)
