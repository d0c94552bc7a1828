"""Attention over a block plan, by every executor that needs no compiler, in three precisions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.golden.compare import assert_close

if TYPE_CHECKING:
    from torch import Tensor

    from farspan.attention import BlockPlan

# The reference values are printed with six digits.
TOLERANCE = 1e-5
# In half precision rounding the inputs alone moves the result, so there the reference is computed from rounded inputs.
HALF_TOLERANCE = 2e-2
BACKENDS = ("reference", "gather", "masked")


def plan_of(given: dict[str, Any], q_len: int, kv_len: int) -> BlockPlan:
    """The plan a case describes."""
    import torch

    from farspan.attention import BlockPlan

    keep = torch.tensor(given["keep"]).bool()
    padding, positions = given.get("left_padding"), given.get("kv_positions", given.get("kv_pos"))
    kv_pos = None
    if positions is not None:
        kv_pos = torch.tensor(positions, dtype=torch.int32)
        while kv_pos.ndim < 3:
            # one order for all rows, or one a row
            kv_pos = kv_pos[None] if kv_pos.ndim == 1 else kv_pos[:, None]
    return BlockPlan.from_block_mask(
        keep,
        q_len=q_len,
        kv_len=kv_len,
        block_q=given["block_q"],
        block_k=given["block_k"],
        q_offset=given["q_offset"],
        kv_start=None if padding is None else torch.tensor(padding, dtype=torch.int32),
        kv_pos=kv_pos,
        allow_empty=True,
    )


def logsumexps(expected: dict[str, Any]) -> Tensor:
    """The reference's logsumexps [B, H, length], where null stands for a row without keys."""
    import torch

    rows = [[[float("-inf") if x is None else x for x in row] for row in head] for head in expected["logsumexp"]]
    return torch.tensor(rows, dtype=torch.float64)


def block_sparse_attention(case: dict[str, Any]) -> None:
    import torch

    from farspan.attention import block_sparse_attention as compute

    given, expected = case["input"], case["expected"]
    exact = [torch.tensor(given[part], dtype=torch.float64) for part in ("q", "k", "v")]
    plan = plan_of(given, exact[0].shape[2], exact[1].shape[2])
    rounded = [x.bfloat16() for x in exact]
    scaling = given["scaling"]
    from_rounded = compute(*(x.double() for x in rounded), plan, scaling=scaling, backend="reference")
    for backend in BACKENDS:
        for dtype in (torch.float64, torch.float32):
            inputs = [x.to(dtype) for x in exact]
            output, lse = compute(*inputs, plan, scaling=scaling, backend=backend, return_lse=True)
            path = f"{backend} {dtype}"
            assert_close(output.double(), expected["output"], rtol=0.0, atol=TOLERANCE, path=f"{path} output")
            if expected.get("logsumexp") is not None:
                norms = logsumexps(expected)
                assert_close(lse.double(), norms, rtol=0.0, atol=TOLERANCE, path=f"{path} logsumexp")
            if expected.get("rows_with_keys") is not None:
                idle = torch.tensor(expected["rows_with_keys"]) == 0
                assert not output[idle].any(), f"{path}: a row without keys must give zeros"
        half = compute(*rounded, plan, scaling=scaling, backend=backend)
        assert_close(half.double(), from_rounded, rtol=0.0, atol=HALF_TOLERANCE, path=f"{backend} bfloat16 output")


ADAPTERS = {"block_sparse_attention": block_sparse_attention}
DEFAULT = "block_sparse_attention"
