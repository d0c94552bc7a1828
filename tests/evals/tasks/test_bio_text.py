"""Biographies: what is written is read back, whatever the language, style and drops."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farspan.errors import FarspanError
from farspan.evals.tasks.bio_persons import ATTRIBUTES, crowd
from farspan.evals.tasks.bio_text import AGE, STYLES, Biography, read_attribute, read_entries

SAID = (AGE, *ATTRIBUTES)


@settings(max_examples=150, deadline=None)
@given(
    language=st.sampled_from(["de", "en", "es", "zh"]),
    style=st.sampled_from(STYLES),
    use_age=st.booleans(),
    drop=st.sets(st.sampled_from(SAID), max_size=4),
    first=st.integers(0, 2000),
    seed=st.integers(0, 10**6),
)
def test_what_is_written_is_read_back(
    language: str, style: str, use_age: bool, drop: set[str], first: int, seed: int
) -> None:
    writer, rng = Biography(language), Random(seed)
    persons = [crowd(language).person(first + number) for number in range(4)]
    written = [writer.render(person, style, use_age, drop, rng=rng) for person in persons]  # type: ignore[arg-type]
    entries = read_entries("\n".join(bio.text for bio in written) + "\n", language)
    assert [entry.name for entry in entries] == [person.name for person in persons]
    missing = {"birthdate" if use_age else AGE, *drop}
    for person, bio, entry in zip(persons, written, entries, strict=True):
        assert set(bio.spans) == set(SAID) - missing
        for attribute in SAID:
            stated = read_attribute(entry, attribute, language)
            if attribute in missing:
                assert stated is None
            else:
                assert stated is not None
                assert stated.value == person.value(attribute)
                start, end = bio.spans[attribute]
                assert stated.value in bio.text[start:end]
                assert bio.text[end - 1] in ".。"


@pytest.mark.parametrize("language", ["de", "en", "es", "zh"])
@pytest.mark.parametrize("style", STYLES)
def test_links_name_the_other_person(language: str, style: str) -> None:
    person, other = crowd(language).persons(0, 2)
    for attribute in ATTRIBUTES:
        bio = Biography(language).render(person, style, same_as=(attribute, other.name), rng=Random(0))  # type: ignore[arg-type]
        (entry,) = read_entries(bio.text, language)
        stated = read_attribute(entry, attribute, language)
        assert stated is not None
        assert (stated.value, stated.same_as) == ("", other.name)
        rest = [name for name in ATTRIBUTES if name != attribute]
        assert all(read_attribute(entry, name, language).value == person.value(name) for name in rest)  # type: ignore[union-attr]


def test_dropping_a_sentence_leaves_the_others_as_they_are() -> None:
    person = crowd("en").person(5)
    whole = Biography().render(person, "paraphrase", rng=Random(3))
    less = Biography().render(person, "paraphrase", drop=["hobby"], rng=Random(3))
    start, end = whole.spans["hobby"]
    assert whole.text[: start - 1] + whole.text[end:] == less.text


def test_refusals() -> None:
    person = crowd("en").person(0)
    with pytest.raises(FarspanError, match="style is one of standard, paraphrase, pronoun"):
        Biography().render(person, "formal")  # type: ignore[arg-type]
    with pytest.raises(FarspanError, match="needs rng"):
        Biography().render(person, "pronoun")
