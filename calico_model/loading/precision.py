"""Precisions of weights and their memory. Knows no tensors: importing it does not load torch."""

from __future__ import annotations

from enum import StrEnum

# nf4 with double quantisation: one scale per block, the scales themselves in 8 bits with one
# float per super-block (Dettmers et al. 2023, section 3).
_NF4_BLOCK, _NF4_SUPER_BLOCK = 64, 256


class Precision(StrEnum):
    """Precision of the weights; mask decoder and losses are float32 in all of them.

    INT8 and NF4 hold the matrices of the LLM's layers in 8 and 4 bits and the rest in bfloat16.
    """

    FP32 = "fp32"
    BF16 = "bf16"
    INT8 = "int8"
    NF4 = "nf4"

    @property
    def is_quantised(self) -> bool:
        """Whether the LLM's matrices are held in fewer bits than they are computed in."""
        return self in (Precision.INT8, Precision.NF4)


def quantised_bytes(rows: int, columns: int, precision: Precision) -> int:
    """Bytes of one (rows, columns) matrix of the LLM with all its scales."""
    count = rows * columns
    if precision is Precision.INT8:
        return count + 4 * rows
    if precision is Precision.NF4:
        blocks = -(-count // _NF4_BLOCK)
        return count // 2 + blocks + 4 * -(-blocks // _NF4_SUPER_BLOCK)
    return count * (4 if precision is Precision.FP32 else 2)
