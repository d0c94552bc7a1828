"""Languages as data: word lists and sentence frames, one file a language in `words/`.

A file holds `language`, `joiner` (between sentences), `nouns`, `verbs`, `adjectives` and `frames`, sentences with the
slots {noun} and {other} (of the paragraph's topic), {adjective}, {quality}, {verb} and {act}. Adding a language is
adding its file.
"""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files
from random import Random

from pydantic import BaseModel, ConfigDict, ValidationError

from farspan.errors import FarspanError

_SLOT = re.compile(r"\{(\w+)\}")
_SLOTS = ("noun", "other", "adjective", "quality", "verb", "act")

TOPIC_NOUNS = 4
PARAGRAPH_SENTENCES = (4, 9)


class LanguageError(FarspanError):
    """A language that has no usable data file."""


class Language(BaseModel):
    """Words and sentence frames of one language."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    language: str
    joiner: str
    nouns: tuple[str, ...]
    verbs: tuple[str, ...]
    adjectives: tuple[str, ...]
    frames: tuple[str, ...] = ()

    def sentences(self, rng: Random, count: int) -> list[str]:
        """`count` sentences in paragraphs of 4 to 9; each paragraph keeps one small set of topic nouns."""
        compiled = _compiled(self)
        nouns, adjectives, verbs = self.nouns, self.adjectives, self.verbs
        draw = rng.random
        low, high = PARAGRAPH_SENTENCES
        made: list[str] = []
        while len(made) < count:
            topic = [nouns[int(draw() * len(nouns))] for _ in range(TOPIC_NOUNS)]
            for _ in range(low + int(draw() * (high - low + 1))):
                form, order = compiled[int(draw() * len(compiled))]
                first = int(draw() * TOPIC_NOUNS)
                second = (first + 1 + int(draw() * (TOPIC_NOUNS - 1))) % TOPIC_NOUNS
                words = (
                    topic[first],
                    topic[second],
                    adjectives[int(draw() * len(adjectives))],
                    adjectives[int(draw() * len(adjectives))],
                    verbs[int(draw() * len(verbs))],
                    verbs[int(draw() * len(verbs))],
                )
                made.append(form % tuple([words[slot] for slot in order]))
        return made[:count]


@cache
def _compiled(language: Language) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Frames as %-forms with the slots' numbers in order of use."""
    if not language.frames:
        raise LanguageError(f"language '{language.language}' has no sentence frames, so it cannot make prose")
    compiled = []
    for frame in language.frames:
        names = _SLOT.findall(frame)
        unknown = [name for name in names if name not in _SLOTS]
        if unknown:
            raise LanguageError(f"frame '{frame}' has the unknown slot {{{unknown[0]}}}; known: {', '.join(_SLOTS)}")
        form = _SLOT.sub("%s", frame.replace("%", "%%"))
        compiled.append((form, tuple(_SLOTS.index(name) for name in names)))
    return tuple(compiled)


def languages() -> list[str]:
    """Codes of the languages that have a file."""
    folder = files("farspan.evals.generate").joinpath("words")
    return sorted(entry.name.removesuffix(".json") for entry in folder.iterdir() if entry.name.endswith(".json"))


@cache
def language_data(code: str) -> str:
    """The text of a language's file.

    Raises
    ------
    LanguageError : there is none; the known codes are named.
    """
    if code not in languages():
        raise LanguageError(f"no word list for language '{code}'; there are: {', '.join(languages())}")
    return files("farspan.evals.generate").joinpath("words", f"{code}.json").read_text(encoding="utf-8")


@cache
def load_language(code: str) -> Language:
    """The words and frames of a language, by its code ("en")."""
    try:
        return Language.model_validate_json(language_data(code))
    except ValidationError as error:
        raise LanguageError(f"words/{code}.json: {error.errors()[0]['loc']}: {error.errors()[0]['msg']}") from error
