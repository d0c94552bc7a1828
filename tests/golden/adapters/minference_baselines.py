"""The methods that attention is compared with: what each selects, step by step. The case's name says which."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.golden.compare import assert_close

if TYPE_CHECKING:
    from torch import Tensor

TOLERANCE = 1e-4


def _tensors(given: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Query and key [1, heads, length, head_dim]; a key of fewer heads is shared by groups."""
    import torch

    query, key = torch.tensor(given["q"]), torch.tensor(given["k"])
    return query[None], key[None]


def xattention(case: dict[str, Any]) -> None:
    import torch

    from farspan.attention.antidiagonal import antidiagonal_blocks, antidiagonal_scores

    given, expected = case["input"], case["expected"]
    query, key = _tensors(given)
    sums = antidiagonal_scores(
        query, key, block_size=given["block_size"], stride=given["stride"], norm=given.get("norm", 1.0)
    )
    assert_close(sums[0], expected["block_sums"], rtol=0.0, atol=TOLERANCE, path="block_sums")
    offset = key.shape[2] - query.shape[2]
    blocks = antidiagonal_blocks(
        sums, given["threshold"], block_size=given["block_size"], q_offset=offset, kv_len=key.shape[2]
    )
    assert_close(blocks[0].int(), torch.tensor(expected["block_mask"]).int(), path="block_mask")


def minference(case: dict[str, Any]) -> None:
    from farspan.attention import vertical_slash_indices

    given, expected = case["input"], case["expected"]
    query, key = _tensors(given)
    found = vertical_slash_indices(
        query,
        key,
        vertical_size=given["vertical_size"],
        slash_size=given["slash_size"],
        last_q=given.get("last_q", 64),
    )
    for lines, name in zip(found, ("vertical_columns", "slash_distances"), strict=True):
        wanted = expected[name]
        by_head = wanted if isinstance(wanted[0], list) else [wanted]
        assert_close(lines[0].tolist(), [sorted(head) for head in by_head], path=name)


def flexprefill(case: dict[str, Any]) -> None:
    import torch

    from farspan.attention.query_aware import query_aware_blocks

    given, expected = case["input"], case["expected"]
    query, key = _tensors(given)
    size, most = given["block_size"], given.get("max_budget")
    keep, _ = query_aware_blocks(
        query,
        key,
        block_size=size,
        gamma=given["gamma"],
        tau=given["tau"],
        min_blocks=-(-given["min_budget"] // size),
        max_blocks=None if most is None else -(-most // size),
    )
    assert_close(keep[0].int(), torch.tensor(expected["block_mask"]).int(), path="block_mask")


def spargeattn(case: dict[str, Any]) -> None:
    import torch

    from farspan.attention import block_self_similarity
    from farspan.attention.self_similarity import self_similar_blocks

    given, expected = case["input"], case["expected"]
    query, key = _tensors(given)
    for rows, size, name in ((query, "block_q", "query"), (key, "block_k", "key")):
        likeness = block_self_similarity(rows, given[size])[0]
        path = f"{name}_self_similarity"
        assert_close(likeness, expected[path], rtol=0.0, atol=TOLERANCE, path=path)
    blocks = self_similar_blocks(
        query,
        key,
        block_q=given["block_q"],
        block_k=given["block_k"],
        similarity=given["similarity_threshold"],
        cdf=1.0 if given.get("cdf_threshold") is None else given["cdf_threshold"],
        topk=given.get("topk"),
        sink=bool(given.get("attention_sink", False)),
    )
    assert_close(blocks[0].int(), torch.tensor(expected["block_mask"]).int(), path="block_mask")


def snapkv(case: dict[str, Any]) -> None:
    from farspan.memory.eviction import kept_slots
    from farspan.memory.snapkv import window_votes

    given, expected = case["input"], case["expected"]
    query, key = _tensors(given)
    scores = window_votes(
        query, key, window=given["window"], kernel_size=given["kernel_size"], pooling=given["pooling"][:3]
    )
    kept = kept_slots(scores, given["capacity"])
    assert_close(kept[0].tolist(), expected["kept_positions"], path="kept_positions")


def streaming(case: dict[str, Any]) -> None:
    from farspan.memory.streaming import sinks_and_recent

    given = case["input"]
    kept = sinks_and_recent(given["length"], given["sinks"], given["recent"], given.get("num_coming", 0))
    assert_close(kept.tolist(), case["expected"]["kept_positions"], path="kept_positions")


def knorm(case: dict[str, Any]) -> None:
    import torch

    from farspan.memory.eviction import capacity_of, kept_slots
    from farspan.memory.knorm import negative_key_norms

    given, expected = case["input"], case["expected"]
    key = torch.tensor(given["k"])[None]
    scores = negative_key_norms(key)
    assert_close(scores[0], expected["scores"], rtol=0.0, atol=TOLERANCE, path="scores")
    kept = kept_slots(scores, capacity_of(key.shape[2], ratio=given["compression_ratio"]))
    assert_close(kept[0].tolist(), expected["kept_positions"], path="kept_positions")


def shape(case: dict[str, Any]) -> None:
    from farspan.attention.triangle import shape_cells

    given, expected = case["input"], case["expected"]
    cells = shape_cells(given["length"], given["length"], given["n_init"], given["n_local"], given.get("n_last", 0))
    assert_close(cells.sum(-1).tolist(), expected["allowed_per_row"], path="allowed_per_row")
    for row, wanted in expected["mask_rows"].items():
        assert_close(cells[int(row)].int().tolist(), wanted, path=f"row {row}")


METHODS = {
    "xattention": xattention,
    "minference": minference,
    "flexprefill": flexprefill,
    "spargeattn": spargeattn,
    "snapkv": snapkv,
    "streaming": streaming,
    "knorm": knorm,
    "shape": shape,
}


def by_name(case: dict[str, Any]) -> None:
    """The first word of a case's name is the method."""
    METHODS[str(case["name"]).partition("_")[0]](case)


ADAPTERS = {**METHODS, "by_name": by_name}
DEFAULT = "by_name"
