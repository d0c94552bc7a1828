"""What the mask function tells the attention function."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers.masking_utils import (
    and_masks,
    bidirectional_mask_function,
    causal_mask_function,
    sdpa_mask,
    sliding_window_causal_mask_function,
)

from farspan.attention.masks import PaddingMask, attention_mask

PADDED = torch.tensor([[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]]).bool()


def mask(**arguments: object) -> Tensor | None:
    return attention_mask(**{"batch_size": 2, "q_length": 6, "kv_length": 6, **arguments})  # type: ignore[arg-type]


def test_plain_causal_attention_has_no_mask() -> None:
    assert mask() is None
    assert mask(attention_mask=torch.ones(2, 6).bool()) is None
    assert mask(q_length=2, q_offset=4) is None
    assert mask(q_length=1, q_offset=torch.tensor(5)) is None
    window = sliding_window_causal_mask_function(8)
    assert mask(mask_function=window, local_size=8) is None


def test_padding_is_two_dimensional() -> None:
    assert torch.equal(mask(attention_mask=PADDED), PADDED)  # type: ignore[arg-type]
    chunk = mask(attention_mask=PADDED[:, :5], q_length=2, q_offset=4)
    assert chunk is not None
    assert chunk.tolist() == [[False, False, True, True, True, False], [True] * 5 + [False]]


@pytest.mark.parametrize(
    "arguments",
    [
        {"mask_function": sliding_window_causal_mask_function(3), "local_size": 3},
        {"mask_function": sliding_window_causal_mask_function(6), "local_size": 6},
        {"mask_function": and_masks(causal_mask_function, sliding_window_causal_mask_function(2))},
        {"mask_function": bidirectional_mask_function, "allow_is_causal_skip": False},
        {"allow_is_causal_skip": False},
        {"q_length": 4, "q_offset": 0},
        {"q_length": 4, "q_offset": torch.tensor(1)},
        {
            "q_length": 1,
            "q_offset": 8,
            "kv_offset": 3,
            "mask_function": sliding_window_causal_mask_function(6),
            "local_size": 6,
        },
    ],
)
@pytest.mark.parametrize("padded", [False, True])
def test_everything_else_is_written_out(arguments: dict[str, object], padded: bool) -> None:
    padding = torch.nn.functional.pad(PADDED, (0, 3), value=True) if padded else None
    actual = mask(**arguments, attention_mask=padding)
    complete = {"batch_size": 2, "q_length": 6, "kv_length": 6, **arguments, "allow_is_causal_skip": False}
    expected = sdpa_mask(**complete, attention_mask=padding)
    assert actual is not None
    assert actual.ndim == 4
    assert torch.equal(actual, expected)


def test_spans_of_padded_rows() -> None:
    rows = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 0], [1, 1, 1, 1], [0, 0, 0, 0], [0, 1, 1, 0]]).bool()
    assert PaddingMask(rows).spans == [(2, 4), (0, 3), (0, 4), (0, 0), (1, 3)]
    assert PaddingMask(torch.tensor([[1, 0, 1, 1]]).bool()).spans is None
    assert PaddingMask(None).spans == []


def test_the_full_mask_ends_with_the_last_query() -> None:
    device = torch.device("cpu")
    assert PaddingMask(None).full(4, 4, device) is None
    assert PaddingMask(None).full(1, 4, device) is None
    chunk = PaddingMask(None).full(2, 4, device)
    assert chunk is not None
    assert chunk[0, 0].tolist() == [[True, True, True, False], [True] * 4]
    padded = PaddingMask(torch.tensor([[0, 1, 1, 1]]).bool()).full(2, 4, device)
    assert padded is not None
    assert padded[0, 0].tolist() == [[False, True, True, False], [False, True, True, True]]
