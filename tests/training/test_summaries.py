"""Short summaries put together: exact lengths, pairs used once, the order told, answers to what is asked."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerBase

from farspan.errors import FarspanError
from farspan.evals.documents.asking import load_tokenizer
from farspan.training.config import SourceConfig
from farspan.training.data import build_source
from farspan.training.data.summaries import Ask, LongSummary, Pair, concat_short_summaries


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return load_tokenizer("reference")


def pairs(n: int, language: str = "en") -> list[Pair]:
    rng = random.Random(3)
    if language == "zh":
        return [(f"第{i}个故事。" + "他们离开了山村。" * rng.randint(1, 6), f"故事{i}的摘要。") for i in range(n)]
    return [
        (f"Story {i}. " + "The ferry left the harbour. " * rng.randint(3, 20), f"A ferry leaves, {i}.")
        for i in range(n)
    ]


def said(sample: LongSummary, tokenizer: PreTrainedTokenizerBase) -> tuple[str, str]:
    ids = list(sample.document.ids)
    return tokenizer.decode(ids[: sample.prompt_tokens]), tokenizer.decode(
        ids[sample.prompt_tokens :], skip_special_tokens=True
    )


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("ask", ["all", "one"])
@pytest.mark.parametrize("target", [900, 2048])
def test_lengths_are_within_one_percent_and_pairs_are_used_once(
    language: str, ask: Ask, target: int, tokenizer: PreTrainedTokenizerBase
) -> None:
    given = pairs(80, language)
    found = list(
        concat_short_summaries(given, target, 0, tokenizer=tokenizer, ask=ask, language=language)  # type: ignore[arg-type]
    )
    assert len(found) > 1
    used = [index for one in found for index in (*one.order, one.filler) if index is not None]
    assert len(used) == len(set(used))
    for one in found:
        assert 0.99 * target <= len(one.document.ids) <= target
        prompt, answer = said(one, tokenizer)
        places = [prompt.index(given[index][0]) for index in one.order]
        assert places == sorted(places)
        assert one.asked == one.order if ask == "all" else (len(one.asked) == 1 and one.asked[0] in one.order)
        assert all(answer.count(given[index][1]) == 1 for index in one.asked)
        assert not any(given[index][1] in prompt for index in one.order)
        if one.filler is not None:
            assert given[one.filler][1] not in answer
        assert one.document.supervised == [False] * one.prompt_tokens + [True] * (
            len(one.document.ids) - one.prompt_tokens
        )
        assert one.document.ids[-1] == tokenizer.eos_token_id


def test_one_summary_is_asked_for_by_its_number(tokenizer: PreTrainedTokenizerBase) -> None:
    given = pairs(40)
    found = list(concat_short_summaries(given, 1200, 1, tokenizer=tokenizer, ask="one", language="en"))
    numbers = set()
    for one in found:
        number = one.order.index(one.asked[0]) + 1
        prompt, answer = said(one, tokenizer)
        assert f"summary of text {number} above" in prompt
        assert answer == given[one.asked[0]][1]
        numbers.add(number)
    assert len(numbers) > 1


def test_seeds_reproduce(tokenizer: PreTrainedTokenizerBase) -> None:
    one, again, other = (
        list(concat_short_summaries(pairs(40), 1000, seed, tokenizer=tokenizer, language="en")) for seed in (5, 5, 6)
    )
    assert one == again
    assert one[0].order != other[0].order


def test_what_cannot_be_filled_is_said(tokenizer: PreTrainedTokenizerBase) -> None:
    for given, target in ((pairs(2), 5000), (pairs(5), 12)):
        with pytest.raises(FarspanError, match="make no sample"):
            list(concat_short_summaries(given, target, 0, tokenizer=tokenizer, language="en"))


def test_a_training_file_names_the_source(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    path = tmp_path / "summaries.jsonl"
    path.write_text("".join(json.dumps({"text": t, "summary": s}) + "\n" for t, s in pairs(40)), encoding="utf-8")
    settings = {"path": str(path), "language": "en"}
    config = SourceConfig(source="farspan.training.data.summaries:ShortSummaries", settings=settings)
    source = build_source(config, tokenizer)
    document = source.document(random.Random(0), 700)
    assert 693 <= len(document.ids) <= 700
    assert document == source.document(random.Random(0), 700)
    assert not source.document(random.Random(0), 20).ids
    path.write_text('{"text": "x"}\n', encoding="utf-8")
    with pytest.raises(FarspanError, match="line 1"):
        build_source(
            SourceConfig(source="farspan.training.data.summaries:ShortSummaries", settings=settings), tokenizer
        )
