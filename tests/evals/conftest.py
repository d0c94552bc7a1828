"""Two tokenizers trained on the spot: byte level with a split, and marked word starts with bytes to fall back on."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from farspan.evals.generate import TokenCounter

SPLIT = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def training_text() -> list[str]:
    """Words and layouts of the tasks."""
    words = json.loads(files("farspan.evals.generate").joinpath("words", "en.json").read_text(encoding="utf-8"))
    text = [f"The {noun} of the {noun} is long. {noun}-{noun}\n" for noun in words["nouns"]]
    text += [f"line {adj}: REGISTER_CONTENT is <{i}>\n" for i, adj in enumerate(words["adjectives"])]
    return text + [f'"{i:08x}-{i:04x}": "{i:012x}", Question: what?\nAnswer: VAR ABCDE = {i}\n' for i in range(2000)]


@pytest.fixture(scope="session")
def byte_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A byte-level tokenizer with a split, as `tokenizer.json`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1500, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(training_text(), trainer)
    path = tmp_path_factory.mktemp("tokenizers") / "tokenizer.json"
    tokenizer.save(str(path))
    return path


@pytest.fixture(scope="session")
def byte_counter(byte_file: Path) -> TokenCounter:
    return TokenCounter(byte_file, cache=False)


@pytest.fixture(scope="session")
def prefix_counter() -> TokenCounter:
    """A tokenizer that puts a mark before every word and before the text, and falls back to bytes."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    # Words are learned one by one, as such tokenizers are trained; used, it sees the whole text at once.
    tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", behavior="merged_with_next")
    tokens = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=1200, special_tokens=tokens, show_progress=False)
    tokenizer.train_from_iterator([line for text in training_text() for line in text.splitlines()], trainer)
    definition = json.loads(tokenizer.to_str())
    definition["pre_tokenizer"] = None
    return TokenCounter(Tokenizer.from_str(json.dumps(definition)), cache=False)


@pytest.fixture(params=["byte", "prefix"])
def counter(request: pytest.FixtureRequest, byte_counter: TokenCounter, prefix_counter: TokenCounter) -> TokenCounter:
    """Both in turn."""
    return byte_counter if request.param == "byte" else prefix_counter
