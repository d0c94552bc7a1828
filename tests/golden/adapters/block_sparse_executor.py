"""Exact attention over a plan: every executor that runs on a CPU against the float64 definition."""

from __future__ import annotations

from typing import Any

from tests.golden.compare import assert_close

DEFAULT = "block_sparse_attention"
BACKENDS = ("reference", "masked", "gather")


def block_sparse_attention(case: dict[str, Any]) -> None:
    import torch

    from farspan.attention import BlockPlan
    from farspan.attention import block_sparse_attention as compute

    given, expected = case["input"], case["expected"]
    query, key, value = (torch.tensor(given[name], dtype=torch.float32) for name in "qkv")
    padding, positions = given.get("left_padding"), given.get("kv_positions")
    plan = BlockPlan.from_block_mask(
        torch.tensor(given["keep"], dtype=torch.bool),
        q_len=query.shape[2],
        kv_len=key.shape[2],
        block_q=given["block_q"],
        block_k=given["block_k"],
        q_offset=given["q_offset"],
        kv_start=None if padding is None else torch.tensor(padding, dtype=torch.int32),
        kv_pos=None if positions is None else torch.tensor(positions, dtype=torch.int32),
        allow_empty=True,
    )
    for backend in BACKENDS:
        output, lse = compute(query, key, value, plan, scaling=given["scaling"], backend=backend, return_lse=True)
        assert_close(output.tolist(), expected["output"], rtol=1e-5, atol=1e-5)
        found = torch.nan_to_num(lse, neginf=-1e9).flatten().tolist()
        wanted = [-1e9 if entry is None else entry for entry in _flat(expected["logsumexp"])]
        assert_close(found, wanted, rtol=1e-5, atol=1e-5)


def _flat(nested: Any) -> list[Any]:
    return [leaf for part in nested for leaf in _flat(part)] if isinstance(nested, list) else [nested]


ADAPTERS = {"block_sparse_attention": block_sparse_attention}
