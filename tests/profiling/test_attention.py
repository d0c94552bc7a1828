"""Methods of attention side by side: what is known beforehand comes out, and what cannot be compared says so."""

from __future__ import annotations

import csv
import io
import json

import pytest
import torch
from transformers import PreTrainedModel

from farspan.attention import (
    AttentionContext,
    AttentionLever,
    BlockRank,
    PermutedBlockSparse,
    Selection,
    SinkWindow,
    Squeezed,
    attention_report,
)
from farspan.errors import FarspanError
from farspan.profiling import made_up, profile_attention, read_by
from farspan.profiling.attention import rows_csv, rows_json, why_not
from farspan.profiling.layers import text_ids

CPU = torch.device("cpu")
SMALL = {"block_size": 16, "min_length": 0}
EVERYTHING = PermutedBlockSparse(threshold=1.0, segment_size=32, **SMALL)
WINDOW = SinkWindow(sinks=16, window=32, **SMALL)


def test_reading_everything_misses_nothing_and_a_window_what_it_leaves_out() -> None:
    problem = made_up(256, 4, 2, 16, CPU, torch.float32)
    dense, whole, window = profile_attention({"all": EVERYTHING, "w": WINDOW}, problem, rounds=2, backend="gather")
    assert (dense.method, dense.density, dense.times_faster, dense.executors) == ("dense", 1.0, 1.0, ("torch",))
    assert whole.density == pytest.approx(1.0)
    assert whole.coverage == pytest.approx(1.0, abs=1e-5)
    assert whole.relative_error == pytest.approx(0.0, abs=1e-5)
    # sinks and window: at most 16 + 32 keys, and as many more as blocks are cut coarsely
    assert window.density is not None
    assert 48 / 256 < window.density < 0.6
    assert window.coverage is not None
    assert window.relative_error is not None
    assert 0.1 < window.coverage < 0.99
    assert window.relative_error > 0.01
    for cost in (dense, whole, window):
        assert (cost.length, cost.layers, cost.rounds) == (256, 1, 2)
        assert cost.computing_seconds is not None
        assert cost.computing_seconds > 0
        assert cost.peak_bytes is not None
        # the output alone
        assert cost.peak_bytes >= 4 * 256 * 16 * 4
    assert window.executors == ("gather",)
    assert window.choosing_seconds is not None
    assert dense.computing_seconds is not None
    assert window.times_faster == pytest.approx(
        dense.computing_seconds / (window.choosing_seconds + window.computing_seconds)  # type: ignore[operator]
    )


def test_keys_in_another_order_are_counted_once() -> None:
    problem = made_up(320, 2, 2, 16, CPU, torch.float32, seed=3)
    lever = PermutedBlockSparse(threshold=0.5, segment_size=64, **SMALL)
    other = lever.model_copy(update={"diagonal": "segment"})
    costs = profile_attention({"original": lever, "segment": other}, problem, rounds=1, memory=False, backend="gather")
    for cost in costs[1:]:
        assert cost.coverage is not None
        assert 0.5 < cost.coverage <= 1 + 1e-5
        assert cost.peak_bytes is None


def test_attention_of_a_model_is_what_its_lever_reads(llama: PreTrainedModel) -> None:
    ids = text_ids(range(3, 90), 200)
    problem = read_by(llama, ids, only=frozenset({0, 2}))
    assert [layer.index for layer in problem.layers] == [0, 2]
    cost = profile_attention({"w": WINDOW}, problem, rounds=1, memory=False, backend="gather")[1]
    with WINDOW(llama), torch.no_grad():
        llama(ids)
        report = attention_report(llama)
    assert cost.density == pytest.approx(sum(report[index].density for index in (0, 2)) / 2)
    assert cost.layers == 2


class Broken(AttentionLever):
    """Fails where it should choose."""

    name = "broken"

    def select(self, query: torch.Tensor, key: torch.Tensor, context: AttentionContext) -> Selection | None:
        raise FarspanError("nothing to choose from\nand more")


def test_one_that_fails_is_marked_and_the_others_go_on() -> None:
    problem = made_up(64, 2, 1, 16, CPU, torch.float32)
    _, broken, window = profile_attention({"broken": Broken(), "w": WINDOW}, problem, rounds=1, backend="gather")
    assert broken.note == "nothing to choose from"
    assert broken.computing_seconds is None
    assert window.note == ""


def test_what_cannot_be_compared_says_so() -> None:
    problem = made_up(64, 2, 1, 16, CPU, torch.float32)
    with pytest.raises(FarspanError, match="'b' cannot be compared here: it needs more than queries and keys"):
        profile_attention({"b": BlockRank()}, problem)
    assert why_not(Squeezed()) is not None
    assert why_not(WINDOW) is None
    problem.layers.clear()
    with pytest.raises(FarspanError, match="no layer to compare on"):
        profile_attention({"w": WINDOW}, problem)


def test_files_hold_every_figure() -> None:
    problem = made_up(64, 2, 1, 16, CPU, torch.float32)
    costs = profile_attention({"w": WINDOW}, problem, rounds=1, memory=False, backend="gather")
    rows = list(csv.DictReader(io.StringIO(rows_csv(costs))))
    assert [row["method"] for row in rows] == ["dense", "w"]
    assert rows[1]["executors"] == "gather"
    assert json.loads(rows_json(costs))[1]["density"] == costs[1].density
