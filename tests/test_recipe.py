"""Recipes as data: the string form, the YAML file, and what is refused in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from farspan.errors import FarspanError, LeverConflict, RecipeError
from farspan.recipe import Recipe
from tests.toys import Idle, Note, Scale, Shift

pytestmark = pytest.mark.usefixtures("toy_levers")

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.sampled_from(
    ["true", "1", "1e-5", "null", "a,b", "k=v", "it's", '"', "[", "x:y=z", "2020-01-01", "a/b.safetensors", "", " a "]
)
SCALES = st.builds(
    Scale,
    factor=st.floats(1, 1e300) | st.integers(1, 10),
    label=TEXTS | st.none(),
    layers=st.lists(st.integers(-5, 99), max_size=4) | st.none(),
    exact=st.booleans(),
)
NOTES = st.builds(Note, low=st.integers(-9, 0), high=st.integers(1, 9))
RECIPES = st.builds(
    lambda scales, notes, first: Recipe([*scales, *notes] if first else [*notes, *scales]),
    st.lists(SCALES, max_size=1),
    st.lists(NOTES, max_size=3),
    st.booleans(),
)


# Reading and writing


@given(RECIPES)
def test_string_form_round_trips(recipe: Recipe) -> None:
    text = str(recipe)
    assert Recipe.parse(text) == recipe
    assert len(text.splitlines()) <= 1


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(RECIPES)
def test_yaml_round_trips(tmp_path: Path, recipe: Recipe) -> None:
    assert Recipe.from_yaml(recipe.to_yaml(tmp_path / "r.yaml")) == recipe
    assert Recipe.from_list(recipe.to_list()) == recipe


@given(st.text("ab=:,[]{}'\"\\ 1-.#&*!|>%@`\n", max_size=20))
def test_any_text_is_read_or_refused_in_one_line(text: str) -> None:
    try:
        Recipe.parse(f"toy-scale:label={text}")
    except FarspanError as error:
        refusal = str(error)
    else:
        refusal = ""
    assert len(refusal.splitlines()) <= 1


def test_string_form_reads_as_documented() -> None:
    recipe = Recipe.parse("toy-scale:factor=8,exact=false, toy-note:low=-3 ,high=4,toy-idle")
    assert recipe.levers == (Scale(factor=8, exact=False), Note(low=-3, high=4), Idle())
    assert str(recipe) == "toy-scale:factor=8.0,exact=false,toy-note:low=-3,high=4,toy-idle"
    assert len(recipe) == 3
    assert list(recipe) == list(recipe.levers)
    assert hash(recipe.levers[0]) == hash(Scale(factor=8, exact=False, layers=None))


def test_lists_and_quoted_texts_hold_commas() -> None:
    (lever,) = Recipe.parse("""toy-scale:layers=[0, 3],label='a, it''s b'""")
    assert lever == Scale(layers=[0, 3], label="a, it's b")


def test_defaults_are_left_out() -> None:
    assert str(Recipe([Scale()])) == "toy-scale"
    assert Recipe([Scale()]).to_list() == [{"lever": "toy-scale"}]
    assert str(Recipe()) == ""
    assert Recipe.parse("") == Recipe()


def test_yaml_file_is_a_list_of_levers(tmp_path: Path) -> None:
    path = Recipe([Scale(factor=3), Idle()]).to_yaml(tmp_path / "deep" / "r.yaml")
    assert yaml.safe_load(path.read_text()) == {
        "levers": [{"lever": "toy-scale", "factor": 3.0}, {"lever": "toy-idle"}]
    }
    bare = tmp_path / "bare.yml"
    bare.write_text("- {lever: toy-idle}\n")
    assert Recipe.from_yaml(bare) == Recipe([Idle()])


def test_read_takes_a_file_or_a_string(tmp_path: Path) -> None:
    path = Recipe([Idle()]).to_yaml(tmp_path / "r.yaml")
    unsuffixed = path.rename(tmp_path / "recipe")
    assert Recipe.read(str(unsuffixed)) == Recipe.read("toy-idle") == Recipe([Idle()])
    long = ",".join(["toy-note:low=-1"] * 300)
    assert len(Recipe.read(long)) == 300


# Weights


def test_weights_inside_the_folder_are_relative_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside, outside = tmp_path / "run" / "w" / "a.safetensors", tmp_path / "other" / "b.safetensors"
    path = Recipe([Note(weights=str(inside)), Note(weights=str(outside)), Note()]).to_yaml(tmp_path / "run" / "r.yaml")
    rows = yaml.safe_load(path.read_text())["levers"]
    assert [row.get("weights") for row in rows] == ["w/a.safetensors", str(outside), None]
    (tmp_path / "run").rename(tmp_path / "moved")
    moved = [lever.weights for lever in Recipe.from_yaml(tmp_path / "moved" / "r.yaml") if isinstance(lever, Note)]
    assert moved == [str(tmp_path / "moved" / "w" / "a.safetensors"), str(outside), None]


def test_weights_relative_to_the_working_folder_survive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    original = Recipe([Note(weights="run/w.safetensors"), Note(weights="elsewhere/w.safetensors")])
    read = Recipe.from_yaml(original.to_yaml("run/r.yaml"))
    expected = [tmp_path / "run" / "w.safetensors", tmp_path / "elsewhere" / "w.safetensors"]
    assert [Path(str(lever.weights)).resolve() for lever in read if isinstance(lever, Note)] == expected


# What is refused, each in one line


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("toy-scal", ["unknown lever 'toy-scal'", "did you mean toy-scale"]),
        ("toy-scale:factor=0.5", ["toy-scale", "factor", "greater than or equal to 1", "0.5"]),
        ("toy-scale:factor=much", ["factor", "number", "much"]),
        ("toy-scale:factr=2", ["no setting 'factr'", "it has: factor, label, layers, exact"]),
        ("toy-note:low=3", ["toy-note", "low must not be above high"]),
        ("factor=2", ["starts with a setting"]),
        ("toy-scale:factor", ["is not lever:key=value"]),
        ("toy-scale:=2", ["is not lever:key=value"]),
        ("toy-scale:layers=[1", ["cannot be read"]),
        ("toy-scale:factor=2,factor=3", ["'factor' is given twice"]),
        ("toy-scale:lever=toy-note", ["'lever' is given twice"]),
        ("toy-scale,toy-shift", ["'toy-scale' and 'toy-shift' both change toy-weight"]),
        ("toy-scale,toy-scale", ["'toy-scale' and 'toy-scale' both change toy-weight"]),
    ],
)
def test_bad_strings(text: str, words: list[str]) -> None:
    with pytest.raises(FarspanError) as caught:
        Recipe.parse(text)
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in words), message


@pytest.mark.parametrize(
    ("content", "word"),
    [
        ("levers: [", "not valid YAML"),
        ("", "must hold a list"),
        ("levers: 3", "must hold a list"),
        ("levers: [toy-idle]", "mappings with a 'lever' name"),
        ("levers: [{factor: 2}]", "mappings with a 'lever' name"),
        ("levers: [{lever: toy-scale, factor: 0}]", "greater than or equal to 1"),
        ("levers: [{lever: toy-scale, 3: 0}]", "toy-scale"),
        ("levers: [{lever: nothing-like-it-at-all}]", "unknown lever"),
        (b"\xff\xfe\x00", "not valid YAML"),
    ],
)
def test_bad_files(tmp_path: Path, content: str | bytes, word: str) -> None:
    path = tmp_path / "r.yaml"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(FarspanError) as caught:
        Recipe.from_yaml(path)
    assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unreadable_files(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.yaml", tmp_path):
        with pytest.raises(RecipeError, match="cannot read recipe"):
            Recipe.from_yaml(path)
    with pytest.raises(RecipeError, match="cannot read recipe"):
        Recipe.read(str(tmp_path / "missing.yaml"))


def test_levers_without_slot_may_repeat() -> None:
    assert len(Recipe([Note(), Note(), Scale()])) == 3
    with pytest.raises(LeverConflict):
        Recipe([Scale(), Note(), Shift()])


@pytest.mark.parametrize("wrong", [3, "toy-scale", None, Scale])
def test_only_levers_and_factories_make_a_recipe(wrong: Any) -> None:
    with pytest.raises(RecipeError, match="takes lever objects or context manager factories"):
        Recipe([wrong])
