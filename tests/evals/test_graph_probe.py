"""The probe on a model that knows the graph, on one that guesses, and on the bundled one by the command."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from farspan.cli import main
from farspan.evals.graph_probe import GraphTracingProbe, ProbeError, critical_interval, grid
from farspan.evals.graphs import IntArray, grid_graph, parse_graph, ring_graph
from farspan.models import load


class Follows(nn.Module):
    """Puts everything on neighbours and words where the grid has them, or the same on all words and them anywhere."""

    def __init__(self, graph: IntArray, ids: list[int], knows: bool) -> None:
        super().__init__()
        self.config = SimpleNamespace(max_position_embeddings=512, name_or_path="made")
        self.device = torch.device("cpu")
        side = round(len(graph) ** 0.5)
        scores = torch.full((max(ids) + 1, max(ids) + 1), -30.0)
        places = torch.zeros(max(ids) + 1, 8)
        anywhere = torch.randn(len(ids), 8, generator=torch.Generator().manual_seed(0))
        for one, row in enumerate(graph):
            for other, joined in enumerate(row):
                if joined or not knows:
                    scores[ids[one], ids[other]] = 0.0
            if knows:
                places[ids[one], :2] = torch.tensor([one // side, one % side], dtype=torch.float32)
            else:
                places[ids[one]] = anywhere[one]
        self.scores, self.places = scores, places

    def forward(self, input_ids: Tensor, **settings: object) -> SimpleNamespace:
        states = self.places[input_ids]
        return SimpleNamespace(logits=self.scores[input_ids], hidden_states=(torch.zeros_like(states), states))


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return load("reference")[1]


def probe(tokenizer: PreTrainedTokenizerBase, knows: bool, **settings: object) -> GraphTracingProbe:
    graph = grid_graph(3, 3)
    made = GraphTracingProbe(None, tokenizer, graph, **settings)  # type: ignore[arg-type]
    made.model = Follows(graph, made.ids, knows)  # type: ignore[assignment]
    return made


def test_a_model_that_knows_the_graph_follows_it_and_lies_like_it(tokenizer: PreTrainedTokenizerBase) -> None:
    found = probe(tokenizer, True).run(300, 6)
    assert found.accuracy == pytest.approx((1.0,) * len(found.contexts), abs=1e-6)
    assert found.layers == (0, 1)
    last = found.layers.index(1)
    energy, alignment = found.normalized[last][-1], found.alignment[last][-1]
    assert energy is not None
    assert alignment is not None
    assert energy < found.mixed[0]
    assert alignment > 0.99
    # all embeddings of this model are one point: nothing to measure there
    assert found.normalized[0][-1] is None
    assert found.coordinates is not None
    assert len(found.coordinates) == 9
    assert found.critical.value is None


def test_a_model_that_guesses_stays_at_chance_and_lies_anywhere(tokenizer: PreTrainedTokenizerBase) -> None:
    knows, guesses = probe(tokenizer, True).run(300, 6), probe(tokenizer, False).run(300, 6)
    degree = grid_graph(3, 3).sum() / 9
    assert guesses.accuracy[-1] == pytest.approx(degree / 9, abs=0.05)
    assert guesses.baselines["uniform"][-1] == pytest.approx(degree / 9)
    assert guesses.baselines["bigram"][-1] > 0.9
    energies = guesses.normalized[1][-1], knows.normalized[1][-1]
    assert energies[0] is not None
    assert energies[1] is not None
    assert energies[0] > 0.6 > energies[1]


@pytest.mark.parametrize("sampling", ["walk", "pairs"])
def test_walks_stay_on_the_graph(tokenizer: PreTrainedTokenizerBase, sampling: str) -> None:
    made = probe(tokenizer, True, sampling=sampling)
    walks, graph = made.walks(40, 9), made.graph
    steps = graph[walks[:, :-1], walks[:, 1:]]
    assert (steps if sampling == "walk" else steps[:, ::2]).all()
    assert np.array_equal(walks, probe(tokenizer, True, sampling=sampling).walks(40, 9))
    if sampling == "walk":
        assert sorted(walks[:, 0]) == list(range(9))


def test_a_bend_is_found_where_there_is_one() -> None:
    contexts = grid(1400)
    rises = np.clip(0.3 + 0.25 * np.maximum(0, np.log(np.array(contexts) / 150)), 0, 1)
    rows = rises + 0.01 * np.random.default_rng(0).standard_normal((12, len(contexts)))
    found = critical_interval(contexts, rows, 0)
    assert found.value is not None
    assert found.lo is not None
    assert found.hi is not None
    assert found.lo <= found.value <= found.hi
    assert 80 < found.value < 300
    flat = critical_interval(contexts, np.full((4, len(contexts)), 0.5), 0)
    assert flat.value is None


def test_refusals(tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(ProbeError, match="more than the model's window of 512"):
        probe(tokenizer, True).run(600)
    assert probe(tokenizer, True, beyond_window=True).run(600, 2).contexts[-1] == 600
    with pytest.raises(ProbeError, match="16 or more tokens"):
        probe(tokenizer, True).run(4)
    with pytest.raises(ProbeError, match="9 nodes and needs as many different words"):
        probe(tokenizer, True, words=["apple"] * 9)
    with pytest.raises(ProbeError, match="is not one token"):
        GraphTracingProbe(None, tokenizer, ring_graph(3), words=["unquestionable", "apple", "box"])  # type: ignore[arg-type]


def test_the_command_draws_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    with pytest.raises(SystemExit) as ended:
        main(["probe", "reference", "--graph", "ring:5", "--context", "64", "-n", "3", "--out", str(out)])
    assert not ended.value.code
    assert "reference puts" in capsys.readouterr().out
    record = json.loads((out / "probe.json").read_text(encoding="utf-8"))
    assert (record["model"], record["graph"], record["contexts"][-1]) == ("reference", "ring:5", 64)
    page = (out / "probe.html").read_text(encoding="utf-8")
    assert "How much context it takes" in page
    assert 'data-figure="accuracy"' in page
    lines = (out / "tables" / "probe.csv").read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("context_tokens,accuracy,uniform,bigram")
    assert len(lines) == 1 + len(record["contexts"])


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("--graph", "star:4"), "'star:4' is no graph; write grid:4x4, hex:3x4 or ring:8"),
        (("--context", "2k"), "2048 tokens are more than the model's window of 512"),
        (("--context", "8"), "16 or more tokens"),
    ],
)
def test_bad_input_is_one_line(arguments: tuple[str, ...], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["probe", "reference", *arguments])
    printed = capsys.readouterr().err
    assert ended.value.code == 2
    assert line in printed
    assert printed.rstrip().count("\n") == 0
    assert len(parse_graph("hex:3x4")) == 12
