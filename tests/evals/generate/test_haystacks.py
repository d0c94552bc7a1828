from __future__ import annotations

import json
import re
import unicodedata
from itertools import pairwise
from pathlib import Path
from random import Random

import pytest

from farspan.evals.generate import (
    Haystack,
    KVHaystack,
    LengthTarget,
    LinesHaystack,
    ListHaystack,
    Needle,
    NoiseHaystack,
    ProseHaystack,
    RecordHaystack,
    TextHaystack,
    TokenCounter,
    WordListHaystack,
    build_context,
)
from farspan.evals.generate.haystack import HaystackError
from farspan.evals.generate.haystack.text import split_text
from farspan.evals.generate.haystack.word_list import coded_words
from farspan.evals.generate.languages import Language, LanguageError, languages, load_language

ASCII_FREE = ("zh", "ja", "ko", "ar", "ru", "hi")


def make_record(rng: Random, i: int) -> str:
    return f"Record {i}: {rng.randrange(1000)} units."


HAYSTACKS: list[Haystack] = [
    NoiseHaystack(),
    ProseHaystack(),
    KVHaystack(),
    *(LinesHaystack(key) for key in ("nl", "lrt", "abc", "uuid")),
    LinesHaystack(distinct_values=True),
    WordListHaystack(),
    WordListHaystack(["a", "b"], numbered=False),
    RecordHaystack(make_record, "record"),
    ListHaystack([f"unit {i}" for i in range(200)]),
]


@pytest.mark.parametrize("haystack", HAYSTACKS, ids=lambda haystack: type(haystack).__name__)
def test_a_longer_haystack_starts_with_the_shorter_one(haystack: Haystack) -> None:
    long = haystack.units(7, 120)
    assert len(long) == 120
    assert haystack.units(7, 13) == long[:13]
    assert haystack.units(7, 0) == []


@pytest.mark.parametrize("haystack", HAYSTACKS, ids=lambda haystack: type(haystack).__name__)
def test_units_have_no_whitespace_at_their_ends(haystack: Haystack) -> None:
    assert all(unit == unit.strip() and unit for unit in haystack.units(3, 100))


def test_streams_of_a_corpus_run_over_chunk_borders() -> None:
    haystack = ProseHaystack()
    seed = next(seed for seed in range(1000) if haystack.offset(seed) > 4000)
    units = haystack.units(seed, 200)
    start = haystack.offset(seed)
    assert units == (haystack.chunk(0) + haystack.chunk(1))[start : start + 200]


def test_pairs_cost_eighty_characters_each_and_read_as_json() -> None:
    haystack = KVHaystack()
    text = haystack.head + haystack.joiner.join(haystack.units(0, 40)) + haystack.tail
    assert len(text) == 80 * 40
    assert list(json.loads(text).items()) == haystack.pairs(0, 40)


def test_line_keys_are_distinct_and_values_in_range() -> None:
    for key in ("nl", "lrt", "abc", "uuid"):
        entries = LinesHaystack(key).entries(1, 3000)
        assert len({name for name, _ in entries}) == 3000
        assert all(1 <= value <= 50_000 for _, value in entries)
    distinct = LinesHaystack(distinct_values=True).entries(1, 3000)
    assert len({value for _, value in distinct}) == 3000


def test_keys_end_with_a_message() -> None:
    with pytest.raises(HaystackError, match="46656"):
        LinesHaystack("abc").units(0, 46_657)


def test_words_are_numbered_from_one() -> None:
    units = WordListHaystack(["oak"]).units(0, 3)
    assert units == ["1. oak", "2. oak", "3. oak"]


def test_coded_words_are_distinct() -> None:
    words = coded_words(Random(0), 500)
    assert len(set(words)) == 500
    assert all(re.fullmatch("[a-z]{6}", word) for word in words)
    with pytest.raises(HaystackError, match="too many"):
        coded_words(Random(0), 26, letters=1)


def test_prose_keeps_to_its_topic_and_has_no_digits() -> None:
    units = ProseHaystack().units(0, 2000)
    assert not any(character.isdigit() for unit in units for character in unit)
    nouns = set(load_language("en").nouns)
    mentioned = [set(re.findall(r"[a-z]+", unit)) & nouns for unit in units]
    shared = sum(bool(a & b) for a, b in pairwise(mentioned))
    strangers = sum(bool(a & b) for a, b in zip(mentioned, mentioned[50:], strict=False))
    assert shared > 5 * strangers


def test_ten_languages() -> None:
    assert languages() == ["ar", "de", "en", "es", "fr", "hi", "ja", "ko", "ru", "zh"]


@pytest.mark.parametrize("code", languages())
def test_a_language_has_words_enough(code: str) -> None:
    language = load_language(code)
    assert language.language == code
    assert len(language.nouns) >= 400
    assert len(language.verbs) >= 200
    assert len(language.adjectives) >= 200
    assert len(language.frames) >= 20
    assert language.joiner == ("" if code in ("ja", "zh") else " ")
    for words in (language.nouns, language.verbs, language.adjectives, language.frames):
        assert len(set(words)) == len(words)
        assert all(word == word.strip() and unicodedata.is_normalized("NFC", word) for word in words)
    assert not any(character.isdigit() for word in (*language.nouns, *language.frames) for character in word)


@pytest.mark.parametrize("code", languages())
def test_contexts_of_every_language_have_their_length(code: str, counter: TokenCounter) -> None:
    needle = Needle("X 1234567.", "x")
    built = build_context(ProseHaystack(code), [needle], LengthTarget(value=3000), counter, depths=50.0, seed=1)
    assert counter.count(built.text) == built.n_total_tokens <= 3000
    (span,) = built.spans
    assert built.text[span.start_char : span.end_char] == needle.text
    longer = build_context(ProseHaystack(code), [], LengthTarget(value=4000), counter, seed=1)
    assert longer.text.startswith(ProseHaystack(code).joiner.join(ProseHaystack(code).units(1, 5)))


@pytest.mark.parametrize("code", languages())
def test_every_language_makes_prose_in_its_own_script(code: str) -> None:
    units = ProseHaystack(code).units(0, 500)
    assert len(set(units)) > 300
    if code in ASCII_FREE:
        assert not any("a" <= character.lower() <= "z" for unit in units for character in unit)
    assert all(unicodedata.category(unit[-1]).startswith("P") for unit in units)


def test_a_language_is_data_alone() -> None:
    toy = Language(
        language="toy",
        joiner="",
        nouns=("山", "川"),
        verbs=("見",),
        adjectives=("高",),
        frames=("{noun}は{other}を{verb}る。",),
    )
    assert toy.sentences(Random(0), 2)[0] in ("山は川を見る。", "川は山を見る。", "山は山を見る。", "川は川を見る。")
    with pytest.raises(LanguageError, match="unknown slot"):
        Language(language="x", joiner="", nouns=("a",), verbs=("b",), adjectives=("c",), frames=("{nuon}",)).sentences(
            Random(0), 1
        )
    with pytest.raises(LanguageError, match="no word list for language 'xx'"):
        ProseHaystack("xx")


def test_text_is_cut_into_sentences() -> None:
    text = 'One  is\nhere. "Two!" Three? 四つ目です。五つ目です。 3.5 is not an end'
    assert split_text(text, "sentences") == [
        "One is here.",
        '"Two!"',
        "Three?",
        "四つ目です。",
        "五つ目です。",
        "3.5 is not an end",
    ]


def test_code_is_cut_where_lines_start_at_the_margin() -> None:
    code = "def f():\n    return 1\n\n\nx = f()\n"
    assert split_text(code, "lines") == ["def f():\n    return 1", "x = f()"]


def test_user_text_is_read_from_files_and_starts_over_at_its_end(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("First here. Second here.", encoding="utf-8")
    (tmp_path / "b.jsonl").write_text('{"body": "Third here."}\n', encoding="utf-8")
    haystack = TextHaystack(tmp_path, field="body")
    units = haystack.units(1, 9000)
    assert set(units) == {"First here.", "Second here.", "Third here."}
    assert units[:3] == units[3:6] == units[-3:]
    assert haystack.fingerprint != TextHaystack(tmp_path / "a.txt").fingerprint


def test_unusable_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "b.jsonl").write_text('{"body": "Third here."}\n', encoding="utf-8")
    with pytest.raises(HaystackError, match="line 1 has no field 'text'"):
        TextHaystack(tmp_path / "b.jsonl")
    with pytest.raises(HaystackError, match="cannot read text"):
        TextHaystack(tmp_path / "none.txt")
    (tmp_path / "empty.txt").write_text(" \n", encoding="utf-8")
    with pytest.raises(HaystackError, match="no text found"):
        TextHaystack(tmp_path / "empty.txt")
