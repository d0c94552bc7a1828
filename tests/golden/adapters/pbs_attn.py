"""Permuted block-sparse attention: order, block scores, chosen blocks and output of the published method."""

from __future__ import annotations

from typing import Any

from tests.golden.compare import assert_close

DEFAULT = "permuted_block_sparse"


def permuted_block_sparse(case: dict[str, Any]) -> None:
    import torch
    from torch.nn import functional as F

    from farspan.attention import block_sparse_attention, key_permutation
    from farspan.attention.permuted_block_sparse import permuted_blocks, permuted_selection
    from farspan.attention.selection import stored

    given, expected = case["input"], case["expected"]
    query, key, value = (torch.tensor(given[name], dtype=torch.float32)[None] for name in "qkv")
    sizes = {"block_size": given["block_size"], "segment_size": given["segment_size"]}
    settings = {**sizes, "threshold": float(given["threshold"]), "force_first": given["force_first"]}
    selection = permuted_selection(query, key, **settings, per_query_head=True, diagonal="segment")
    if expected.get("dense_fallback"):
        assert selection is None
        output = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        assert_close(output[0].tolist(), expected["output"], rtol=1e-4, atol=1e-4)
        return
    assert selection is not None
    order = key_permutation(query, key, **sizes, per_query_head=True)
    assert_close(order[0].tolist(), expected["key_permutation"])
    keep, around, scores = permuted_blocks(query, stored(key, order), order, **settings)
    assert_close(scores[0].tolist(), expected["block_scores"], rtol=1e-4, atol=1e-4)
    assert (keep | around)[0].tolist() == [[[bool(b) for b in row] for row in head] for head in expected["block_mask"]]
    output = block_sparse_attention(
        query, stored(key, selection.order), stored(value, selection.order), selection.plan, backend="reference"
    )
    assert_close(output[0].tolist(), expected["output"], rtol=1e-4, atol=1e-4)


ADAPTERS = {"permuted_block_sparse": permuted_block_sparse}
