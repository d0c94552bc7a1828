"""Recipes at work: levers of other packages, and leaving the model as found."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from farspan import recipe as recipe_module
from farspan.errors import LeverConflict, LeverNotApplicable, RecipeError
from farspan.recipe import LEVERS, Lever, Recipe, build_lever, lever_class
from tests.toys import Idle, Note, Scale, Shift, ToyModel

# Levers of other packages


def _install(folder: Path, module: str, source: str, entry: str) -> None:
    (folder / f"{module}.py").write_text(source)
    info = folder / f"{module}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[farspan.levers]\n{entry}\n")


LEVER_SOURCE = """
from typing import ClassVar
from farspan.recipe import Lever

class Foreign(Lever):
    name: ClassVar[str] = "foreign"
    strength: int = 1
"""


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on the path for packages with entry points; the table is read anew."""
    monkeypatch.syspath_prepend(tmp_path)
    recipe_module.lever_table.cache_clear()
    loaded = set(sys.modules)
    yield tmp_path
    recipe_module.lever_table.cache_clear()
    for name in set(sys.modules) - loaded:
        if name.startswith("foreign_"):
            del sys.modules[name]


def test_another_package_adds_a_lever(packages: Path) -> None:
    _install(packages, "foreign_levers", LEVER_SOURCE, "foreign = foreign_levers:Foreign")
    (lever,) = Recipe.parse("foreign:strength=3")
    assert isinstance(lever, Lever)
    assert lever.model_dump() == {"strength": 3}
    assert set(recipe_module.lever_table()) == {*LEVERS, "foreign"}


def test_another_package_cannot_replace_a_built_in_lever(packages: Path) -> None:
    _install(packages, "foreign_levers", LEVER_SOURCE, "linear = foreign_levers:Foreign")
    assert recipe_module.lever_table()["linear"] == LEVERS["linear"]


@pytest.mark.parametrize(
    ("entry", "word"),
    [
        ("foreign = foreign_missing:Foreign", "cannot be loaded"),
        ("foreign = foreign_levers:Missing", "cannot be loaded"),
        ("foreign = foreign_levers:ClassVar", "not a subclass"),
        ("alien = foreign_levers:Foreign", "must carry this name"),
    ],
)
def test_a_broken_package_is_named(packages: Path, entry: str, word: str) -> None:
    _install(packages, "foreign_levers", LEVER_SOURCE, entry)
    with pytest.raises(RecipeError, match=word):
        lever_class(entry.split()[0])


# On and off


def test_the_model_is_left_as_found() -> None:
    model: Any = ToyModel()
    before = model.weight.detach().clone()
    with Recipe([Scale(factor=3.3), Note()])(model) as same:
        assert same is model
        assert not torch.equal(model.weight, before)
        assert model.log == ["note on"]
    assert torch.equal(model.weight, before)
    assert model.log == ["note on", "note off"]


def test_the_model_is_left_as_found_after_an_exception() -> None:
    model: Any = ToyModel()
    before = model.weight.detach().clone()
    with pytest.raises(ZeroDivisionError), Recipe([Note(), Scale(factor=7)])(model):
        raise ZeroDivisionError
    assert torch.equal(model.weight, before)
    assert model.log == ["note on", "note off"]


def test_a_lever_that_fails_to_switch_on_undoes_the_earlier_ones() -> None:
    model: Any = ToyModel()
    before = model.weight.detach().clone()
    with pytest.raises(NotImplementedError, match="Idle"), Recipe([Scale(factor=7), Idle()])(model):
        pytest.fail("the body must not run")
    assert torch.equal(model.weight, before)


def test_levers_go_off_in_reverse_order() -> None:
    log: list[str] = []

    def named(name: str) -> Any:
        @contextmanager
        def factory(model: Any) -> Iterator[None]:
            log.append(f"{name} on")
            yield
            log.append(f"{name} off")

        return factory

    with Recipe([named("a"), named("b")])(ToyModel()):  # type: ignore[arg-type]
        log.append("body")
    assert log == ["a on", "b on", "body", "b off", "a off"]


def test_any_context_manager_factory_is_accepted_but_not_written() -> None:
    class Press:
        """A method that lives outside: called with the model, it gives a context manager."""

        @contextmanager
        def __call__(self, model: Any) -> Iterator[None]:
            model.log.append("press")
            yield

    model: Any = ToyModel()
    recipe = Recipe([Press(), Scale()])
    with recipe(model):
        assert model.log == ["press"]
    recipe.check(model.config)
    with pytest.raises(RecipeError, match="cannot be written"):
        recipe.to_list()
    with pytest.raises(LeverNotApplicable, match="cannot be baked"):
        recipe.bake(model)


def test_a_recipe_is_a_lever_of_another_recipe() -> None:
    inner = Recipe([Scale(), Note()])
    assert Recipe([inner, Idle()]) == Recipe([Scale(), Note(), Idle()])
    with pytest.raises(LeverConflict):
        Recipe([inner, Shift()])


def test_check_speaks_before_anything_changes() -> None:
    model: Any = ToyModel()
    model.config["rotary"] = False
    recipe = Recipe([Note(), Scale()])
    with pytest.raises(LeverNotApplicable, match="rotary"):
        recipe.check(model.config)
    with pytest.raises(LeverNotApplicable, match="rotary"), recipe(model):
        pytest.fail("the body must not run")
    assert model.log == ["note on", "note off"]


def test_bake_writes_all_or_nothing() -> None:
    model: Any = ToyModel()
    before = model.weight.detach().clone()
    assert Scale().bakeable
    assert not Note().bakeable
    with pytest.raises(LeverNotApplicable, match="toy-note"):
        Recipe([Scale(), Note()]).bake(model)
    assert torch.equal(model.weight, before)
    Recipe([Scale(factor=2)]).bake(model)
    assert torch.equal(model.weight, 2 * before)


def test_levers_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Scale().factor = 3.0  # type: ignore[misc]


@pytest.mark.usefixtures("toy_levers")
def test_build_lever_matches_the_class() -> None:
    assert build_lever("toy-scale", {"factor": 4}) == Scale(factor=4)
    assert lever_class("toy-scale") is Scale
