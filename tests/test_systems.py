"""The map of systems: its data file, the questions asked of it, and the page made from it."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from farspan import systems
from farspan.cli import COMMANDS
from farspan.cli.systems import outline, to_markdown
from farspan.errors import FarspanError
from farspan.evals.tasks import DOCUMENTS, TASKS
from farspan.recipe import LEVERS

ROOT = Path(__file__).parent.parent
Document = dict[str, list[dict[str, object]]]
LENGTHS = st.integers(1, 2**24)


def _document() -> Document:
    document: Document = json.loads(files("farspan").joinpath("systems.json").read_text())
    return document


def test_forty_six_systems_with_unique_slugs_on_leaves() -> None:
    entries = systems.load_map().systems
    assert len({entry.slug for entry in entries}) == len(entries) == 46
    assert len({entry.arxiv for entry in entries}) == 46
    assert {leaf for entry in entries for leaf in entry.leaves} <= set(systems.leaves())


def test_tree_has_five_roots() -> None:
    assert [node.id for node in systems.load_map().nodes if node.parent is None] == ["A", "I", "T", "E", "X"]
    for leaf in systems.leaves():
        assert len(systems.ancestry(leaf)) >= 2
        assert systems.node(leaf).about


def test_path_runs_from_root_to_home_leaf() -> None:
    assert [node.id for node in systems.path("giraffe")] == ["A", "A1", "A1.3", "A1.3a"]
    assert [node.id for node in systems.path("stem")] == ["X", "X4"]


def test_systems_under_collects_cross_links_once() -> None:
    slugs = [entry.slug for entry in systems.systems_under("A3")]
    assert slugs == [
        "supo",
        "mirothinker",
        "continuous-memory",
        "extensible-tokenization",
        "inftythink",
        "rag-scaling",
    ]
    assert systems.systems_under("a4.1A") == systems.systems_of_leaf("A4.1a")


def test_every_question_has_systems() -> None:
    for number in range(1, 11):
        assert all(number in entry.questions for entry in systems.systems_of_question(number))
        assert len(systems.systems_of_question(number)) >= 2


@pytest.mark.parametrize(
    ("ask", "word"),
    [
        (lambda: systems.node("A1.3x"), "did you mean"),
        (lambda: systems.systems_of_leaf("A1"), "not a leaf"),
        (lambda: systems.systems_under("Q"), "the map starts at"),
        (lambda: systems.systems_of_question(11), "1 to 10"),
        (lambda: systems.path("girafe"), "giraffe"),
    ],
)
def test_what_is_not_on_the_map_says_so_in_one_line(ask: Callable[[], object], word: str) -> None:
    with pytest.raises(FarspanError) as caught:
        ask()
    assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def _moved_to_inner_node(document: Document) -> None:
    document["systems"][0]["leaves"] = ["A1"]


def _twice(document: Document) -> None:
    document["systems"].append(document["systems"][0])


def _orphan(document: Document) -> None:
    document["nodes"][3]["parent"] = "A9"


def _unbacked(document: Document) -> None:
    document["systems"][0]["state"] = "works"


@pytest.mark.parametrize("spoil", [_moved_to_inner_node, _twice, _orphan, _unbacked])
def test_a_wrong_data_file_is_refused(spoil: Callable[[Document], None]) -> None:
    document = _document()
    systems.Map.model_validate_json(json.dumps(document))
    spoil(document)
    with pytest.raises(ValidationError):
        systems.Map.model_validate_json(json.dumps(document))


def test_what_is_said_to_work_is_there() -> None:
    for entry in systems.load_map().systems:
        if entry.state == "planned":
            continue
        assert (ROOT / entry.file).is_file(), entry.slug
        assert (ROOT / entry.evidence).exists(), entry.slug
        words = entry.command.split()
        assert words[0] != "farspan" or words[1] in COMMANDS, entry.slug


def test_every_lever_and_task_has_a_leaf_and_nothing_else_is_claimed() -> None:
    assert systems.coverage([*LEVERS, *TASKS, *DOCUMENTS]) == ((), ())


def test_coverage_names_both_sides() -> None:
    found = systems.coverage([*(set(LEVERS) - {"yarn"}), "no-such-lever"])
    assert "no-such-lever" in found.missing
    assert "yarn" in found.unknown


def test_documentation_page_is_up_to_date() -> None:
    page = (ROOT / "docs" / "systems.md").read_text(encoding="utf-8")
    assert page == to_markdown(), "run: make docs"


def test_page_describes_every_system_once() -> None:
    page = to_markdown()
    for entry in systems.load_map().systems:
        assert page.count(f'<a id="{entry.slug}"></a>') == 1


def test_outline_counts_what_it_shows() -> None:
    everything = "\n".join(outline())
    assert all(f"{entry.slug} " in everything for entry in systems.load_map().systems)
    assert outline()[-1].startswith("46 systems:")
    assert outline("A2.2")[-1].startswith("1 system:")
    assert any("kvpress" in line for line in outline("A2.1"))
    assert outline("T3", question=2)[-1].startswith("1 system:")


class _Config:
    """The attributes of a transformers configuration that the critical dimension reads."""

    model_type = "toy"
    hidden_size = 4096
    num_attention_heads = 32
    max_position_embeddings = 4096

    def __init__(self, **attributes: object) -> None:
        self.rope_parameters: dict[str, object] | None = {"rope_theta": 1e4}
        vars(self).update(attributes)

    def get_text_config(self) -> _Config:
        return self


@pytest.mark.parametrize(
    ("attributes", "dimension"),
    [
        ({}, 92),
        ({"head_dim": 64}, 46),
        ({"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}}, 46),
        ({"rope_parameters": {"rope_theta": 1e4, "original_max_position_embeddings": 512}}, 62),
        ({"rope_parameters": {"full_attention": {"rope_theta": 1e6}, "sliding_attention": {"rope_theta": 1e4}}}, 62),
    ],
)
def test_critical_dimension_reads_a_configuration(attributes: dict[str, object], dimension: int) -> None:
    assert systems.critical_rope_dimension(_Config(**attributes)) == dimension


def test_critical_dimension_of_a_real_configuration() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(hidden_size=4096, num_attention_heads=32, max_position_embeddings=4096)
    assert systems.critical_rope_dimension(config) == systems.critical_rope_dimension(128, 1e4, 4096) == 92


@given(half=st.integers(1, 256), theta=st.floats(1.5, 1e9), length=LENGTHS, longer=LENGTHS)
def test_critical_dimension_is_even_bounded_and_monotone(half: int, theta: float, length: int, longer: int) -> None:
    shorter, longer = sorted((length, longer))
    low = systems.critical_rope_dimension(2 * half, theta, shorter)
    high = systems.critical_rope_dimension(2 * half, theta, longer)
    assert low % 2 == high % 2 == 0
    assert 0 <= low <= high <= 2 * half


@pytest.mark.parametrize("arguments", [(0, 1e4, 512), (63, 1e4, 512), (64, 1.0, 512), (64, 1e4, 0), (64,), (64, 1e4)])
def test_critical_dimension_refuses_nonsense(arguments: tuple[float, ...]) -> None:
    with pytest.raises(FarspanError):
        systems.critical_rope_dimension(*arguments)  # type: ignore[arg-type]


def test_a_model_without_rotary_positions_has_none() -> None:
    with pytest.raises(FarspanError, match="no rotary positions"):
        systems.critical_rope_dimension(_Config(rope_parameters=None))
