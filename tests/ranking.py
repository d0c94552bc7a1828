"""A toy of ranking: words as tokens, documents of a few words, and queries for the one that holds a word."""

from __future__ import annotations

import random

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from farspan.training.data.ranking import RankingExample

WORDS = [f"w{index}" for index in range(48)]
MARKS = ["[", "]", ",", ":", "|", "ID", "CONTENT", "END", "Query", "Final", "Answer", "Documents"]


def word_tokenizer() -> PreTrainedTokenizerFast:
    """One token a word, a number up to 99 or a mark; all else is unknown."""
    names = ["<pad>", "<unk>", *WORDS, *map(str, range(100)), *MARKS]
    core = Tokenizer(models.WordLevel({name: index for index, name in enumerate(names)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", unk_token="<unk>")


def tiny_ranker(seed: int = 0) -> LlamaForCausalLM:
    """Two layers, 64 wide, untrained."""
    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(word_tokenizer()),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            head_dim=16,
            max_position_embeddings=256,
            pad_token_id=0,
            initializer_range=0.1,
        )
    ).eval()


def key_examples(count: int, documents: int, seed: int) -> list[RankingExample]:
    """Each document holds a word that no other holds; the query is one of these words."""
    rng = random.Random(seed)
    examples = []
    for index in range(count):
        keys = rng.sample(WORDS, documents)
        others = [word for word in WORDS if word not in keys]
        texts = [" ".join(rng.sample([key, *rng.sample(others, 2)], 3)) for key in keys]
        place = rng.randrange(documents)
        named = {f"doc{place}": text for place, text in enumerate(texts)}
        examples.append(RankingExample(keys[place], named, (f"doc{place}",), str(index)))
    return examples
