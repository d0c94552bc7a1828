"""Exercises on bare tokens that teach a small model to copy and to look things up.

They hold no language: random tokens, where the only way to predict an answer is to find it earlier in the context.
"""

from __future__ import annotations

import random

from transformers import PreTrainedTokenizerBase

from farspan.training.data.documents import Document
from farspan.training.data.text import TextFiles


class SpanCopy:
    """A span again and again, random filler in between; every copy is supervised from its third token on.

    Parameters
    ----------
    text_share : share of spans that are text of the standard library; the others are random tokens
    longest : of a span, in tokens; a third of the document where that is less
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, text_share: float = 0.0, longest: int = 128) -> None:
        special = set(tokenizer.all_special_ids)
        self.vocabulary = [index for index in range(len(tokenizer)) if index not in special]
        self.text_share = text_share
        self.longest = longest
        self.text = TextFiles(tokenizer) if text_share else None

    def document(self, rng: random.Random, length: int) -> Document:
        tokens = rng.randrange(4, max(5, min(self.longest, length // 3) + 1))
        if self.text is not None and rng.random() < self.text_share:
            span = self.text.document(rng, tokens).ids
        else:
            span = rng.choices(self.vocabulary, k=tokens)
        ids, supervised = list(span), [False] * len(span)
        while len(ids) < length:
            filler = rng.choices(self.vocabulary, k=rng.choice((0, 0, rng.randrange(8))))
            ids += [*filler, *span]
            supervised += [False] * (len(filler) + 2) + [True] * (len(span) - 2)
        return Document(ids[:length], supervised[:length])


class AssociativeRecall:
    """Pairs of random key and value tokens in a random layout, then keys again whose values are supervised."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.vocabulary = SpanCopy(tokenizer).vocabulary

    def document(self, rng: random.Random, length: int) -> Document:
        key_tokens, value_tokens = rng.randrange(1, 4), rng.randrange(1, 4)
        separator = rng.choices(self.vocabulary, k=rng.randrange(3))
        end = rng.choices(self.vocabulary, k=rng.randrange(2))
        pair_tokens = key_tokens + value_tokens + len(separator) + len(end)
        pairs = max(2, int(length * rng.uniform(0.35, 0.7)) // pair_tokens)
        key_pool = rng.sample(self.vocabulary, rng.choice((16, 64, len(self.vocabulary))))
        value_pool = rng.sample(self.vocabulary, rng.choice((10, 64, len(self.vocabulary))))
        keys = list(dict.fromkeys(tuple(rng.choices(key_pool, k=key_tokens)) for _ in range(pairs)))
        values = [rng.choices(value_pool, k=value_tokens) for _ in keys]
        ids = [token for key, value in zip(keys, values, strict=True) for token in (*key, *separator, *value, *end)]
        supervised = [False] * len(ids)
        while len(ids) + pair_tokens <= length:
            asked = rng.randrange(len(keys))
            ids += [*keys[asked], *separator, *values[asked], *end]
            supervised += [False] * (key_tokens + len(separator)) + [True] * value_tokens + [False] * len(end)
        return Document(ids[:length], supervised[:length])
