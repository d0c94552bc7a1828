"""A model under context parallelism: loss and gradients are those of one process."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor
from transformers import GptOssConfig, LlamaConfig, LlamaForCausalLM

from farspan.training.parallel import (
    Communicator,
    ParallelError,
    ProcessCommunicator,
    all_reduce_gradients,
    context_parallel,
    run_ranks,
    unshard_sequence,
)
from farspan.training.parallel.layouts import LAYOUTS, Layout
from farspan.training.parallel.plan import STRATEGIES, Strategy


def _model() -> LlamaForCausalLM:
    """A model of one's own; seeds are not enough, since ranks that are threads share the generator."""
    return copy.deepcopy(_first())


@cache
def _first() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=61,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        pad_token_id=0,
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(4.0 if weight.ndim == 2 else 1.0)
    return model


def _batch(length: int = 19) -> dict[str, Tensor]:
    ids = torch.randint(1, 61, (2, length), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[1, 12:] = 0
    labels = ids.masked_fill(mask == 0, -100)
    labels[0, :4] = -100
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def _trained(model: LlamaForCausalLM, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor], Tensor]:
    output = model(**batch)
    output.loss.backward()
    grads = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return output.loss.detach(), grads, output.logits.detach()


def _check(ranks: Communicator, strategy: Strategy, layout: Layout) -> None:
    batch = _batch()
    loss, grads, logits = _trained(_model(), batch)
    model = _model()
    with context_parallel(model, ranks, strategy, layout):
        own_loss, _, own_logits = _trained(model, batch)
        all_reduce_gradients(model, ranks)
    torch.testing.assert_close(own_loss, loss, atol=1e-5, rtol=1e-5)
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, grads[name], atol=1e-4, rtol=1e-3)
    whole = unshard_sequence(own_logits, ranks, layout, length=19)
    real = batch["attention_mask"].bool()
    torch.testing.assert_close(whole[real], logits[real], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_model_over_threads_equals_one_process(strategy: Strategy, layout: Layout) -> None:
    _first()
    run_ranks(2, lambda ranks: _check(ranks, strategy, layout))


def test_the_model_is_left_as_found() -> None:
    model, batch = _model().eval(), _batch()
    with torch.no_grad():
        before = model(**batch)
        with context_parallel(model):
            within = model(**batch)
        after = model(**batch)
    torch.testing.assert_close(within.loss, before.loss, atol=1e-5, rtol=1e-5)
    assert torch.equal(after.logits, before.logits)
    assert not model._forward_hooks
    assert not model._forward_pre_hooks


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"attention_mask": torch.tensor([[0, 1], [1, 1]])}, "padding at the right"),
        ({"position_ids": torch.tensor([[0, 0], [0, 1]])}, "one document"),
    ],
)
def test_what_it_cannot_do_is_refused(change: dict[str, Tensor], word: str) -> None:
    model = _model()
    with context_parallel(model), pytest.raises(ParallelError, match=word):
        model(input_ids=torch.ones(2, 2, dtype=torch.long), **change)


def test_positional_inputs_sinks_and_calls_outside_are_refused() -> None:
    from transformers import GptOssForCausalLM

    model = _model()
    with context_parallel(model), pytest.raises(ParallelError, match="by name"):
        model(torch.ones(1, 2, dtype=torch.long))
    model.set_attn_implementation("farspan_distributed")
    with pytest.raises(ParallelError, match="inside"):
        model(input_ids=torch.ones(1, 2, dtype=torch.long))
    config = GptOssConfig(
        vocab_size=11,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        num_local_experts=2,
        num_experts_per_tok=1,
        layer_types=["full_attention"],
        rope_parameters={"rope_type": "default", "rope_theta": 1e4},
    )
    sinks = GptOssForCausalLM(config)
    with context_parallel(sinks), pytest.raises(ParallelError, match="s_aux"):
        sinks(input_ids=torch.ones(1, 4, dtype=torch.long))


def _process(rank: int, size: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=size)
    for strategy, layout in (("ring", "zigzag"), ("ulysses", "striped")):
        _check(ProcessCommunicator(), strategy, layout)  # type: ignore[arg-type]
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.slow
def test_a_model_over_gloo_processes_equals_one_process(tmp_path: Path) -> None:
    mp.spawn(_process, args=(2, str(tmp_path)), nprocs=2)
