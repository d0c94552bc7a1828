from __future__ import annotations

import re
from random import Random

import pytest
from rapidfuzz.distance import Levenshtein

from farspan.evals.generate import (
    DistractorSpec,
    LengthTarget,
    Needle,
    ProseHaystack,
    TokenCounter,
    build_context,
    make_distractors,
)
from farspan.evals.generate.distractors import CURRENT_YEAR, DistractorError, alike, near_key
from farspan.evals.generate.languages import languages, load_language

FORM = "The number of {key} is {value}."
DATED = "As of {year}, the number of {key} is {value}."


def needle(key: str, value: str, form: str = FORM) -> Needle:
    return Needle(form.format(key=key, value=value, year=CURRENT_YEAR), key, key=key, value=value, form=form)


GOLD = [needle("bold-cat", "1234567"), needle("red-fox", "7654321")]


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("1234567", r"[1-9]\d{6}"),
        ("7", r"\d"),
        ("0e5bc8fb-bde5-c099-4164-d8399f767c45", r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"),
        ("bold-cat", r"[a-z]+-[a-z]+"),
        ("river", r"[a-z]+"),
        ("QX7-b", r"[A-Z]{2}\d-[a-z]"),
    ],
)
def test_texts_alike_have_the_same_type(text: str, pattern: str) -> None:
    rng = Random(0)
    found = {alike(text, rng) for _ in range(50)}
    assert len(found) > 5
    assert all(re.fullmatch(pattern, other) for other in found)


def test_near_keys_share_a_word_or_all_but_two_characters() -> None:
    rng = Random(0)
    for _ in range(100):
        assert set(near_key("bold-cat", rng).split("-")) & {"bold", "cat"}
        assert Levenshtein.distance(near_key("XKQZV", rng), "XKQZV") <= 2
        near = near_key("0e5bc8fb-bde5-c099-4164-d8399f767c45", rng)
        assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", near)
    with pytest.raises(DistractorError, match="no letter or digit"):
        near_key("--", rng)


@pytest.mark.parametrize("kind", ["type", "near_key", "attribute", "answer_type"])
def test_no_distractor_holds_a_gold_key_or_value(kind: str) -> None:
    spec = DistractorSpec.model_validate({"kind": kind, "density": 0.5})
    made = make_distractors(spec, GOLD, 400, Random(0))
    assert 150 < len(made) < 250
    golden = {"bold-cat", "1234567", "red-fox", "7654321"}
    assert not any(word in d.text for d in made for word in golden)
    assert len({d.key for d in made}) == len({d.value for d in made}) == len(made)
    assert all(d.role == "distractor" and d.key in d.text and d.value in d.text for d in made)


def test_contradictions_keep_the_key_and_are_outdated() -> None:
    gold = [needle("bold-cat", "1234567", DATED)]
    made = make_distractors(DistractorSpec(kind="contradict", k=5), gold, 0, Random(0))
    years = [int(re.findall(r"As of (\d+)", d.text)[0]) for d in made]
    assert max(years) < CURRENT_YEAR
    assert all("bold-cat" in d.text and "1234567" not in d.text for d in made)
    with pytest.raises(DistractorError, match=r"says \{year\}"):
        make_distractors(DistractorSpec(kind="contradict", k=1), GOLD, 0, Random(0))


def test_what_cannot_be_made_is_refused() -> None:
    with pytest.raises(DistractorError, match="a form, a key and a value"):
        make_distractors(DistractorSpec(k=1), [Needle("plain")], 0, Random(0))
    digit = [needle("a-b", "7")]
    with pytest.raises(DistractorError, match="after 1000 draws"):
        make_distractors(DistractorSpec(k=10), digit, 0, Random(0))
    assert make_distractors(DistractorSpec(), GOLD, 100, Random(0)) == []


def test_distractors_are_hidden_with_the_needles(counter: TokenCounter) -> None:
    built = build_context(
        ProseHaystack(),
        GOLD,
        LengthTarget(value=3000),
        counter,
        seed=1,
        distractors=DistractorSpec(kind="near_key", k=20),
    )
    assert sum(span.role == "distractor" for span in built.spans) == 20
    assert built.n_context_tokens == counter.count(built.text) <= 3000
    assert [built.text.count(value) for value in ("1234567", "7654321")] == [1, 1]
    longer = build_context(
        ProseHaystack(),
        GOLD,
        LengthTarget(value=4000),
        counter,
        seed=1,
        distractors=DistractorSpec(kind="near_key", k=20),
    )
    texts = [
        {built.text[s.start_char : s.end_char] for s in built.spans},
        {longer.text[s.start_char : s.end_char] for s in longer.spans},
    ]
    assert texts[0] == texts[1], "equal seeds hide the same sentences at every length"


@pytest.mark.parametrize("lang", [code for code in languages() if code != "en"])
@pytest.mark.parametrize("kind", ["type", "near_key"])
def test_every_language_has_distractors_in_its_script(lang: str, kind: str) -> None:
    language = load_language(lang)
    key, other = language.nouns[3], language.nouns[7]
    gold = Needle(f"{key}: {other}", "gold", key=key, value=other, form="{key}: {value}")
    made = make_distractors(DistractorSpec.model_validate({"kind": kind, "k": 20}), [gold], 100, Random(0), lang=lang)
    assert len({needle.key for needle in made}) == 20
    assert not {key, other} & {text for needle in made for text in (needle.key, needle.value)}
    if lang in ("ar", "hi", "ja", "ko", "ru", "zh"):
        assert not any("a" <= character.lower() <= "z" for needle in made for character in needle.text)
