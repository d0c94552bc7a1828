"""Recomputing layers and keeping their inputs elsewhere change no gradient, only what is computed and kept."""

from contextlib import nullcontext

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import LlamaConfig, LlamaForCausalLM

from farspan.training.memory_plan import ModelShape, memory_plan
from farspan.training.recompute import LayerInputOffload, chosen, recomputed

LAYERS = 3


class Calls(TorchDispatchMode):
    """Counts operators."""

    def __init__(self):
        super().__init__()
        self.count = {}

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        name = str(operator)
        self.count[name] = self.count.get(name, 0) + 1
        return operator(*args, **(kwargs or {}))

    def of(self, part):
        return sum(n for name, n in self.count.items() if part in name and "backward" not in name)


@pytest.fixture
def model():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=LAYERS, num_attention_heads=4
    )
    return LlamaForCausalLM(config).train()


def gradients(model, checkpointing, offload=None):
    ids = torch.arange(96).reshape(2, 48) % 64
    model.zero_grad()
    with recomputed(model, checkpointing), Calls() as calls:
        with offload or nullcontext():
            loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
    return [weight.grad.clone() for weight in model.parameters()], calls


@pytest.mark.parametrize("checkpointing", ["none", "selective", "full"])
@pytest.mark.parametrize("offload", [False, True])
def test_gradients_are_the_same_bit_for_bit(model, checkpointing, offload):
    expected, _ = gradients(model, "none")
    mover = LayerInputOffload(model, smallest=1024) if offload else None
    found, _ = gradients(model, checkpointing, mover)
    assert all(torch.equal(mine, plain) for mine, plain in zip(found, expected, strict=True))
    assert mover is None or mover.moved > 0


def test_attention_is_kept_and_the_rest_recomputed_where_asked(model):
    counts = {kind: gradients(model, kind)[1] for kind in ("none", "selective", "full")}
    assert [counts[kind].of("scaled_dot_product") for kind in counts] == [LAYERS, LAYERS, 2 * LAYERS]
    assert [counts[kind].of("aten.silu") for kind in counts] == [LAYERS, 2 * LAYERS, 2 * LAYERS]


def test_moving_layer_inputs_moves_little_else(model):
    everything, inputs = LayerInputOffload(model, smallest=1024), LayerInputOffload(model, smallest=1024)
    gradients(model, "none", everything)
    gradients(model, "full", inputs)
    assert inputs.moved < everything.moved / 4


def test_after_training_nothing_is_recomputed(model):
    with recomputed(model, "full"):
        assert model.is_activation_checkpointing
    assert not model.is_activation_checkpointing


def test_as_little_is_recomputed_as_the_memory_allows(model, monkeypatch):
    shape = ModelShape.of(model.config)
    plan = memory_plan(shape, 4096)
    states = plan.weights + plan.gradients + plan.optimizer
    for free, expected in (
        (10**15, ("none", False)),
        (states + 1.7 * (plan.total("selective") - states), ("selective", False)),
        (states + 1.7 * (plan.total("full", offload=True) - states), ("full", True)),
        (1, ("full", True)),
    ):
        monkeypatch.setattr("farspan.training.recompute.room", lambda device, free=free: free)
        assert chosen(model.config, 4096, 1, torch.device("cpu"), "auto") == expected
    assert chosen(model.config, 4096, 1, torch.device("cpu"), "selective") == ("selective", False)
    assert chosen(model.config, 4096, 1, torch.device("cpu"), "full", True) == ("full", True)
