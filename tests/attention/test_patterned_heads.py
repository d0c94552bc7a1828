"""MInference: patterns from files, and finding them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from farspan.attention import MInference, attention_report
from farspan.attention.head_patterns import HeadPattern, pattern_cells, read_patterns
from farspan.attention.pattern_search import PatternSearch
from farspan.errors import FarspanError, LeverNotApplicable, RecipeError
from farspan.recipe import Recipe, build_lever
from tests.attention.conftest import tiny_model
from tests.attention.plans import random_inputs
from tests.attention.test_any_model import tokens
from tests.attention.test_selectors import stripes
from tests.attention.test_sink_window import context

CANDIDATES = (
    HeadPattern("stream_llm", 16, 64),
    HeadPattern("vertical_and_slash", 31, 51),
    HeadPattern("block_sparse", 0, 0),
)


def test_heads_read_their_own_patterns() -> None:
    query, key, _ = random_inputs(1, 4, 2, 320, 320, 16)
    entries = [("stream_llm", 16, 32, 1.0), ("block_sparse", 0, 0, 1.0), ("vertical_and_slash", 35, 50, 1.0)]
    layer = {str(head): entries[head % 3] for head in range(4)}
    lever = MInference(block_size=16, head_config=(layer,), top_blocks=3)
    selection = lever.select(query, key, context(320, 320))
    assert selection is not None
    plan = selection.plan
    assert plan.col_ptr is not None
    columns = plan.col_ptr.diff().view(4, -1).sum(-1)
    assert columns.gt(0).tolist() == [False, False, True, False]
    blocks = plan.block_mask()[0]
    assert torch.equal(blocks[0], blocks[3])
    # three blocks, and the own one where it is none of them
    assert int(blocks[1].sum(-1).max()) <= 4
    alone = MInference(block_size=16, vertical_size=35, slash_size=50).select(query, key, context(320, 320))
    assert alone is not None
    assert torch.equal(alone.plan.to_token_mask()[0, 2], plan.to_token_mask()[0, 2])


def test_a_budget_by_length_is_split_into_columns_and_slashes() -> None:
    query, key, _ = random_inputs(1, 2, 2, 1000, 1000, 8)
    lever = MInference(block_size=16, adaptive_budget=0.3)
    by_length = lever.select(query, key, context(1000, 1000))
    by_size = MInference(block_size=16, vertical_size=60, slash_size=240).select(query, key, context(1000, 1000))
    assert by_length is not None
    assert by_size is not None
    assert torch.equal(by_length.plan.kept_cells, by_size.plan.kept_cells)


def test_cells_are_exact_where_blocks_round_up() -> None:
    query, key = stripes(200)
    rows = torch.tensor([300, 500, 767])
    sizes = {"last_q": 64, "block_size": 16, "top_blocks": 4, "scaling": 512**-0.5}
    cells = pattern_cells(HeadPattern("vertical_and_slash", 31, 50), query, key, rows, **sizes)  # type: ignore[arg-type]
    for row, read in zip(rows.tolist(), cells, strict=True):
        assert read[37]
        assert read[row - 200]
        assert not read[row + 1 :].any()
        # 31 columns, 50 distances
        assert int(read.sum()) <= 81
    shape = pattern_cells(HeadPattern("stream_llm", 4, 8), query, key, rows, **sizes)  # type: ignore[arg-type]
    assert shape.sum(-1).tolist() == [12, 12, 12]


@pytest.mark.parametrize("objective", ["mass", "output_error"])
def test_the_search_finds_what_was_planted(objective: str) -> None:
    lines = stripes(200)
    _, _, value = random_inputs(1, 2, 2, 768, 768, 512)
    near = torch.nn.functional.normalize(torch.randn(768, 512, generator=torch.Generator().manual_seed(1)), dim=-1)
    # the other head looks back by every distance below 62 in turn: more distances than lines
    row = torch.arange(768)
    local_key, local_query = near, 25.0 * 512**0.5 * near[(row - row * 7 % 62).clamp(min=0)]
    query = torch.stack([lines[0][0, 0], local_query])[None]
    key = torch.stack([lines[1][0, 0], local_key])[None]
    search = PatternSearch(objective, CANDIDATES[:2], rows=64)  # type: ignore[arg-type]
    search.see(0, query, key, value, 512**-0.5)
    (found,) = search.best()
    assert [pattern.kind for pattern in found] == ["vertical_and_slash", "stream_llm"]
    if objective == "mass":
        assert all(pattern.score > 0.85 for pattern in found)


def test_of_equal_candidates_the_cheapest_is_taken() -> None:
    query, key, value = random_inputs(1, 2, 1, 300, 300, 8)
    whole = [HeadPattern("stream_llm", 0, 10**6), HeadPattern("stream_llm", 0, 299), HeadPattern("stream_llm", 0, 1)]
    search = PatternSearch("mass", whole)
    search.see(0, query, key, value, 0.35)
    search.see(0, query, key, value, 0.35)
    assert [pattern[:3] for pattern in search.best()[0]] == [("stream_llm", 0, 299)] * 2


def test_fit_writes_a_file_that_is_used(tmp_path: Path) -> None:
    model = tiny_model("llama")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    file = tmp_path / "patterns" / "heads.json"
    texts = [tokens(1, 200, seed=seed) for seed in range(2)]
    lever = MInference(block_size=16, top_blocks=4, min_length=0, vertical_size=30).fit(
        model, texts, file, candidates=[tuple(candidate) for candidate in CANDIDATES]
    )
    assert lever.head_config == str(file)
    assert (lever.vertical_size, lever.top_blocks) == (30, 4)
    written = json.loads(file.read_text())
    assert [sorted(layer) for layer in written] == [["0", "1", "2", "3"]] * 2
    assert model.config._attn_implementation == "sdpa"
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    with torch.no_grad(), lever(model):
        model(texts[0])
        assert all(stats.sparse == 1 for stats in attention_report(model))
    recipe = Recipe([lever])
    again = Recipe.from_yaml(recipe.to_yaml(tmp_path / "recipe.yaml"))
    assert "head_config: patterns/heads.json" in (tmp_path / "recipe.yaml").read_text()
    (read,) = again.levers
    assert isinstance(read, MInference)
    assert read.patterns == lever.patterns


def test_the_search_stops_in_time_but_reads_one_text(tmp_path: Path) -> None:
    model = tiny_model("llama")
    read: list[int] = []

    def texts() -> object:
        for seed in range(5):
            read.append(seed)
            yield tokens(1, 100, seed=seed)

    candidates = [tuple(candidate) for candidate in CANDIDATES]
    MInference(block_size=16).fit(model, texts(), tmp_path / "h.json", candidates=candidates, seconds=0.0)  # type: ignore[arg-type]
    assert read == [0, 1]
    with pytest.raises(FarspanError, match="no text was read"):
        MInference(block_size=16).fit(model, [], tmp_path / "h.json")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot read head_config"),
        ('{"0": 1}', "must be a list of layers"),
        ('[{"0": ["zigzag", 1, 2, 3]}]', "layer 0, head 0: unknown pattern 'zigzag'; known: vertical_and_slash"),
        ('[{"0": ["stream_llm", 1, 2, 3], "2": ["stream_llm", 1, 2, 3]}]', "numbered 0 to 1 without gaps"),
        ('[{"0": ["stream_llm"]}]', "an entry is"),
    ],
)
def test_wrong_files_are_named(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "heads.json"
    file.write_text(content)
    with pytest.raises(FarspanError, match=message):
        read_patterns(str(file))
    with pytest.raises(FarspanError, match=message):
        MInference(head_config=str(file)).check(tiny_model("llama").config)


def test_a_file_of_another_model_is_refused() -> None:
    model = tiny_model("llama")
    entry = ("stream_llm", 16, 32, 1.0)
    three = {str(head): entry for head in range(3)}
    four = {str(head): entry for head in range(4)}
    with pytest.raises(LeverNotApplicable, match="has 1 layers, the model 2"):
        MInference(head_config=(four,))(model)
    with pytest.raises(LeverNotApplicable, match="has 3 heads in layer 1, the model 4"):
        MInference(head_config=(four, three))(model)


@pytest.mark.parametrize(
    ("given_settings", "message"),
    [({"vertical_size": 0}, "vertical_size"), ({"adaptive_budget": 1.5}, "adaptive_budget"), ({"last_q": 0}, "last_q")],
)
def test_bad_settings_are_named(given_settings: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        build_lever("minference", given_settings)
