"""Two tokenizers trained on the spot, of the two families that count differently."""

from __future__ import annotations

import json
from random import Random

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from farspan.evals.generate import KVHaystack, LinesHaystack, NoiseHaystack, ProseHaystack, TokenCounter

SPLIT = r"""[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"""


def corpus() -> list[str]:
    """Text of every kind the engine writes."""
    texts = [
        " ".join(ProseHaystack().units(seed, 300)) + "\n" + "\n".join(LinesHaystack().units(seed, 60))
        for seed in range(4)
    ]
    return [*texts, ", ".join(KVHaystack().units(0, 60)), "\n".join(NoiseHaystack().units(0, 5))]


def train_byte_level(vocabulary: int = 900) -> Tokenizer:
    """A byte-level BPE whose regular expression keeps a newline apart from the word behind it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<end>"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    return tokenizer


def train_metaspace(vocabulary: int = 900) -> Tokenizer:
    """A BPE that puts a mark before the whole text, splits nothing, and falls back to bytes."""
    learner = Tokenizer(models.BPE(unk_token="<unk>"))
    learner.pre_tokenizer = pre_tokenizers.Metaspace()
    learner.train_from_iterator(
        corpus(), trainers.BpeTrainer(vocab_size=vocabulary, special_tokens=["<unk>"], show_progress=False)
    )
    learned = json.loads(learner.to_str())["model"]
    vocab = dict(learned["vocab"])
    for byte in range(256):
        vocab.setdefault(f"<0x{byte:02X}>", len(vocab))
    merges = [tuple(merge) for merge in learned["merges"]]
    tokenizer = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return tokenizer


@pytest.fixture(scope="session")
def tokenizers_by_kind() -> dict[str, Tokenizer]:
    """The two tokenizers by name."""
    return {"byte_level": train_byte_level(), "metaspace": train_metaspace()}


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> object:
    """Counts of these tests stay out of the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FARSPAN_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def counters(tokenizers_by_kind: dict[str, Tokenizer]) -> dict[str, TokenCounter]:
    """Counters of the two tokenizers."""
    return {name: TokenCounter(tokenizer) for name, tokenizer in tokenizers_by_kind.items()}


@pytest.fixture(params=["byte_level", "metaspace"])
def counter(request: pytest.FixtureRequest, counters: dict[str, TokenCounter]) -> TokenCounter:
    """Each counter in turn."""
    return counters[request.param]


@pytest.fixture
def rng() -> Random:
    """A fresh stream."""
    return Random(0)
