"""Lightning attention: slopes, the recurrence, and a whole layer read at once and then token by token."""

from __future__ import annotations

from typing import Any

from tests.golden.compare import assert_close


def lightning(case: dict[str, Any]) -> None:
    given = case["input"]
    if "weights" in given:
        _layer(given, case["expected"])
    elif "q" in given:
        _core(given, case["expected"])
    else:
        _slopes(given, case["expected"])


def _slopes(given: dict[str, Any], expected: dict[str, Any]) -> None:
    from farspan.models.lightning import decay_slopes

    heads, layers = given["num_heads"], given["num_layers"]
    assert_close(decay_slopes(heads), expected["base_slopes"], rtol=0.0, atol=1e-7, path="base_slopes")
    found = {index: decay_slopes(heads, int(index), layers) for index in expected["layer_slopes"]}
    assert_close(found, expected["layer_slopes"], rtol=0.0, atol=1e-7, path="layer_slopes")


def _core(given: dict[str, Any], expected: dict[str, Any]) -> None:
    import torch

    from farspan.models.lightning import lightning_attention
    from farspan.models.lightning.reference import recurrent

    q, k, v = (torch.tensor(given[name], dtype=torch.float64).transpose(1, 2) for name in "qkv")
    slopes = torch.tensor(given["slopes"], dtype=torch.float64)
    state = given.get("initial_state")
    state = None if state is None else torch.tensor(state, dtype=torch.float64)
    mask = _mask(given.get("left_padding"), q.shape[1])
    if mask is not None:
        v = v * mask[:, :, None, None]
    found = [recurrent(q, k, v, slopes, state)]
    found += [
        lightning_attention(q, k, v, slopes, initial_state=state, output_final_state=True, block_size=size)
        for size in (4, 64)
    ]
    for output, final in found:
        assert_close(output.transpose(1, 2), expected["output"], rtol=1e-5, atol=1e-5, path="output")
        assert_close(final, expected["final_state"], rtol=1e-5, atol=1e-5, path="final_state")


def _layer(given: dict[str, Any], expected: dict[str, Any]) -> None:
    import torch
    from transformers import DynamicCache

    from farspan.models.lightning import LightningAttention, state_layer

    hidden = torch.tensor(given["hidden_states"])
    layer = LightningAttention.new(
        hidden.shape[-1],
        given["num_heads"],
        given["head_dim"],
        given["layer_idx"],
        given["num_layers"],
        block_size=given["block_size"],
    )
    layer.load_state_dict({name: torch.tensor(weight) for name, weight in given["weights"].items()})
    mask = _mask(given.get("left_padding"), hidden.shape[1])
    read, cache = given["prefill_length"], DynamicCache()
    with torch.no_grad():
        parts = [
            layer(hidden[:, :read], attention_mask=None if mask is None else mask[:, :read], past_key_values=cache)
        ]
        parts += [layer(hidden[:, t : t + 1], past_key_values=cache) for t in range(read, hidden.shape[1])]
    assert len(parts) == 1 + given["decode_steps"]
    output = torch.cat([part for part, _ in parts], dim=1)
    wanted = torch.tensor(expected["output"])
    tokens = torch.ones(hidden.shape[:2], dtype=torch.bool) if mask is None else mask
    assert_close(output[tokens], wanted[tokens], rtol=0.0, atol=1e-4, path="output")
    states = state_layer(cache, given["layer_idx"]).states
    assert states is not None
    assert_close(states[0], expected["final_state"], rtol=1e-4, atol=1e-4, path="final_state")


def _mask(left_padding: list[int] | None, length: int) -> Any:
    """True for tokens, [rows, length]; padding is a number of tokens for each row."""
    import torch

    if left_padding is None:
        return None
    return torch.arange(length) >= torch.tensor(left_padding)[:, None]


ADAPTERS = {"lightning": lightning}
DEFAULT = "lightning"
