"""Requests say what is wrong with them; usage adds up."""

from __future__ import annotations

from typing import Any

import pytest

from farspan.engine import Request, RequestError, Usage


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"ids": []}, "token id"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"temperature": -0.1}, "temperature is -0.1"),
        ({"top_p": 0.0}, "top_p is 0.0"),
        ({"top_p": 1.5}, "top_p is 1.5"),
        ({"top_k": -1}, "top_k is -1"),
        ({"min_p": 2.0}, "min_p is 2.0"),
        ({"repetition_penalty": 0.0}, "repetition_penalty is 0.0"),
        ({"logprobs": -1}, "logprobs is -1"),
        ({"stop": "\n"}, "tuple"),
        ({"stop": ("",)}, "empty stop"),
        ({"prefix_length": 3}, "prefix_length is 3 of 3"),
        ({"prefix_length": -1}, "prefix_length is -1"),
    ],
)
def test_wrong_requests_are_refused(wrong: dict[str, Any], named: str) -> None:
    with pytest.raises(RequestError, match=named):
        Request(**{"ids": [1, 2, 3], "max_new_tokens": 4, **wrong})


def test_greedy_requests_share_batches_whatever_their_filters() -> None:
    plain = Request([1], 4)
    assert Request([2], 9, top_p=0.5, top_k=3, seed=7).sampling == plain.sampling
    assert Request([2], 9, temperature=0.5).sampling != plain.sampling
    assert Request([2], 9, logprobs=1).sampling != plain.sampling


def test_usage_adds_up() -> None:
    assert Usage(input_tokens=3, cached_tokens=5, output_tokens=2).total_tokens == 10
