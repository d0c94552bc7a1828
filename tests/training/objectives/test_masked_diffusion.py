"""The masked-diffusion loss: what is hidden, what it counts, who sees whom, and that it can be learned."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional
from torch.optim.lr_scheduler import LambdaLR
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from farspan.engine import DiffusionConfig, ModelDenoiser, generate_masked_diffusion
from farspan.errors import FarspanError
from farspan.models import MaskedDiffusionLlama
from farspan.training import Document, FineTune, trainer_class
from farspan.training.data import pack_rows
from farspan.training.objectives import MaskedDiffusionTrainer, hide_tokens, masked_loss
from farspan.training.objectives.masked_diffusion import visibility
from farspan.training.trainer import Batch, BatchList, LongTrainer, build_optimizer, training_arguments
from tests.diffusion_models import ids_of, model_of

MASK = 40


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@given(seed=st.integers(0, 2**32), eps=st.floats(1e-4, 0.9))
def test_only_what_may_be_hidden_is(seed: int, eps: float) -> None:
    ids = ids_of(50, batch=4)
    maskable = torch.rand(ids.shape, generator=seeded(seed)) < 0.5
    noised = hide_tokens(ids, MASK, maskable, eps, seeded(seed))
    assert not bool((noised.hidden & ~maskable).any())
    assert torch.equal(noised.ids == MASK, noised.hidden)
    assert torch.equal(noised.ids[~noised.hidden], ids[~noised.hidden])
    assert bool(((noised.share >= eps) & (noised.share <= 1)).all())
    assert torch.equal(noised.ids, hide_tokens(ids, MASK, maskable, eps, seeded(seed)).ids)


def test_the_share_of_hidden_tokens_is_the_drawn_one() -> None:
    noised = hide_tokens(torch.zeros(64, 4000, dtype=torch.long), MASK, generator=seeded())
    torch.testing.assert_close(noised.hidden.float().mean(1), noised.share, atol=0.04, rtol=0)
    assert noised.share.mean().item() == pytest.approx(0.5, abs=0.1)


@torch.no_grad()
def test_the_loss_is_the_weighted_mean_of_its_definition() -> None:
    model = model_of()
    ids = ids_of(12, batch=3)
    noised = hide_tokens(ids, MASK, generator=seeded(5))
    losses = functional.cross_entropy(model(noised.ids).logits.flatten(0, 1), ids.flatten(), reduction="none")
    by_hand = (losses.view(3, 12) * noised.hidden / noised.share[:, None]).sum() / 36
    torch.testing.assert_close(masked_loss(model, ids, generator=seeded(5)), by_hand)


@torch.no_grad()
def test_weights_and_padding_count_as_said() -> None:
    model = model_of()
    ids = ids_of(12, batch=2)
    ids[0, 8:] = 1
    maskable = torch.ones_like(ids, dtype=torch.bool)
    maskable[1, :6] = False
    weights = torch.rand(ids.shape, generator=seeded(1))
    found = masked_loss(model, ids, generator=seeded(2), maskable=maskable, token_weights=weights)
    real = maskable & (ids != 1)
    noised = hide_tokens(ids, MASK, real, generator=seeded(2))
    short = model(noised.ids[:1, :8]).logits[0]
    whole = model(noised.ids[1:]).logits[0]
    logits = torch.cat([short, torch.zeros(4, short.shape[1]), whole])
    losses = functional.cross_entropy(logits, ids.flatten(), reduction="none").view(2, 12)
    by_hand = (losses * noised.hidden * weights / noised.share[:, None]).sum() / weights[real].sum()
    torch.testing.assert_close(found, by_hand, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_documents_of_a_row_do_not_see_each_other(attention: str) -> None:
    model = model_of()
    model.set_attn_implementation(attention)
    ids = ids_of(10)
    positions = torch.tensor([[*range(6), *range(4)]])
    padding = torch.zeros_like(ids, dtype=torch.bool)

    def states(tokens: torch.Tensor) -> torch.Tensor:
        mask = visibility(padding, positions, model.dtype)
        found: torch.Tensor = model.get_decoder()(
            input_ids=tokens, attention_mask=mask, position_ids=positions, use_cache=False
        ).last_hidden_state
        return found

    changed = ids.clone()
    changed[0, 2] += 1
    moved = (states(ids) - states(changed)).abs().amax(-1)[0]
    assert bool((moved[:6] > 1e-4).all())
    assert bool((moved[6:] == 0).all())
    torch.testing.assert_close(
        states(ids)[:, 6:], model.get_decoder()(input_ids=ids[:, 6:]).last_hidden_state, atol=1e-5, rtol=1e-5
    )


def test_padding_and_single_documents_need_no_full_mask() -> None:
    padding = torch.tensor([[False, False, True]])
    whole = torch.arange(3)[None]
    assert visibility(torch.zeros_like(padding), whole, torch.float32) is None
    flat = visibility(padding, None, torch.float32)
    assert flat is not None
    assert flat.tolist() == [[1, 1, 0]]


def test_nothing_to_hide_is_no_loss_and_has_gradients() -> None:
    model = model_of()
    loss = masked_loss(model, ids_of(6), maskable=torch.zeros(1, 6, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_nonsense_is_refused() -> None:
    with pytest.raises(FarspanError, match="between 0 and 1"):
        hide_tokens(ids_of(4), MASK, eps=0.0)
    causal = LlamaForCausalLM(LlamaConfig(vocab_size=8, hidden_size=8, num_hidden_layers=1, num_attention_heads=1))
    with pytest.raises(FarspanError, match="names no mask_token_id"):
        masked_loss(causal, ids_of(4))


def test_the_objective_follows_the_model() -> None:
    causal = LlamaForCausalLM(LlamaConfig(vocab_size=8, hidden_size=8, num_hidden_layers=1, num_attention_heads=1))
    assert trainer_class(causal) is LongTrainer
    assert trainer_class(model_of()) is MaskedDiffusionTrainer


WORDS = [list(range(2 + 6 * word, 8 + 6 * word)) for word in range(6)]


def batches(rows: int, length: int, seed: int = 0) -> Iterator[Batch]:
    """Texts of words that are six fixed tokens each."""
    rng = random.Random(seed)
    while True:
        documents = [[token for _ in range(length) for token in rng.choice(WORDS)][:length] for _ in range(rows)]
        yield pack_rows([[(Document(ids, [True] * length), 1.0)] for ids in documents], length, pad_token_id=1)


def trained(folder: Path, steps: int, seed: int = 0) -> MaskedDiffusionLlama:
    model = model_of(tie_word_embeddings=True, initializer_range=0.02)
    optimizer = build_optimizer(model, "adamw", learning_rate=3e-3, muon_learning_rate=1e-2, weight_decay=0.0)
    trainer = MaskedDiffusionTrainer(
        model=model,
        args=training_arguments(folder, max_steps=steps, precision="fp32", seed=seed, data_workers=0),
        train_dataset=BatchList(batches(16, 24)),
        optimizers=(optimizer, LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 10))),
    )
    trainer.train()
    return model.eval()


def same_weights(one: PreTrainedModel, other: PreTrainedModel) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_equal_seeds_give_equal_weights(tmp_path: Path) -> None:
    first, again, other = (trained(tmp_path, 3, seed) for seed in (1, 1, 2))
    assert same_weights(first, again)
    assert not same_weights(first, other)


@pytest.mark.slow
def test_a_tiny_model_learns_to_complete_words(tmp_path: Path) -> None:
    model = trained(tmp_path, 250)
    denoiser = ModelDenoiser(model)
    prompt = torch.tensor([[*WORDS[2], *WORDS[4], *WORDS[0][:2]]])
    out = generate_masked_diffusion(denoiser, prompt, DiffusionConfig(steps=4, gen_length=4, block_length=4))
    assert out[0, 14:].tolist() == WORDS[0][2:]


@pytest.mark.slow
def test_a_fine_tune_of_a_masked_diffusion_model_uses_its_objective(tmp_path: Path) -> None:
    model = model_of(tie_word_embeddings=True, initializer_range=0.02)

    @torch.no_grad()
    def loss() -> float:
        batch = next(batches(64, 24, seed=9))
        return masked_loss(model, batch["input_ids"], generator=seeded()).item()

    before = loss()
    lever = FineTune(tokens=16 * 24 * 80, optimizer="adamw", learning_rate=3e-3).fit(
        model, batches(16, 24), tmp_path / "w.safetensors", batch_tokens=16 * 24
    )
    assert loss() == before
    with lever(model):
        assert loss() < 0.9 * before
