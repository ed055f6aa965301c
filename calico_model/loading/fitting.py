"""Which precision and placement of a model fit a device, decided before anything is loaded.

Tried from the best to the smallest: whole groups or one image at a time, then fewer bits, then
encoders on the CPU. What does not fit is refused with the figures.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import torch

from calico_model.config import CalicoConfig
from calico_model.errors import CheckpointError, InsufficientMemoryError
from calico_model.loading.checkpoints import CONFIG, is_released
from calico_model.loading.memory_plan import FEATURE_CACHE_BYTES, MemoryPlan, plan_inference
from calico_model.loading.placement import Placement
from calico_model.loading.precision import Precision
from calico_model.loading.released.plan import make_plan
from calico_model.presets import full
from calico_model.types import MAX_GROUP_SIZE

_GIB = 2**30
# A card named "24 GB" shows 22.5 to 24 GiB; a CUDA context and libraries take about half a GiB.
_CARD_SHARE, _CONTEXT_BYTES = 0.93, _GIB // 2
_FREE_SHARE = 0.95  # what fragmentation leaves of measured free memory
_SMALL_SHARE = 0.02  # weights below this part of the memory fit in any case


def card_bytes(gigabytes: float) -> int:
    """What tensors can use of a GPU sold with this much memory."""
    return max(0, int(gigabytes * _CARD_SHARE * _GIB) - _CONTEXT_BYTES)


def usable_bytes(device: str) -> int:
    """What tensors can use of this machine's CPU memory or of one of its GPUs, right now."""
    if torch.device(device).type == "cuda":
        free, _ = torch.cuda.mem_get_info(torch.device(device))
        return int(free * _FREE_SHARE)
    return int(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * _FREE_SHARE)


def plan_folder(
    folder: Path,
    device: str,
    *,
    precision: Precision | None = None,
    images: int = MAX_GROUP_SIZE,
    cache_bytes: int = FEATURE_CACHE_BYTES,
) -> MemoryPlan | None:
    """Plans a model folder on a device of this machine; reads no weights.

    Args:
        folder: a model folder or released checkpoints.
        device: cpu, cuda or cuda:N.
        precision: the only one to consider; None considers all the device is good at.
        images: of the largest group.
        cache_bytes: of the features of images kept on the device.

    Returns:
        The plan; None for a model so small that there is nothing to plan.

    Raises:
        CheckpointError, InvalidConfigError: no usable folder.
        InsufficientMemoryError: it does not fit.
    """
    # Plans count the usual cache.
    available = usable_bytes(device) - (cache_bytes - FEATURE_CACHE_BYTES)
    if _weights_on_disk(folder) < _SMALL_SHARE * available:
        return None
    config = folder_config(folder)
    return choose_placement(config, device, available, precision=precision, images=images)


def folder_config(folder: Path) -> CalicoConfig:
    """The configuration of a model folder, or of released checkpoints by their shapes.

    Raises:
        CheckpointError, InvalidConfigError: no usable folder.
    """
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: expected a model folder")
    if is_released(folder):
        return make_plan(folder, full()).config
    return CalicoConfig.from_file(folder / CONFIG)


def usual_placement(device: str, precision: Precision | None) -> Placement:
    """Where a model goes that fits in any case: bfloat16 on a GPU, float32 on a CPU."""
    is_gpu = torch.device(device).type == "cuda"
    return Placement(precision or (Precision.BF16 if is_gpu else Precision.FP32), device)


def _weights_on_disk(folder: Path) -> int:
    kinds = (".safetensors", ".bin", ".pth")
    return sum(file.stat().st_size for file in folder.rglob("*") if file.suffix in kinds)


def choose_placement(
    config: CalicoConfig,
    device: str,
    available: int,
    *,
    precision: Precision | None = None,
    images: int = MAX_GROUP_SIZE,
) -> MemoryPlan:
    """Chooses the first placement whose peak fits.

    Args:
        config: any size.
        device: cpu, cuda or cuda:N.
        available: bytes that tensors may use there.
        precision: the only one to consider; None considers all the device is good at.
        images: of the largest group.

    Returns:
        The plan of the chosen placement.

    Raises:
        InsufficientMemoryError: nothing fits; says what is missing and what would help.
    """
    plan = None
    for placement in _candidates(device, precision, images):
        plan = plan_inference(config, placement, images)
        if plan.peak_bytes(device) <= available:
            return plan
    assert plan is not None
    raise InsufficientMemoryError(_refusal(config, plan, available))


def _candidates(device: str, precision: Precision | None, images: int) -> Iterator[Placement]:
    is_gpu = torch.device(device).type == "cuda"
    usual = (Precision.BF16, Precision.INT8, Precision.NF4)
    if not is_gpu:  # 4 bits are slow there, and float32 is what every CPU is fast at
        usual = (Precision.FP32, Precision.BF16, Precision.INT8)
    considered = usual if precision is None else (precision,)
    for each in considered:
        yield Placement(each, device, images_at_once=images)
        yield Placement(each, device, images_at_once=1)
    if is_gpu:
        yield Placement(considered[-1], device, are_encoders_offloaded=True, images_at_once=1)


def _refusal(config: CalicoConfig, plan: MemoryPlan, available: int) -> str:
    placement, device = plan.placement, plan.placement.device
    weights = sum(part.nbytes for part in plan.parts if part.device == device)
    largest = max(
        (phase for phase in plan.phases if phase.device == device), key=lambda phase: phase.nbytes
    )
    where = " with its encoders on the CPU" if placement.are_encoders_offloaded else ""
    return (
        f"{config.name} in {placement.precision}{where} needs {plan.peak_bytes(device) / _GIB:.1f} "
        f"GiB of {device} for groups of {plan.images}, and {available / _GIB:.1f} GiB can be used: "
        f"weights {weights / _GIB:.1f}, {largest.name} {largest.nbytes / _GIB:.1f}. "
        + _advice(plan)
    )


def _advice(plan: MemoryPlan) -> str:
    if plan.placement.precision is not Precision.NF4 and plan.placement.device != "cpu":
        return "Try --precision nf4, or a GPU with more memory."
    return "Take a device with more memory, or a smaller model."
