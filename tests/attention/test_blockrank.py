"""The lever: a model under the layout equals one under the mask, and its attention gives exchangeable scores."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import PreTrainedModel

from farspan.attention import (
    BlockLayout,
    BlockRank,
    LayoutError,
    SignalRecorder,
    attention_report,
    attention_scores_to_documents,
    attention_signal_logits,
    block_infonce,
    block_layout,
)
from farspan.attention.blockrank import EnoughRead
from farspan.training.data.ranking import Blocks, collate_packed

Build = Callable[[str], PreTrainedModel]


def some_ids(count: int, seed: int) -> tuple[int, ...]:
    return tuple(torch.randint(3, 97, (count,), generator=torch.Generator().manual_seed(seed)).tolist())


def example(lengths: tuple[int, ...] = (5, 12, 7), order: tuple[int, ...] | None = None) -> Blocks:
    documents = [some_ids(length, seed) for seed, length in enumerate(lengths)]
    picked = [documents[index] for index in (order or range(len(documents)))]
    return Blocks((some_ids(9, 90), *picked, some_ids(6, 91)), (4, 5), (0,))


def batch_of(*examples: Blocks) -> dict[str, Tensor]:
    return collate_packed(examples, pad_token_id=0, query_position=64)


def logits_of(model: PreTrainedModel, batch: dict[str, Tensor], **arguments: object) -> Tensor:
    names = ("input_ids", "attention_mask", "position_ids")
    with torch.no_grad():
        logits: Tensor = model(**{name: batch[name] for name in names}, use_cache=False, **arguments).logits
    return logits


def scores_of(model: PreTrainedModel, batch: dict[str, Tensor], layer: int = 1) -> Tensor:
    recorder = SignalRecorder(layer, batch["signal_positions"].tolist())
    with BlockRank()(model):
        logits_of(model, batch, block_ids=batch["block_ids"], signal=recorder)
    return recorder.scores()


@pytest.mark.parametrize("name", ["llama", "llama-mha", "qwen3", "phi3"])
def test_a_model_equals_itself_under_the_written_out_mask(name: str, build: Build) -> None:
    model = build(name)
    batch = batch_of(example(), example((3, 8)))
    masks = torch.stack([BlockLayout(names).token_mask() for names in batch["block_ids"]])
    masks |= torch.eye(masks.shape[-1], dtype=torch.bool)
    with torch.no_grad():
        expected = model(
            input_ids=batch["input_ids"], attention_mask=masks[:, None], position_ids=batch["position_ids"]
        ).logits
    real = batch["attention_mask"].bool()
    with BlockRank()(model):
        found = logits_of(model, batch, block_ids=batch["block_ids"])
        stats = attention_report(model)
        with block_layout(model, batch["block_ids"]):
            hooked = logits_of(model, batch)
    torch.testing.assert_close(found[real], expected[real], atol=2e-5, rtol=2e-5)
    assert torch.equal(found, hooked)
    assert all(layer.sparse == 2 and not layer.fallbacks for layer in stats)
    assert all(layer.density < 1 for layer in stats)


def test_rows_are_alone_in_a_batch(build: Build) -> None:
    model = build("llama")
    one, other = example(), example((3, 8))
    together = scores_of(model, batch_of(one, other))
    torch.testing.assert_close(together[0], scores_of(model, batch_of(one))[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(together[1, :2], scores_of(model, batch_of(other))[0], atol=1e-5, rtol=1e-5)
    assert together[1, 2] == 0


@pytest.mark.parametrize("order", [(1, 2, 0), (2, 1, 0)])
def test_shuffled_documents_have_shuffled_scores(order: tuple[int, ...], build: Build) -> None:
    model = build("llama")
    before, after = (scores_of(model, batch_of(example(order=some))) for some in ((0, 1, 2), order))
    torch.testing.assert_close(after[0], before[0, list(order)], atol=1e-5, rtol=1e-5)
    assert float(before[0].max() - before[0].min()) > 1e-3


def test_a_document_does_not_notice_another(build: Build) -> None:
    model = build("llama")
    first, second = batch_of(example()), batch_of(example())
    changed = first["block_ids"][0] == 2
    second["input_ids"][0, changed] = torch.tensor(some_ids(12, 77))
    with BlockRank()(model), torch.no_grad():
        states = [
            model.get_decoder()(**{n: b[n] for n in ("input_ids", "attention_mask", "position_ids", "block_ids")})
            for b in (first, second)
        ]
    before, after = (state.last_hidden_state[0] for state in states)
    unchanged = (first["block_ids"][0] >= 0) & ~changed
    assert torch.equal(before[unchanged], after[unchanged])
    assert not torch.allclose(before[-2:], after[-2:])


def test_the_forward_is_left_when_the_signal_is_there(build: Build) -> None:
    model = build("llama")
    batch = batch_of(example())
    recorder = SignalRecorder(0, batch["signal_positions"].tolist(), stop=True)
    with BlockRank()(model), pytest.raises(EnoughRead):
        logits_of(model, batch, block_ids=batch["block_ids"], signal=recorder)
    assert torch.equal(recorder.scores(), scores_of(model, batch, layer=0))


def test_full_attention_gives_a_signal_too(build: Build) -> None:
    model = build("llama")
    batch = batch_of(example())
    recorder = SignalRecorder(1, batch["signal_positions"].tolist())
    expected = logits_of(model, batch)
    with BlockRank(structure="full")(model):
        found = logits_of(model, batch, block_ids=batch["block_ids"], signal=recorder)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert recorder.scores().sum() == pytest.approx(1.0)
    assert not torch.allclose(recorder.scores(), scores_of(model, batch))


def test_without_a_layout_and_after_the_prompt_attention_is_dense(build: Build) -> None:
    model = build("llama")
    batch = batch_of(example())
    expected = logits_of(model, batch)
    with BlockRank()(model):
        torch.testing.assert_close(logits_of(model, batch), expected, atol=1e-5, rtol=1e-5)
        assert attention_report(model)[0].fallbacks == {"no block layout": 1}
        with torch.no_grad():
            whole = model(**{n: batch[n] for n in ("input_ids", "attention_mask", "position_ids", "block_ids")})
            begin = {n: batch[n][:, :-1] for n in ("input_ids", "attention_mask", "position_ids", "block_ids")}
            cache = model(**begin, use_cache=True).past_key_values
            last = model(batch["input_ids"][:, -1:], position_ids=batch["position_ids"][:, -1:], past_key_values=cache)
    torch.testing.assert_close(last.logits[:, -1], whole.logits[:, -1], atol=1e-5, rtol=1e-5)


def test_signals_that_never_came_say_so(build: Build) -> None:
    model = build("llama")
    batch = batch_of(example())
    recorder = SignalRecorder(1, batch["signal_positions"].tolist())
    logits_of(model, batch, block_ids=batch["block_ids"], signal=recorder)
    with pytest.raises(LayoutError, match="0 of 1 rows"):
        recorder.scores()
    outside = SignalRecorder(1, [[400]])
    with BlockRank()(model), pytest.raises(LayoutError, match="outside"):
        logits_of(model, batch, block_ids=batch["block_ids"], signal=outside)


def test_signal_logits_are_rows_of_all_scores() -> None:
    generator = torch.Generator().manual_seed(0)
    query, key = torch.randn(2, 4, 9, 8, generator=generator), torch.randn(2, 2, 9, 8, generator=generator)
    scores = query @ key.repeat_interleave(2, dim=1).transpose(-1, -2) * 0.3
    torch.testing.assert_close(attention_signal_logits(query, key, [7, 8], 0.3), scores[:, :, 7:])


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), lengths=st.lists(st.integers(1, 5), min_size=1, max_size=5))
def test_scores_share_one(seed: int, lengths: list[int]) -> None:
    names = [0, 0, *(index + 1 for index, length in enumerate(lengths) for _ in range(length)), -1, -2]
    logits = torch.randn(1, 3, 2, len(names), generator=torch.Generator().manual_seed(seed)) * 5
    scores = attention_scores_to_documents(logits, torch.tensor([names]))
    assert scores.shape == (1, len(lengths))
    assert float(scores.sum()) == pytest.approx(1.0, abs=1e-5)
    shifted = attention_scores_to_documents(logits + 3.0, torch.tensor([names]))
    torch.testing.assert_close(scores, shifted, atol=1e-5, rtol=1e-5)


def test_a_document_without_tokens_gets_nothing() -> None:
    scores = attention_scores_to_documents(torch.zeros(1, 1, 1, 4), torch.tensor([[0, 1, 3, -1]]))
    assert scores.tolist() == [[0.5, 0.0, 0.5]]


def test_the_loss_has_the_gradients_of_finite_differences() -> None:
    names = torch.tensor([[0, 1, 1, 2, 3, 3, -1], [0, 1, 2, 2, 2, 3, -1]])
    answers = torch.tensor([[0, 2], [1, -1]])

    def loss(scores: Tensor) -> Tensor:
        return block_infonce(scores.softmax(-1), answers, 0.3)[0]

    scores = torch.randn(2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    assert torch.autograd.gradcheck(loss, (scores,))
    logits = torch.randn(2, 2, 2, 7, generator=torch.Generator().manual_seed(1)).requires_grad_()
    value = block_infonce(attention_scores_to_documents(logits, names), answers, 0.3)[0]
    (gradient,) = torch.autograd.grad(value, logits)
    step = 1e-2
    for place in ((0, 0, 0, 1), (0, 1, 1, 4), (1, 1, 0, 3), (1, 0, 1, 0)):
        sides = []
        for sign in (1, -1):
            moved = logits.detach().clone()
            moved[place] += sign * step
            sides.append(block_infonce(attention_scores_to_documents(moved, names), answers, 0.3)[0])
        assert float((sides[0] - sides[1]) / (2 * step)) == pytest.approx(float(gradient[place]), abs=1e-4)


def test_the_loss_falls_with_the_share_of_relevant_documents() -> None:
    losses = [
        float(block_infonce(torch.tensor([[share, 1 - share]]), torch.tensor([[0]]))[0]) for share in (0.1, 0.5, 0.9)
    ]
    assert losses == sorted(losses, reverse=True)
    _, accuracy = block_infonce(torch.tensor([[0.7, 0.3], [0.7, 0.3]]), torch.tensor([[0, -1], [1, -1]]))
    assert float(accuracy) == 0.5


@pytest.mark.parametrize("answers", [[[-1]], [[2]]])
def test_answers_that_are_not_there_are_refused(answers: list[list[int]]) -> None:
    with pytest.raises(LayoutError, match="relevant document"):
        block_infonce(torch.tensor([[0.5, 0.5]]), torch.tensor(answers))
