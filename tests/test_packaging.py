"""The project's own files: pinned versions, names in tables, and what a clean installation needs."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from farspan import __version__
from farspan.recipe import LEVERS, Lever, lever_class

ROOT = Path(__file__).parent.parent

# A torch built for CUDA brings libraries of its own, pinned by torch itself.
BROUGHT_BY_TORCH = ("nvidia-", "cuda-", "triton")


def _constraints() -> dict[str, Version]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").split()
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines), "names and exact versions only"
    return {canonicalize_name(name): Version(version) for name, version in (line.split("==") for line in lines)}


def _needed(extras: set[str]) -> dict[str, Version]:
    """Installed versions of all that farspan with these extras pulls in, however far away."""
    found: dict[str, Version] = {}
    waiting = [("farspan", frozenset(extras))]
    seen = set(waiting)
    while waiting:
        name, wanted = waiting.pop()
        try:
            package = distribution(name)
        except PackageNotFoundError:
            continue
        found[name] = Version(package.version)
        for text in package.requires or []:
            requirement = Requirement(text)
            if requirement.marker and not any(requirement.marker.evaluate({"extra": e}) for e in ("", *wanted)):
                continue
            entry = (canonicalize_name(requirement.name), frozenset(requirement.extras))
            if entry not in seen:
                seen.add(entry)
                waiting.append(entry)
    del found["farspan"]
    return found


def test_constraints_pin_everything_that_gets_installed() -> None:
    constraints = _constraints()
    needed = {name: v for name, v in _needed({"dev"}).items() if not name.startswith(BROUGHT_BY_TORCH)}
    assert {"torch", "transformers", "pytest", "ray", "mkdocs-material"} <= needed.keys()
    assert sorted(needed.keys() - constraints.keys()) == []
    differing = {name: v for name, v in needed.items() if Version(v.public) != constraints[name]}
    assert differing == {}


def test_constraints_satisfy_the_requirements() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    constraints = _constraints()
    extras = project["optional-dependencies"]
    for text in [*project["dependencies"], *extras["dev"], *extras["train"], *extras["docs"]]:
        requirement = Requirement(text)
        if requirement.name != "farspan":
            assert constraints[canonicalize_name(requirement.name)] in requirement.specifier, text


def test_versions_agree() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["version"] == __version__
    assert f"## [{__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", list(LEVERS))
def test_every_lever_has_a_row_with_its_settings_in_the_documentation(name: str) -> None:
    page = (ROOT / "docs" / "levers.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith(f"| `{name}` |")]
    assert len(rows) == 1
    documented = set(re.findall(r"`(\w+)`", rows[0].split("|")[3]))
    lever = lever_class(name)
    shared = {setting for base in lever.__bases__ if issubclass(base, Lever) for setting in base.model_fields}
    assert documented == set(lever.model_fields) - shared
