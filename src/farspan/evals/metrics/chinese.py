"""Chinese text cut into words by jieba, whose version and dictionary decide the scores."""

from __future__ import annotations

import logging
from functools import cache
from typing import TYPE_CHECKING

from farspan.evals.metrics.normalize import normalize_zh

if TYPE_CHECKING:
    from jieba import Tokenizer


@cache
def _tokenizer() -> Tokenizer:
    import jieba

    jieba.setLogLevel(logging.WARNING)
    # A tokenizer of our own: words that other code adds to jieba's shared one would change scores.
    return jieba.Tokenizer()


def jieba_tokens(text: str) -> list[str]:
    """Words of a text, white space and punctuation among them, with the default dictionary."""
    return list(_tokenizer().cut(text, cut_all=False))


def normalized_zh_tokens(text: str) -> list[str]:
    """Words of a text, each through `normalize_zh`, without those that become empty."""
    return [word for word in map(normalize_zh, jieba_tokens(text)) if word]
