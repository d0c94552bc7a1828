"""Merging, layouts, distributed attention, token mixers and the communication plan."""

from __future__ import annotations

from typing import Any

from tests.golden.compare import assert_close

LOW_RANK, STATE_SPACE = "low_rank", "diagonal_ssm"


def unified(case: dict[str, Any]) -> None:
    given, expected = case["input"], case["expected"]
    if "partial_outputs" in given:
        _merge(given, expected)
    elif "kind" in given:
        _mixer(given, expected)
    elif "bytes_per_element" in given:
        _communication(given, expected)
    elif "q" in given:
        _distributed(given, expected)
    else:
        _layout(given, expected)


def _infinite(value: Any) -> Any:
    """None stands for minus infinity."""
    if isinstance(value, list):
        return [_infinite(item) for item in value]
    return float("-inf") if value is None else value


def _merge(given: dict[str, Any], expected: dict[str, Any]) -> None:
    import torch

    from farspan.attention import merge_attention

    outputs = [torch.tensor(part) for part in given["partial_outputs"]]
    parts = [torch.tensor(_infinite(part)) for part in given["partial_logsumexp"]]
    output, lse = merge_attention(outputs, parts)
    assert_close(output, expected["output"], rtol=1e-5, atol=1e-5, path="output")
    assert_close(lse, _infinite(expected["logsumexp"]), rtol=1e-5, atol=1e-5, path="logsumexp")


def _layout(given: dict[str, Any], expected: dict[str, Any]) -> None:
    from farspan.training.parallel import causal_cells, imbalance, layout_indices

    indices = layout_indices(given["length"], given["world_size"], given["layout"])
    assert_close([part.tolist() for part in indices], expected["indices"], path="indices")
    assert_close(causal_cells(indices), expected["causal_cells_per_rank"], path="causal_cells_per_rank")
    assert_close(imbalance(indices), expected["imbalance"], rtol=0.0, atol=1e-6, path="imbalance")


def _distributed(given: dict[str, Any], expected: dict[str, Any]) -> None:
    import torch

    from farspan.training.parallel import (
        Communicator,
        distributed_attention,
        run_ranks,
        shard_sequence,
        unshard_sequence,
    )

    whole = [torch.tensor(given[name])[None] for name in "qkv"]
    layout, size = given["layout"], given["world_size"]
    strategies = ["ring", "allgather_kv", "grid2d"]
    if whole[0].shape[1] % size == 0:
        strategies.append("ulysses")
    for strategy in strategies:

        def work(ranks: Communicator, strategy: Any = strategy) -> tuple[Any, Any]:
            shards = [shard_sequence(x, ranks, layout, 2) for x in whole]
            output, lse = distributed_attention(
                *shards, group=ranks, strategy=strategy, layout=layout, causal=given["causal"], return_lse=True
            )
            return unshard_sequence(output, ranks, layout, 2), unshard_sequence(lse, ranks, layout, 2)

        for output, lse in run_ranks(size, work):
            assert_close(output[0], expected["output"], rtol=1e-5, atol=1e-5, path=f"{strategy} output")
            assert_close(lse[0], _infinite(expected["logsumexp"]), rtol=1e-5, atol=1e-5, path=f"{strategy} logsumexp")


def _communication(given: dict[str, Any], expected: dict[str, Any]) -> None:
    from farspan.training.parallel import communication_bytes, score_matrix_bytes

    found = communication_bytes(**given)
    assert_close(found, expected["bytes_received_per_rank"], path="bytes_received_per_rank")
    if "score_matrix_bytes_vanilla" in expected:
        vanilla = score_matrix_bytes(given["batch"], given["heads"], given["length"], given["bytes_per_element"])
        assert_close(vanilla, expected["score_matrix_bytes_vanilla"], path="score_matrix_bytes_vanilla")


def _mixer(given: dict[str, Any], expected: dict[str, Any]) -> None:
    import torch

    from farspan.models.mixers import MIXERS, build_mixer

    x = torch.tensor(given["x"], dtype=torch.float64)[None]
    weights = {name: torch.tensor(value, dtype=torch.float64) for name, value in given["weights"].items()}
    kind = given["kind"]
    if kind not in MIXERS:
        kind = LOW_RANK if "e" in weights else STATE_SPACE if {"a", "b", "c"} <= weights.keys() else kind
    settings: dict[str, Any] = {name: given[name] for name in ("hidden", "window") if name in given}
    if "e" in weights:
        settings["rank"] = len(weights["e"])
    if "a" in weights:
        settings["states"] = weights["a"].shape[1]
    mixer = build_mixer(kind, x.shape[2], max_length=x.shape[1], **settings).double()
    own = {"wq": "q_proj.weight", "wk": "k_proj.weight", "wv": "v_proj.weight", "a": "raw_a"}
    values = {own.get(name, name): value for name, value in weights.items()}
    for name in ("q_proj.weight", "k_proj.weight", "v_proj.weight"):
        if name in values:
            values[name] = values[name].t()
    if "raw_a" in values:
        values["raw_a"] = torch.atanh(values["raw_a"])
    mixer.load_state_dict(values)
    # mixers that have only one form are given without saying which
    causal = given.get("causal", kind in ("long_convolution", STATE_SPACE))
    with torch.no_grad():
        output, _ = mixer(x, causal=causal)
        assert_close(output[0], expected["output"], rtol=1e-5, atol=1e-5, path="output")
        if "mixing_matrix" in expected:
            matrix = mixer.mixing_matrix(x, causal=causal)[0, 0]
            assert_close(matrix, expected["mixing_matrix"], rtol=1e-5, atol=1e-5, path="mixing_matrix")


ADAPTERS = {"unified": unified}
DEFAULT = "unified"
