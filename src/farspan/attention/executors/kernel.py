"""Attention over a block plan on a GPU, by Farspan's own Triton kernels: the way in, which needs no Triton to read.

The heads of a group that share a selection are packed into one tile, full blocks are read without any test, partial
blocks, reordered keys and single key columns are tested by position, long lists are split where there are fewer tiles
than processors, and the longest lists start first. Gradients are exact. Not run on a GPU yet: the kernels were compared
with `reference` through Triton's interpreter (`TRITON_INTERPRET=1`) and compiled for compute capability 9.0.
"""

from __future__ import annotations

import os
from importlib.util import find_spec

import torch
from torch import Tensor

from farspan.attention.executors.failure import ExecutorFailed
from farspan.attention.plan import BlockPlan

LARGEST_DIM = 256


class KernelFailed(ExecutorFailed):
    """The Triton kernels could not be built or launched on this machine."""


def refusal(query: Tensor, key: Tensor, plan: BlockPlan, need_lse: bool, need_grad: bool) -> str | None:
    """Why `attend` cannot take this call, or None."""
    if query.device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        return "triton needs a GPU"
    if find_spec("triton") is None:
        return "the package 'triton' is not installed"
    if query.dtype not in (torch.float16, torch.bfloat16, torch.float32):
        return f"triton takes float16, bfloat16 and float32, not {str(query.dtype).removeprefix('torch.')}"
    if query.shape[3] > LARGEST_DIM:
        return f"triton takes heads of at most {LARGEST_DIM} channels, not {query.shape[3]}"
    for size in (plan.block_q, plan.block_k):
        if size < 16 or size & (size - 1):
            return f"triton wants blocks that are powers of two of at least 16, not {size}"
    return None


def attend(
    query: Tensor, key: Tensor, value: Tensor, plan: BlockPlan, scaling: float, need_lse: bool
) -> tuple[Tensor, Tensor | None]:
    """As `gather.attend`, with gradients in query, key and value.

    Raises
    ------
    KernelFailed : Triton cannot build or launch the kernels here.
    """
    try:
        from farspan.attention.executors import triton_launch

        return triton_launch.attend(query, key, value, plan, scaling, need_lse)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # compilers and drivers raise whatever their stages raise
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise KernelFailed(f"the Triton kernels do not run here ({first[:200]}); use backend='gather'") from error
