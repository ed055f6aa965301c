"""How one training spreads over processes, and whole tensors out of what it spread."""

from __future__ import annotations

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, FullyShardedDataParallelPlugin
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from calico_model.training.supervised.recipe import Sharding

_LAYER = "LlamaDecoderLayer"


def build_accelerator(sharding: Sharding) -> Accelerator:
    """Joins the processes of this training, or stands for the only one.

    Precision is not accelerate's: the objective says where bfloat16 is used, because the mask
    decoder and the losses stay in float32.
    """
    plugin = None
    if sharding is not Sharding.DDP:
        plugin = FullyShardedDataParallelPlugin(
            fsdp_version=2,
            reshard_after_forward=sharding is Sharding.FSDP,
            auto_wrap_policy="transformer_based_wrap",
            transformer_cls_names_to_wrap=[_LAYER],
            cpu_ram_efficient_loading=False,
        )
    return Accelerator(
        cpu=not torch.cuda.is_available(),
        mixed_precision="no",
        fsdp_plugin=plugin,
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
    )


def whole(tensor: Tensor) -> Tensor:
    """Gathers a divided tensor on the CPU; every process must ask for it."""
    found = tensor.detach()
    if isinstance(found, DTensor):
        found = found.full_tensor()
    return found.cpu().clone()


@torch.no_grad()
def put_whole(target: Tensor, value: Tensor) -> None:
    """Copies a whole tensor into one that may be divided."""
    given = value.to(target.device, target.dtype)
    if isinstance(target, DTensor):
        given = distribute_tensor(given, target.device_mesh, target.placements)
    target.copy_(given)


def like(parameter: Tensor, value: Tensor) -> Tensor:
    """Returns a whole tensor divided, and placed, as `parameter` is."""
    made = torch.empty_like(parameter, requires_grad=False)
    put_whole(made, value)
    return made


def clip(parameters: list[Tensor], limit: float) -> float:
    """Scales gradients to a norm of at most `limit`; returns the norm before."""
    norm = torch.nn.utils.clip_grad_norm_(parameters, limit)
    if isinstance(norm, DTensor):
        norm = norm.full_tensor()
    return float(norm)
