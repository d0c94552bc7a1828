from __future__ import annotations

import pickle
from itertools import pairwise
from pathlib import Path
from random import Random

import numpy as np
import pytest
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from farspan.evals.generate import (
    KVHaystack,
    LengthTarget,
    LinesHaystack,
    ListHaystack,
    Needle,
    NoiseHaystack,
    ProseHaystack,
    TokenCounter,
    TokenizerError,
    build_context,
)
from farspan.evals.generate.counted import CountedSource, counted_source

CHATML = "{% for m in messages %}<end>{{ m.role }}\n{{ m.content }}<end>\n{% endfor %}<end>assistant\n"


def test_counts_hold_no_special_tokens_and_no_padding(tokenizers_by_kind: dict[str, Tokenizer]) -> None:
    tokenizer = tokenizers_by_kind["byte_level"]
    padded = Tokenizer.from_str(tokenizer.to_str())
    padded.enable_padding(length=50)
    padded.enable_truncation(3)
    text = "The river was nimble, the valley was lovely."
    assert TokenCounter(padded).count(text) == len(tokenizer.encode(text, add_special_tokens=False).ids)
    assert padded.truncation is not None, "the caller's tokenizer stays as it was"


def test_units_are_counted_behind_their_anchor(counter: TokenCounter) -> None:
    units = [" The river is long.", " On we walk.", " The river is long."]
    expected = [counter.count("." + unit) - counter.count(".") for unit in units]
    assert counter.count_units(units, ".").tolist() == expected


def test_without_anchors_marked_tokenizers_count_too_much(counters: dict[str, TokenCounter]) -> None:
    counter = counters["metaspace"]
    units = ProseHaystack().units(1, 300)
    text = " ".join(units)
    bare = sum(counter.count_many([units[0], *(" " + unit for unit in units[1:])]))
    anchored = counter.count(units[0]) + int(counter.count_units([" " + unit for unit in units[1:]], ".").sum())
    assert anchored == counter.count(text)
    assert bare > anchored + 250


@pytest.mark.parametrize("kind", ["prose", "kv", "noise"])
def test_long_texts_are_counted_exactly_in_chunks(counter: TokenCounter, kind: str) -> None:
    haystack = {"prose": ProseHaystack(), "kv": KVHaystack(), "noise": NoiseHaystack()}[kind]
    text = haystack.joiner.join(haystack.units(0, 8000))
    assert len(text) > 300_000
    assert counter.verify(text) == counter.count(text)


@pytest.mark.parametrize("haystack", [NoiseHaystack(), ProseHaystack(), KVHaystack()], ids=["noise", "prose", "kv"])
def test_sums_of_counted_units_are_exact(counter: TokenCounter, haystack: NoiseHaystack) -> None:
    source = counted_source(haystack, counter)
    assert source.mode == "additive"
    window = source.window(5)
    window.grow(900)
    whole = counter.count(window.text(0, 900))
    assert counter.count(window.unit(0)) + int(window.tokens[900] - window.tokens[1]) == whole


def test_units_that_merge_irregularly_ask_for_verification(counters: dict[str, TokenCounter]) -> None:
    counter = counters["metaspace"]
    assert CountedSource(LinesHaystack(), counter).mode == "verify"


def line_tokenizer(text: str) -> list[str]:
    """One token a character, but two for a newline behind a long line, five if the next line starts like it."""
    lines = text.split("\n")
    tokens = list("".join(lines))
    for before, after in pairwise(lines):
        alike = before.split(" ")[0] == after.split(" ")[0]
        tokens += ["newline"] * (1 if len(before) < 20 else 5 if alike else 2)
    return tokens


def test_a_constant_error_a_joint_is_added_to_each_unit() -> None:
    units = [f"w{i % 3} of a line that is long enough {i}." for i in range(100)]
    counter = TokenCounter(line_tokenizer)
    calibration = counter.calibrate(units[:64], "\n")
    assert (calibration.mode, calibration.per_joint) == ("affine", 1)
    built = build_context(
        ListHaystack(units), [Needle("x The needle that is hidden here.")], LengthTarget(value=1500), counter, seed=0
    )
    assert built.mode == "affine"
    assert built.n_context_tokens == counter.count(built.text)
    assert 1450 < built.n_context_tokens <= 1500


def test_any_function_can_count() -> None:
    counter = TokenCounter(list, cache=False)
    assert counter.count("four") == 4
    assert counter.mode == "additive"
    assert counter.template_tokens() == 0


def test_a_transformers_tokenizer_counts_like_its_backend(tokenizers_by_kind: dict[str, Tokenizer]) -> None:
    backend = tokenizers_by_kind["byte_level"]
    wrapped = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<end>", chat_template=CHATML)
    counter = TokenCounter(wrapped)
    text = "\n".join(LinesHaystack().units(0, 5))
    assert counter.count(text) == len(wrapped(text, add_special_tokens=False)["input_ids"])
    rendered = wrapped.apply_chat_template(
        [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True
    )
    assert counter.template_tokens(chat=True) == counter.count(str(rendered)) - counter.count(text)


def test_a_counter_opens_folders_and_files(tmp_path: Path, tokenizers_by_kind: dict[str, Tokenizer]) -> None:
    tokenizers_by_kind["byte_level"].save(str(tmp_path / "tokenizer.json"))
    from_file, from_folder = TokenCounter(tmp_path / "tokenizer.json"), TokenCounter(tmp_path)
    assert from_file.count("a river") == from_folder.count("a river")


def test_what_is_no_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match="no such file or folder"):
        TokenCounter(tmp_path / "nothing")
    with pytest.raises(TokenizerError, match="cannot load a tokenizer"):
        TokenCounter(tmp_path)
    with pytest.raises(TokenizerError, match="is no tokenizer"):
        TokenCounter(3)  # type: ignore[arg-type]


def test_no_chat_template_is_said(counter: TokenCounter) -> None:
    with pytest.raises(TokenizerError, match="no chat template"):
        counter.template_tokens(chat=True)


def test_counters_travel_to_other_processes(counter: TokenCounter) -> None:
    copy = pickle.loads(pickle.dumps(counter))
    assert copy.tokenizer_id == counter.tokenizer_id
    assert copy.count("a river") == counter.count("a river")
    assert copy.template_tokens() == counter.template_tokens()


def test_counts_of_a_corpus_are_kept_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tokenizers_by_kind: dict[str, Tokenizer]
) -> None:
    monkeypatch.setenv("FARSPAN_CACHE", str(tmp_path))
    haystack = ProseHaystack(corpus_seed=Random(0).randrange(10**6))
    first = counted_source(haystack, TokenCounter(tokenizers_by_kind["byte_level"])).chunk(0)
    (stored,) = tmp_path.rglob("*.npy")

    class Counting(TokenCounter):
        counted = 0

        def count_many(self, texts: list[str]) -> list[int]:  # type: ignore[override]
            Counting.counted += len(texts)
            return super().count_many(texts)

    counter = Counting(tokenizers_by_kind["byte_level"])
    before = Counting.counted
    again = counted_source(haystack, counter).chunk(0)
    assert Counting.counted - before < 1000, "only the calibration is counted anew"
    assert again.counts.tolist() == first.counts.tolist()
    stored.write_bytes(b"broken")
    repaired = counted_source(haystack, TokenCounter(tokenizers_by_kind["byte_level"])).chunk(0)
    assert repaired.counts.tolist() == first.counts.tolist()
    # counts of another version are left alone and not read
    monkeypatch.setattr("farspan.evals.generate.counted.VERSION", "0")
    np.save(stored, np.zeros_like(np.load(stored)))
    other = counted_source(haystack, TokenCounter(tokenizers_by_kind["byte_level"])).chunk(0)
    assert other.counts.tolist() == first.counts.tolist()
    assert len(list(tmp_path.rglob("*.npy"))) == 2


def test_without_a_cache_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tokenizers_by_kind: dict[str, Tokenizer]
) -> None:
    monkeypatch.setenv("FARSPAN_CACHE", str(tmp_path))
    counted_source(NoiseHaystack(), TokenCounter(tokenizers_by_kind["byte_level"], cache=False)).chunk(0)
    assert not list(tmp_path.rglob("*"))
