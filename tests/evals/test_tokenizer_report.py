"""Tokenizers compared on the same texts."""

from __future__ import annotations

import pytest

from farspan.errors import FarspanError
from farspan.evals.generate import TokenCounter
from farspan.evals.tokenizer_report import tokenizer_report


def test_ratios_and_windows(byte_counter: TokenCounter) -> None:
    rows = tokenizer_report(
        {"characters": list, "bpe": byte_counter}, n_pairs=50, texts={"own": "abcd"}, windows={"characters": 1000}
    )
    characters, bpe = rows
    assert characters.tokens_per_pair == 80
    assert set(characters.characters_per_token.values()) == {1.0}
    assert characters.window_characters == 1000
    assert 20 < bpe.tokens_per_pair < 80
    assert bpe.window_characters is None
    assert characters.ratio["bpe"] == pytest.approx(1 / bpe.ratio["characters"])
    assert characters.ratio["characters"] == 1.0
    assert {"uuid_json", "digits", "prose:en", "code", "own"} == set(bpe.characters_per_token)


def test_nothing_to_compare() -> None:
    with pytest.raises(FarspanError, match="at least one tokenizer"):
        tokenizer_report({})
    with pytest.raises(FarspanError, match="'own' is empty"):
        tokenizer_report({"characters": list}, n_pairs=1, texts={"own": ""})
