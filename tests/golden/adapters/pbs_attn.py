"""Permuted block-sparse attention step by step: order of the keys, scores, blocks, and the attention itself."""

from __future__ import annotations

from typing import Any

from tests.golden.compare import assert_close

TOLERANCE = 1e-4


def permuted_block_sparse(case: dict[str, Any]) -> None:
    import torch
    from torch.nn.functional import scaled_dot_product_attention

    from farspan.attention import block_sparse_attention
    from farspan.attention.permuted_block_sparse import key_permutation, permuted_blocks, permuted_selection
    from farspan.attention.selection import stored

    given, expected = case["input"], case["expected"]
    query, key, value = (torch.tensor(given[part])[None] for part in ("q", "k", "v"))
    sizes = {"block_size": given["block_size"], "segment_size": given["segment_size"]}
    rule = {"threshold": given["threshold"], "force_first": given.get("force_first", True)}
    if "key_permutation" in expected:
        order = key_permutation(query, key, **sizes, per_query_head=True)
        assert_close(order[0], expected["key_permutation"], path="key_permutation")
        keep, around, scores = permuted_blocks(query, stored(key, order), order, **sizes, **rule)
        if "block_scores" in expected:
            assert_close(scores[0], expected["block_scores"], rtol=0.0, atol=TOLERANCE, path="block_scores")
        if "block_mask" in expected:
            mask = torch.tensor(expected["block_mask"]).int()
            assert_close((keep | around)[0].int(), mask, path="block_mask")
    for diagonal in ("segment", "original"):
        selection = permuted_selection(query, key, **sizes, **rule, per_query_head=True, diagonal=diagonal)  # type: ignore[arg-type]
        dense = bool(expected.get("dense_fallback", False))
        assert (selection is None) == dense, f"dense fallback: {selection is None}, expected {dense}"
        if selection is None:
            output = scaled_dot_product_attention(query, key, value, is_causal=True)
        else:
            assert selection.order is not None
            keys, values = stored(key, selection.order), stored(value, selection.order)
            output = block_sparse_attention(query, keys, values, selection.plan)
        assert_close(output[0], expected["output"], rtol=0.0, atol=TOLERANCE, path=f"output, {diagonal} diagonal")


ADAPTERS = {"permuted_block_sparse": permuted_block_sparse}
DEFAULT = "permuted_block_sparse"
