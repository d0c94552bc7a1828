"""Invented databases: rows that fit together, and sentences that say every value once and can be read back."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farspan.evals.generate.languages import LanguageError
from farspan.evals.tasks.holo_queries import QUERIES
from farspan.evals.tasks.holo_schemas import (
    CATEGORIES,
    SCHEMAS,
    TableStream,
    all_tables,
    categories,
    holo_languages,
    invert,
    load_holo_language,
    verbalise,
)


def test_six_databases_and_four_languages() -> None:
    assert len(SCHEMAS) == 6
    assert holo_languages() == ["de", "en", "es", "zh"]
    with pytest.raises(LanguageError, match="there are: de, en, es, zh"):
        load_holo_language("xx")


@settings(max_examples=150, deadline=None)
@given(
    language=st.sampled_from(["de", "en", "es", "zh"]),
    name=st.sampled_from(list(SCHEMAS)),
    which=st.integers(0, 6),
    seed=st.integers(0, 20),
    template=st.integers(0, 63),
)
def test_sentences_are_read_back(language: str, name: str, which: int, seed: int, template: int) -> None:
    schema = SCHEMAS[name]
    table = all_tables(schema)[which]
    for row in TableStream(schema, table, language, seed).rows(3):
        text = verbalise(schema, table, row, language, template)
        assert invert(text, schema, language) == (table, row)
        assert list(row) == schema.columns(table)
        assert "\n" not in text
        for value in row.values():
            assert str(value) in text
        words = load_holo_language(language)
        for column in schema.columns(table)[1:]:
            assert f"{words.label(column)}{words.joiner}{row[column]}" in text
    assert invert("Something else entirely.", schema, language) is None


@pytest.mark.parametrize("name", list(SCHEMAS))
def test_rows_fit_together(name: str) -> None:
    schema = SCHEMAS[name]
    parents, children, events = (TableStream(schema, table, "en", 4).rows(200) for table in schema.tables)
    for above, below, column in ((parents, children, schema.parent), (children, events, schema.child)):
        known = [row["id"] for row in above]
        assert len(set(known)) == 200
        assert all(row[column] in known[: place + 1] for place, row in enumerate(below))
    assert len({row["name"] for row in children}) == 200
    assert {row[schema.kind] for row in children} == set(categories(schema, schema.kind, "en"))
    assert len(set(categories(schema, schema.place, "en"))) == CATEGORIES
    assert TableStream(schema, schema.child, "en", 4).rows(50) == children[:50]
    assert TableStream(schema, schema.child, "en", 5).rows(50) != children[:50]
    assert all(schema.amount.low <= float(str(row[schema.amount.name])) <= schema.amount.high for row in children)


@pytest.mark.parametrize("language", ["de", "en", "es", "zh"])
def test_every_word_and_question_is_there(language: str) -> None:
    words = load_holo_language(language)
    assert len(words.frames) >= 5
    for schema in SCHEMAS.values():
        for table in all_tables(schema):
            assert words.table(table)
            assert all(words.label(column) for column in schema.columns(table)[1:])
            labels = [words.label(column) for column in schema.columns(table)[1:]]
            assert len(set(labels)) == len(labels)
    for name, query in QUERIES.items():
        for variant in query.variants:
            assert words.wording[f"{name}_{variant}" if variant else name]
