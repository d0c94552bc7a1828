"""Golden adapter of the map of systems. Its cases carry no function name; the case's own name begins with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from farspan import systems
from tests.golden.compare import assert_close

DEFAULT = "by_name"


def _slugs(entries: list[systems.System]) -> list[str]:
    return [entry.slug for entry in entries]


def _document(_: Any) -> dict[str, Any]:
    atlas = systems.load_map()
    return {
        "nodes": [
            {"id": node.id, "title": node.title, "section": node.section, "parent": node.parent} for node in atlas.nodes
        ],
        "systems": [
            {
                "slug": entry.slug,
                "name": entry.system,
                "kind": entry.kind,
                "leaves": entry.leaves,
                "questions": entry.questions,
                "package": entry.room,
            }
            for entry in atlas.systems
        ],
    }


def _for_each(ask: Callable[[Any], object]) -> Callable[[Any], object]:
    """A list of arguments gives a mapping of answers, one argument gives its answer."""
    return lambda given: {str(one): ask(one) for one in given} if isinstance(given, list) else ask(given)


FUNCTIONS: dict[str, Callable[[Any], object]] = {
    "taxonomy_document": _document,
    "leaves": lambda _: systems.leaves(),
    "systems_of_leaf": _for_each(lambda leaf: _slugs(systems.systems_of_leaf(leaf))),
    "systems_under": _for_each(lambda place: _slugs(systems.systems_under(place))),
    "systems_of_question": _for_each(lambda number: _slugs(systems.systems_of_question(number))),
    "path": _for_each(lambda slug: [node.id for node in systems.path(slug)]),
    "critical_rope_dimension": lambda given: systems.critical_rope_dimension(**given),
}


def _arguments(case: dict[str, Any]) -> Any:
    given = case["input"]
    if isinstance(given, dict):
        given = {key: value for key, value in given.items() if key not in ("function", "fn")}
    return given


def _checked_by(name: str) -> Callable[[dict[str, Any]], None]:
    return lambda case: assert_close(FUNCTIONS[name](_arguments(case)), case["expected"])


def _by_name(case: dict[str, Any]) -> None:
    fitting = [name for name in FUNCTIONS if case["name"].startswith(name)]
    assert fitting, f"no function is named by case {case['name']}"
    _checked_by(max(fitting, key=len))(case)


ADAPTERS: dict[str, Callable[[dict[str, Any]], object]] = {
    DEFAULT: _by_name,
    **{name: _checked_by(name) for name in FUNCTIONS},
}
