"""Haystacks of biographies: a crowd written down once and counted once, or with numbers or groups behind each.

Source: arXiv 2506.02921, section 3.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from farspan.evals.generate.haystack.base import CorpusHaystack, Haystack, fingerprint_of
from farspan.evals.generate.rng import derive_seed, shuffled
from farspan.evals.tasks.bio_persons import ATTRIBUTES, Person, crowd, load_bio_language, value_lists
from farspan.evals.tasks.bio_text import AGE, Biography, Rendered, Style

_MAKER_VERSION = 1


@dataclass(frozen=True)
class Manner:
    """How all biographies of a context are written.

    use_age : ages in place of dates of birth
    asked : the attribute that questions are about, or `age`
    density : share of the crowd's biographies that mention it
    random_attr : share of all attributes that are left out
    """

    language: str = "en"
    style: Style = "standard"
    use_age: bool = False
    asked: str = "hobby"
    density: float = 1.0
    random_attr: float = 0.0

    def drops(self, rng: Random, keep_asked: bool) -> list[str]:
        """What a biography leaves out; equal draws drop less at higher density and lower `random_attr`."""
        said = [AGE if self.use_age and name == "birthdate" else name for name in ATTRIBUTES]
        left_out = [name for name in said if rng.random() < self.random_attr]
        thinned = rng.random() >= self.density
        if keep_asked:
            return [name for name in left_out if name != self.asked]
        return [*left_out, self.asked] if thinned else left_out

    @property
    def complete(self) -> bool:
        """Whether every biography mentions the asked attribute."""
        return self.density == 1 and self.random_attr == 0


class BioCorpus(CorpusHaystack):
    """The crowd in one manner: unit i is person i, so a context holds nobody twice."""

    CHUNK = 256
    joiner = "\n"
    starts = 4096

    def __init__(self, manner: Manner) -> None:
        self.manner = manner
        self._writer = Biography(manner.language)
        # Where nothing is thinned the asked attribute does not change a biography.
        self._drawn = ("", 1.0) if manner.density == 1 else (manner.asked, manner.density)
        self._fingerprint = fingerprint_of(
            "biographies",
            _MAKER_VERSION,
            load_bio_language(manner.language).model_dump_json(),
            manner.style,
            manner.use_age,
            manner.random_attr,
            *self._drawn,
        )

    def written(self, index: int) -> Rendered:
        """The biography of person `index` of the crowd."""
        manner = self.manner
        rng = Random(derive_seed("biography", manner.language, index))
        drop = [] if manner.complete else manner.drops(Random(derive_seed("drops", index)), keep_asked=False)
        person = crowd(manner.language).person(index)
        return self._writer.render(person, manner.style, manner.use_age, drop, rng=rng)

    def stated_age(self, index: int) -> int | None:
        """The age that the biography of a person states, if it does."""
        return crowd(self.manner.language).person(index).age if AGE in self.written(index).spans else None

    def chunk(self, number: int) -> list[str]:
        return [self.written(index).text for index in range(number * self.CHUNK, (number + 1) * self.CHUNK)]

    @property
    def fingerprint(self) -> str:
        return self._fingerprint


class NumberedBios(Haystack):
    """Biographies with their place in square brackets, counted from 0."""

    joiner = "\n"

    def __init__(self, manner: Manner) -> None:
        self._corpus = BioCorpus(manner)

    def units(self, seed: int, n: int) -> list[str]:
        start = self._corpus.offset(seed)
        return [numbered(place, self._corpus.written(start + place).text) for place in range(n)]

    @property
    def kind(self) -> str:
        return f"numbered-bios:{self._corpus.fingerprint}"


def numbered(place: int, text: str) -> str:
    """A biography with its number."""
    return f"[{place}] {text}"


class GroupedBios(Haystack):
    """Biographies that end with a group, which follows from the first letter of the university."""

    joiner = "\n"

    def __init__(self, manner: Manner, groups: Groups) -> None:
        self._corpus, self._groups = BioCorpus(manner), groups

    def units(self, seed: int, n: int) -> list[str]:
        start, people = self._corpus.offset(seed), crowd(self._corpus.manner.language)
        return [
            self._groups.label(self._corpus.written(start + place).text, people.person(start + place))
            for place in range(n)
        ]

    @property
    def kind(self) -> str:
        return f"grouped-bios:{self._corpus.fingerprint}"


class Groups:
    """Ten groups, each of neighbouring first letters of universities; which name means which is drawn anew."""

    def __init__(self, language: str, rng: Random) -> None:
        self._language = load_bio_language(language)
        letters = sorted({university[0] for university in value_lists(language)["university"]})
        names = shuffled(rng, self._language.groups)
        self._of = {letter: names[place * len(names) // len(letters)] for place, letter in enumerate(letters)}

    def of(self, person: Person) -> str:
        """The group of a person."""
        return self._of[person.university[0]]

    def label(self, text: str, person: Person) -> str:
        """A biography with its group behind it."""
        return text + self._language.joiner + self._language.wording["group"].format(value=self.of(person))
