"""Distractors: sentences that look like a needle and must not be mistaken for it.

Made from a needle's `form`, `key` and `value`. No distractor equals a gold key or value, except that a contradiction
keeps the key and says that it is outdated: draws are rejected against a set, with a limit.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from random import Random
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from farspan.errors import FarspanError
from farspan.evals.generate.haystack.kv import draw_uuid
from farspan.evals.generate.languages import load_language
from farspan.evals.generate.needle import Needle

MAX_REJECTIONS = 1000
CURRENT_YEAR = 2024
"""The year that forms with {year} give to gold needles; contradictions carry earlier ones."""

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_PAIR = re.compile(r"[^\W\d]+-[^\W\d]+")
_WORD = re.compile(r"[a-z]+")


class DistractorError(FarspanError):
    """Distractors that cannot be made from these needles."""


class DistractorSpec(BaseModel):
    """Which distractors, and how many.

    kind : "type" (same sentence, other key and value), "near_key" (key at edit distance 1 or 2, or sharing a word),
        "contradict" (same key with an earlier {year} and another value), "attribute" (as "type", one after each unit
        of the haystack with probability `density`), "answer_type" (the value's type in a sentence of its own form)
    density : their number as a share of the haystack's units, where `k` is not given
    k : their number
    answer_form : sentence with {key} and {value} for "answer_type"
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["type", "near_key", "contradict", "attribute", "answer_type"] = "type"
    density: float = Field(default=0.0, ge=0.0, le=1.0)
    k: int | None = Field(default=None, ge=0)
    answer_form: str = "Somebody near the {key} counted to {value}."

    def number(self, units: int, rng: Random) -> int:
        """How many distractors a haystack of that many units gets."""
        if self.k is not None:
            return self.k
        if self.kind == "attribute":
            return sum(rng.random() < self.density for _ in range(units))
        return round(self.density * units)


def make_distractors(
    spec: DistractorSpec, needles: Sequence[Needle], units: int, rng: Random, *, lang: str = "en"
) -> list[Needle]:
    """Distractors of the needles in turn.

    Parameters
    ----------
    needles : gold needles with `form`, `key` and `value`
    units : units of the haystack, for densities
    lang : language whose words new keys are made of

    Raises
    ------
    DistractorError : a needle lacks what is needed, or no admissible key or value was found in 1000 draws.
    """
    number = spec.number(units, rng)
    if number == 0:
        return []
    usable = [needle for needle in needles if needle.form and needle.key and needle.value]
    if not usable:
        raise DistractorError("distractors need needles with a form, a key and a value; give them, or no distractors")
    if spec.kind == "contradict" and not all("{year}" in needle.form for needle in usable):
        raise DistractorError("contradictions need needles whose form says {year}, else nothing tells which is valid")
    taken = {needle.key for needle in needles} | {needle.value for needle in needles}
    made = []
    for i in range(number):
        gold = usable[i % len(usable)]
        if spec.kind == "contradict":
            key = gold.key
        else:
            key = _unlike(near_key if spec.kind == "near_key" else alike, gold.key, taken, rng, lang)
        value = _unlike(alike, gold.value, taken, rng, lang)
        taken |= {key, value}
        form = spec.answer_form if spec.kind == "answer_type" else gold.form
        year = CURRENT_YEAR - 1 - rng.randrange(20)
        made.append(
            replace(
                gold,
                text=form.format(key=key, value=value, year=year),
                fact_id=f"{gold.fact_id or gold.key}~{i}",
                role="distractor",
                key=key,
                value=value,
                form=form,
            )
        )
    return made


def alike(text: str, rng: Random, lang: str = "en") -> str:
    """Another text of the same type: UUID, adjective-noun pair, number of as many digits, word, or code."""
    language = load_language(lang)
    if _UUID.fullmatch(text):
        return draw_uuid(rng)
    if _PAIR.fullmatch(text):
        adjective = language.adjectives[rng.randrange(len(language.adjectives))]
        return f"{adjective}-{language.nouns[rng.randrange(len(language.nouns))]}"
    if text.isascii() and text.isdigit():
        low = 10 ** (len(text) - 1) if len(text) > 1 else 0
        return str(rng.randrange(low, 10 ** len(text)))
    if _WORD.fullmatch(text) or (not text.isascii() and text.replace(" ", "").isalpha()):
        return language.nouns[rng.randrange(len(language.nouns))]
    return "".join(_same_class(character, rng, lang) for character in text)


def near_key(key: str, rng: Random, lang: str = "en") -> str:
    """A key easily taken for `key`: one word of a pair exchanged, else one or two characters of the same class."""
    language = load_language(lang)
    if _PAIR.fullmatch(key):
        adjective, noun = key.split("-")
        if rng.random() < 0.5:
            return f"{language.adjectives[rng.randrange(len(language.adjectives))]}-{noun}"
        return f"{adjective}-{language.nouns[rng.randrange(len(language.nouns))]}"
    characters = list(key)
    changeable = [i for i, character in enumerate(characters) if character.isalnum()]
    if not changeable:
        raise DistractorError(f"the key '{key}' has no letter or digit to change")
    for _ in range(1 + rng.randrange(2)):
        place = changeable[rng.randrange(len(changeable))]
        characters[place] = _same_class(characters[place], rng, lang, hexadecimal=bool(_UUID.fullmatch(key)))
    return "".join(characters)


def _unlike(draw: Callable[[str, Random, str], str], gold: str, taken: set[str], rng: Random, lang: str) -> str:
    """Draw until the text is new."""
    for _ in range(MAX_REJECTIONS):
        found = draw(gold, rng, lang)
        if found not in taken:
            return found
    raise DistractorError(f"no text like '{gold}' is left after {MAX_REJECTIONS} draws; ask for fewer distractors")


@cache
def _letters(lang: str) -> str:
    """Letters of a language's nouns that are not Latin."""
    nouns = "".join(load_language(lang).nouns)
    return "".join(sorted({character for character in nouns if character.isalpha() and not character.isascii()}))


def _same_class(character: str, rng: Random, lang: str, hexadecimal: bool = False) -> str:
    if hexadecimal and character.isalnum():
        return "0123456789abcdef"[rng.randrange(16)]
    if character.isascii() and character.isdigit():
        return "0123456789"[rng.randrange(10)]
    if character.isascii() and character.isalpha():
        letter = "abcdefghijklmnopqrstuvwxyz"[rng.randrange(26)]
        return letter.upper() if character.isupper() else letter
    letters = _letters(lang)
    if character.isalpha() and letters:
        return letters[rng.randrange(len(letters))]
    return character
