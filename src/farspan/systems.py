"""The map of the field: where each of the 46 published systems belongs, lives, and how to try it.

One data file, `systems.json`, holds the tree of the survey "Thus Spake Long-Context Large Language Model" (with one
branch of our own, X), the systems on its leaves and the methods of other packages they are compared with. This module
reads and asks it. It knows no room and loads no method: rooms may be planned, the map stands.

Source: arXiv 2502.17129 v1 (tree and critical dimension); the placement of systems is our own.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from farspan.errors import FarspanError

if TYPE_CHECKING:
    from transformers import PretrainedConfig

State = Literal["planned", "partial", "works"]


class UnknownEntry(FarspanError):
    """A leaf, system or question that is not on the map."""


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Node(_Entry):
    """A place on the map; a leaf if no other node has it as parent.

    `section` is the survey's, `about` says what belongs to a leaf, `elsewhere` which common library has the method.
    """

    id: str = Field(pattern=r"^[AITEX](\d(\.\d[a-z]?)?)?$")
    title: str = Field(min_length=1)
    section: str
    parent: str | None
    about: str = ""
    elsewhere: str = ""


class Question(_Entry):
    """One of the field's ten open questions, and what Farspan brings to it."""

    number: int = Field(ge=1, le=10)
    title: str
    question: str
    answer: str


class System(_Entry):
    """A published system. `leaves[0]` is its home, further leaves are cross-links.

    `file`, `command` and `evidence` are empty as long as `state` is "planned"; `names` are those under which its
    levers and tasks are registered.
    """

    slug: str = Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")
    system: str = Field(min_length=1)
    arxiv: str = Field(pattern=r"^\d{4}\.\d{5}$")
    kind: Literal["lever", "measure", "law"]
    leaves: tuple[str, ...] = Field(min_length=1)
    questions: tuple[int, ...] = Field(min_length=1)
    room: str
    file: str
    command: str
    state: State
    evidence: str
    names: tuple[str, ...]

    @model_validator(mode="after")
    def _state_is_backed(self) -> System:
        backed = (bool(self.file), bool(self.command), bool(self.evidence))
        if self.state == "planned" and any(backed):
            raise ValueError(f"{self.slug}: a planned system has no file, command or evidence yet")
        if self.state != "planned" and not all(backed):
            raise ValueError(f"{self.slug}: state '{self.state}' needs a file, a command and evidence")
        return self


class Baseline(_Entry):
    """A method outside the 46 that they are compared with."""

    slug: str
    system: str
    arxiv: str = Field(pattern=r"^(\d{4}\.\d{5})?$")
    leaves: tuple[str, ...] = Field(min_length=1)
    names: tuple[str, ...]


class Map(_Entry):
    """The whole data file, checked: a tree with roots A, I, T, E, X, and systems on existing leaves."""

    nodes: tuple[Node, ...]
    questions: tuple[Question, ...]
    systems: tuple[System, ...]
    baselines: tuple[Baseline, ...]

    @field_validator("nodes")
    @classmethod
    def _nodes_form_a_tree(cls, nodes: tuple[Node, ...]) -> tuple[Node, ...]:
        seen: set[str] = set()
        for node in nodes:
            if node.id in seen:
                raise ValueError(f"node {node.id} stands twice")
            if node.parent is None and len(node.id) != 1:
                raise ValueError(f"node {node.id} has no parent")
            if node.parent is not None and (node.parent not in seen or not node.id.startswith(node.parent)):
                raise ValueError(f"node {node.id} cannot hang on {node.parent}")
            seen.add(node.id)
        return nodes

    @field_validator("systems", "baselines")
    @classmethod
    def _entries_stand_on_leaves(
        cls, entries: tuple[System | Baseline, ...], info: ValidationInfo
    ) -> tuple[System | Baseline, ...]:
        nodes: tuple[Node, ...] = info.data.get("nodes", ())
        leaf_ids = set(_leaf_ids(nodes))
        seen: set[str] = set()
        for entry in entries:
            if entry.slug in seen:
                raise ValueError(f"{entry.slug} stands twice")
            if wrong := set(entry.leaves) - leaf_ids:
                raise ValueError(f"{entry.slug}: {', '.join(sorted(wrong))} is no leaf of the map")
            seen.add(entry.slug)
        return entries


class Coverage(NamedTuple):
    """What registry and map do not share; both empty if all is well."""

    missing: tuple[str, ...]
    unknown: tuple[str, ...]


def _leaf_ids(nodes: Iterable[Node]) -> list[str]:
    nodes = list(nodes)
    parents = {node.parent for node in nodes}
    return [node.id for node in nodes if node.id not in parents]


@cache
def load_map() -> Map:
    """The map, read once from the data file that ships with the package."""
    text = files("farspan").joinpath("systems.json").read_text(encoding="utf-8")
    return Map.model_validate_json(text)


def leaves() -> list[str]:
    """Ids of all leaves, in the map's order."""
    return _leaf_ids(load_map().nodes)


def node(id: str) -> Node:
    """The node with this id; upper and lower case are the same.

    Raises
    ------
    UnknownEntry : there is none.
    """
    by_id = {entry.id.lower(): entry for entry in load_map().nodes}
    if id.lower() not in by_id:
        close = [by_id[key].id for key in difflib.get_close_matches(id.lower(), by_id, n=3, cutoff=0.5)]
        hint = f"did you mean {', '.join(close)}?" if close else "the map starts at A, I, T, E and X"
        raise UnknownEntry(f"no place '{id}' on the map; {hint}")
    return by_id[id.lower()]


def systems_of_leaf(id: str) -> list[System]:
    """Systems at a leaf, at home or cross-linked, in the data file's order.

    Raises
    ------
    UnknownEntry : the id is no leaf.
    """
    leaf = node(id).id
    if leaf not in leaves():
        raise UnknownEntry(f"'{leaf}' is an inner place of the map, not a leaf; ask for the systems under it")
    return [system for system in load_map().systems if leaf in system.leaves]


def baselines_of_leaf(id: str) -> list[Baseline]:
    """Methods outside the 46 at a place of the map, none at an inner one; `UnknownEntry` if there is no such place."""
    place = node(id).id
    return [entry for entry in load_map().baselines if place in entry.leaves]


def systems_under(id: str) -> list[System]:
    """Systems with a leaf at or below a node, in the data file's order; `UnknownEntry` if there is no such node."""
    below = {node(id).id}
    for entry in load_map().nodes:
        if entry.parent in below:
            below.add(entry.id)
    return [system for system in load_map().systems if below.intersection(system.leaves)]


def systems_of_question(number: int) -> list[System]:
    """Systems that bear on one of the ten open questions; `UnknownEntry` if the number is not 1 to 10."""
    question(number)
    return [system for system in load_map().systems if number in system.questions]


def question(number: int) -> Question:
    """An open question by its number; `UnknownEntry` if it is not 1 to 10."""
    for entry in load_map().questions:
        if entry.number == number:
            return entry
    raise UnknownEntry(f"no open question {number}; they are numbered 1 to {len(load_map().questions)}")


def system(slug: str) -> System:
    """A system by its slug; `UnknownEntry` names the closest ones."""
    by_slug = {entry.slug: entry for entry in load_map().systems}
    if slug not in by_slug:
        close = difflib.get_close_matches(slug, by_slug, n=3, cutoff=0.4)
        hint = f"did you mean {', '.join(close)}?" if close else "run farspan systems for the list"
        raise UnknownEntry(f"no system '{slug}'; {hint}")
    return by_slug[slug]


def path(slug: str) -> list[Node]:
    """Nodes from the root of the map down to a system's home leaf; `UnknownEntry` if there is no such system."""
    return ancestry(system(slug).leaves[0])


def ancestry(id: str) -> list[Node]:
    """Nodes from the root of the map down to a node, itself included; `UnknownEntry` if there is no such node."""
    line = [node(id)]
    while (parent := line[0].parent) is not None:
        line.insert(0, node(parent))
    return line


def coverage(registry: Iterable[str]) -> Coverage:
    """Compare registered names of levers and tasks with those the map knows.

    Parameters
    ----------
    registry : names as registered, such as the keys of the table of levers

    Returns
    -------
    Coverage : `missing` are registered names that no row of the map claims, so that they have no leaf; `unknown` are
        names the map claims that nothing registers.
    """
    registered = set(registry)
    atlas = load_map()
    entries: tuple[System | Baseline, ...] = (*atlas.systems, *atlas.baselines)
    claimed = {name for entry in entries for name in entry.names}
    return Coverage(tuple(sorted(registered - claimed)), tuple(sorted(claimed - registered)))


def critical_rope_dimension(
    head_dim: int | PretrainedConfig, rope_theta: float | None = None, trained_length: int | None = None
) -> int:
    """Number of rotary dimensions that saw at least one full turn within the trained length.

    Dimensions from this one on met only a part of their angles in training; they are what fails first beyond it.

    Parameters
    ----------
    head_dim : dimensions of a head that are rotated, even; or a transformers configuration, from which whatever is
        not given is read (of several layer types, the one with full attention counts)
    rope_theta : rotary base, above 1
    trained_length : length of training sequences in tokens

    Returns
    -------
    int : `2 ceil(d / 2 * log_theta(length / 2 pi))`, even, clamped to 0 ... d

    Raises
    ------
    FarspanError : a value is missing or out of range.

    Source: arXiv 2502.17129, section 2.3.2, equation 2
    """
    if isinstance(head_dim, int):
        dimensions = head_dim
    else:
        dimensions, theta, length = _rope_of(head_dim)
        rope_theta, trained_length = rope_theta or theta, trained_length or length
    if rope_theta is None or trained_length is None:
        raise FarspanError("give rope_theta and trained_length, or a configuration that holds them")
    if dimensions < 2 or dimensions % 2 or not (math.isfinite(rope_theta) and rope_theta > 1) or trained_length < 1:
        raise FarspanError(
            f"head_dim must be even and positive, rope_theta above 1, trained_length at least 1; "
            f"given {dimensions}, {rope_theta}, {trained_length}"
        )
    turns = math.log(trained_length / (2 * math.pi)) / math.log(rope_theta)
    return min(dimensions, max(0, 2 * math.ceil(dimensions / 2 * turns)))


def _rope_of(config: PretrainedConfig) -> tuple[int, float | None, int | None]:
    """Rotated dimensions, base and trained length of a configuration."""
    config = config.get_text_config()
    rope = getattr(config, "rope_parameters", None) or {}
    rope = rope.get("full_attention", rope)
    heads = getattr(config, "num_attention_heads", None)
    head_dim = getattr(config, "head_dim", None) or (config.hidden_size // heads if heads else None)
    if head_dim is None or not rope:
        raise FarspanError(f"a model of type '{config.model_type}' has no rotary positions")
    partial = rope.get("partial_rotary_factor", getattr(config, "partial_rotary_factor", None)) or 1.0
    length = rope.get("original_max_position_embeddings") or getattr(config, "max_position_embeddings", None)
    return int(head_dim * partial), rope.get("rope_theta"), length
