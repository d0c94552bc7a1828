"""Attention functions inside models: when a call is sparse, when it falls back, and that it always says so."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from farspan.attention import (
    AttentionContext,
    AttentionFallback,
    AttentionLever,
    LayerStats,
    MeanPool,
    PermutedBlockSparse,
    Selection,
    SinkWindow,
    attention_report,
    interface,
)
from farspan.attention.executors import choice
from farspan.attention.executors.choice import Costs
from farspan.models import load
from tests.attention.conftest import KeepAll, tiny_model
from tests.attention.test_any_model import padded, tokens
from tests.engine.conftest import make_tokenizer

SPARSE = {
    "sink-window": SinkWindow(sinks=16, window=16, block_size=16, min_length=0),
    "mean-pool": MeanPool(block_size=16, threshold=0.5, min_length=0),
    "pbs": PermutedBlockSparse(block_size=16, segment_size=32, threshold=0.5, min_length=0),
}


class Recording(AttentionLever):
    """Reads everything densely and notes what it is told."""

    name: ClassVar[str] = "recording"
    seen: ClassVar[list[tuple[str, int, int, int]]] = []

    def select(self, query: Tensor, key: Tensor, context: AttentionContext) -> Selection | None:
        self.seen.append((context.stage, context.q_offset, query.shape[2], key.shape[2]))
        assert context.scaling == context.module.scaling
        assert context.config.num_attention_heads == query.shape[1]
        return None


@pytest.fixture
def model() -> PreTrainedModel:
    return tiny_model("llama")


def reasons(model: PreTrainedModel) -> dict[str, int]:
    return dict(attention_report(model)[0].fallbacks)


@torch.no_grad()
@pytest.mark.parametrize("name", sorted(SPARSE))
def test_sparse_methods_change_and_are_reported(model: PreTrainedModel, name: str) -> None:
    ids = tokens(1, 300)
    expected = model(ids).logits
    with SPARSE[name](model):
        actual = model(ids).logits
        report = attention_report(model)
    assert actual.isfinite().all()
    assert not torch.allclose(actual, expected, atol=1e-3)
    assert [stats.layer for stats in report] == [0, 1]
    for stats in report:
        assert (stats.sparse, stats.calls, stats.method) == (1, 1, name)
        assert 0.0 < stats.density < 1.0
        assert stats.backends == {"gather": 1}
        assert stats.execution_seconds > 0.0 < stats.selection_seconds
        assert 0.0 < stats.flops < stats.dense_flops
    assert (report[0].figures != {}) == (name == "pbs")


@torch.no_grad()
@pytest.mark.parametrize("name", sorted(SPARSE))
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_row_in_a_batch_is_the_row_alone(model: PreTrainedModel, name: str, side: str) -> None:
    ids, mask = padded(200)
    if side == "right":
        ids, mask = ids.flip(1), mask.flip(1)
    # the same positions alone and together, so that rounding cannot tip a choice of blocks
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    with SPARSE[name](model):
        together = model(ids, attention_mask=mask, position_ids=positions).logits
        for row in range(3):
            real = mask[row].bool()
            alone = model(ids[row : row + 1, real]).logits[0]
            torch.testing.assert_close(together[row, real], alone, atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("name", sorted(SPARSE))
def test_batched_generation_is_generation_alone(model: PreTrainedModel, name: str) -> None:
    ids, mask = padded(120)
    settings = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None}
    with SPARSE[name](model):
        together = model.generate(ids, attention_mask=mask, **settings)[:, 120:]
        for row in range(3):
            prompt = ids[row : row + 1, mask[row].bool()]
            alone = model.generate(prompt, attention_mask=torch.ones_like(prompt), **settings)[:, prompt.shape[1] :]
            assert torch.equal(together[row : row + 1], alone)


@torch.no_grad()
def test_methods_are_told_the_stage_and_never_see_padding(model: PreTrainedModel) -> None:
    ids, mask = padded(70)
    Recording.seen.clear()
    with Recording(min_length=0, stage="all")(model):
        first = model(ids[:, :40], attention_mask=mask[:, :40])
        second = model(ids[:, 40:69], attention_mask=mask[:, :69], past_key_values=first.past_key_values)
        model(ids[:, 69:], attention_mask=mask, past_key_values=second.past_key_values)
        assert reasons(model) == {"method reads everything": 9}
    by_layer = Recording.seen
    prefill = [("prefill", 0, length, length) for length in (40, 21, 7)]
    chunk = [("chunk", start, 29, start + 29) for start in (40, 21, 7)]
    decode = [("decode", start, 1, start + 1) for start in (69, 50, 36)]
    assert by_layer == [*prefill, *prefill, *chunk, *chunk, *decode, *decode]


@torch.no_grad()
def test_single_new_tokens_are_dense_by_design_unless_asked_for(model: PreTrainedModel) -> None:
    ids = tokens(1, 100)
    lever = SinkWindow(sinks=16, window=16, block_size=16, min_length=0, strict=True)
    with lever(model):
        cache = model(ids).past_key_values
        model(tokens(1, 1), past_key_values=cache)
        stats = attention_report(model)[0]
        assert (stats.sparse, stats.decode, stats.fallbacks) == (1, 1, {})
    with lever.model_copy(update={"stage": "all"})(model):
        cache = model(ids).past_key_values
        model(tokens(1, 1), past_key_values=cache)
        stats = attention_report(model)[0]
        assert (stats.sparse, stats.decode, stats.fallbacks) == (2, 0, {})


def holes(model: PreTrainedModel) -> None:
    mask = torch.ones(2, 40).long()
    mask[1, 7] = 0
    model(tokens(2, 40), attention_mask=mask)


def four_dimensional(model: PreTrainedModel) -> None:
    model(tokens(1, 40), attention_mask=torch.ones(40, 40).bool().tril()[None, None])


def returned_weights(model: PreTrainedModel) -> None:
    model.model.layers[0].self_attn(
        torch.zeros(1, 40, 64),
        position_embeddings=(torch.ones(1, 40, 16), torch.zeros(1, 40, 16)),
        attention_mask=None,
        output_attentions=True,
    )


def bidirectional(model: PreTrainedModel) -> None:
    model.model.layers[0].self_attn(
        torch.zeros(1, 40, 64),
        position_embeddings=(torch.ones(1, 40, 16), torch.zeros(1, 40, 16)),
        attention_mask=None,
        is_causal=False,
    )


@torch.no_grad()
@pytest.mark.parametrize(
    ("call", "reason", "rows"),
    [
        (holes, "padding with holes", 2),
        (four_dimensional, "mask", 1),
        (returned_weights, "output_attentions", 1),
        (bidirectional, "not causal", 1),
        (lambda model: model(tokens(3, 12)), "method reads everything", 3),
    ],
)
def test_fallbacks_are_counted_with_their_reason(
    model: PreTrainedModel, call: Callable[[PreTrainedModel], None], reason: str, rows: int
) -> None:
    lever = MeanPool(block_size=16, min_length=0)
    with lever(model):
        call(model)
        assert reasons(model) == {reason: rows}
    with lever.model_copy(update={"strict": True})(model):
        if reason == "not causal":
            call(model)
            return
        with pytest.raises(AttentionFallback, match=f"lever 'mean-pool', layer 0: dense attention needed .{reason}"):
            call(model)


@torch.no_grad()
def test_holes_and_own_masks_give_the_model_s_own_result(model: PreTrainedModel) -> None:
    ids = tokens(2, 40)
    mask = torch.ones(2, 40).long()
    mask[1, 7] = 0
    own = torch.randn(1, 1, 40, 40).masked_fill(~torch.ones(40, 40).bool().tril(), -torch.inf)
    for given in (mask, own):
        expected = model(ids, attention_mask=given).logits
        with KeepAll(min_length=0)(model):
            actual = model(ids, attention_mask=given).logits
        assert torch.equal(actual[:, -1], expected[:, -1])


def test_dropout_falls_back(model: PreTrainedModel) -> None:
    model.train()
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.5
    with KeepAll(min_length=0)(model):
        model(tokens(1, 40))
        assert reasons(model) == {"dropout": 1}


@torch.no_grad()
@pytest.mark.parametrize("rows", [1, 3])
def test_new_tokens_read_grouped_heads_packed(
    model: PreTrainedModel, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids, mask = padded(70)
    ids, mask = ids[:rows], mask[:rows]
    settings = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": None}
    expected = model.generate(ids, attention_mask=mask, **settings)
    stock = interface.sdpa_attention_forward

    def without_single_queries(module: torch.nn.Module, query: Tensor, *rest: object, **kwargs: object) -> object:
        assert query.shape[2] > 1
        return stock(module, query, *rest, **kwargs)

    monkeypatch.setattr(interface, "sdpa_attention_forward", without_single_queries)
    with KeepAll(min_length=0)(model):
        assert torch.equal(model.generate(ids, attention_mask=mask, **settings), expected)
        assert attention_report(model)[0].decode == 3 * rows


@torch.no_grad()
def test_layers_may_stay_dense(model: PreTrainedModel) -> None:
    with SinkWindow(sinks=16, window=16, block_size=16, min_length=0, dense_layers=(0,), strict=True)(model):
        model(tokens(1, 100))
        first, second = attention_report(model)
    assert (first.sparse, first.fallbacks) == (0, {"layer kept dense": 1})
    assert (second.sparse, second.fallbacks) == (1, {})


@torch.no_grad()
def test_the_break_even_length(model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    lever = KeepAll(min_length=50)
    with lever(model):
        model(tokens(1, 49))
        model(tokens(1, 50))
        assert reasons(model) == {"below break-even length": 1}
        assert attention_report(model)[0].sparse == 1
    # automatic: nothing is measured where no length can pay
    monkeypatch.setattr(choice, "measure", lambda dtype: pytest.fail("measured"))
    with KeepAll()(model):
        model(tokens(1, 300))
        assert reasons(model) == {"below break-even length": 1}


@torch.no_grad()
def test_automatic_settings_leave_dense_what_would_not_pay(
    model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    costs = Costs((1.0,) * 4, (0.5,) * 4, dense_cell=2e-9, cells={"gather": 4e-9}, compile_seconds=9.0)
    monkeypatch.setattr(choice, "machine_costs", lambda *_: costs)
    monkeypatch.setattr("farspan.attention.state.machine_costs", lambda *_: costs)
    with KeepAll()(model):
        cache = model(tokens(1, 600)).past_key_values
        assert reasons(model) == {"too little to skip": 1}
        model(tokens(1, 5), past_key_values=cache)
        assert reasons(model) == {"too little to skip": 1, "few queries": 1}
    with SinkWindow(sinks=16, window=64, block_size=16)(model):
        model(tokens(1, 600))
        assert attention_report(model)[0].sparse == 1


@torch.no_grad()
def test_a_saved_checkpoint_remembers_its_method(model: PreTrainedModel, tmp_path: Path) -> None:
    lever = SPARSE["pbs"]
    ids = tokens(1, 100)
    plain = model(ids).logits
    with lever(model):
        expected = model(ids).logits
        model.save_pretrained(tmp_path)
    stock = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(stock(ids).logits, plain)
    again = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="farspan_pbs")
    assert torch.equal(again(ids).logits, expected)
    assert attention_report(again)[0].sparse == 1
    make_tokenizer().save_pretrained(tmp_path)
    loaded, _ = load(tmp_path, device="cpu")
    assert torch.equal(loaded(ids).logits, expected)
    assert torch.equal(load(tmp_path, device="cpu", attn_implementation="sdpa")[0](ids).logits, plain)
    other = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="farspan_sink_window")
    assert torch.equal(other(ids).logits, plain)
    assert attention_report(other)[0].fallbacks == {"below break-even length": 1}


@torch.no_grad()
def test_bfloat16_models(model: PreTrainedModel) -> None:
    model.to(torch.bfloat16)
    ids, mask = padded(70)
    expected = model(ids, attention_mask=mask).logits
    with KeepAll(min_length=0)(model):
        actual = model(ids, attention_mask=mask).logits
        assert attention_report(model)[0].sparse == 3
    real = mask.bool()
    spread = float(expected[real].std())
    assert float((actual[real] - expected[real]).abs().mean()) < 0.05 * spread


@torch.no_grad()
def test_compiled_models_fall_out_of_the_graph_and_stay_right(model: PreTrainedModel) -> None:
    ids = tokens(1, 70)
    with KeepAll(min_length=0)(model):
        expected = model(ids).logits
        compiled = torch.compile(model, backend="eager")
        torch.testing.assert_close(compiled(ids).logits, expected)


def test_stats_add_up() -> None:
    stats = LayerStats(layer=3, method="pbs", sparse=2, decode=5)
    stats.fallbacks["mask"] += 4
    assert stats.calls == 11
    assert stats.density == 1.0
    stats.head_density = [0.25, 0.75]
    assert stats.density == 0.5


@torch.no_grad()
@pytest.mark.slow
def test_all_methods_at_a_few_thousand_tokens() -> None:
    config = LlamaConfig(
        vocab_size=97, hidden_size=256, intermediate_size=256, num_hidden_layers=1, num_attention_heads=4
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).eval()
    ids = tokens(1, 3000)
    for lever in (SinkWindow(min_length=0), MeanPool(min_length=0, threshold=0.5), PermutedBlockSparse(min_length=0)):
        with lever(model):
            assert model(ids, logits_to_keep=1).logits.isfinite().all()
            assert attention_report(model)[0].sparse == 1
