"""Training attention to rank: the next-token loss on the answer, and a contrastive loss on one layer's attention.

The lever `blockrank` is on while a model trains, so documents see the instruction and themselves alone. The auxiliary
loss draws the attention of two signal tokens to the relevant documents; that attention ranks later without decoding.

Source: arXiv 2510.05396, sections 3.2 and 4.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from farspan.attention.blockrank import BlockRank, SignalRecorder, block_infonce
from farspan.training.data.ranking import (
    RankingError,
    RankingExample,
    collate_packed,
    ranking_blocks,
    sample_documents,
)
from farspan.training.loss import linear_cross_entropy_sum
from farspan.training.trainer import Batch, BatchList, LongTrainer, build_optimizer, training_arguments, trapezoid

CONFIG_KEY = "farspan_blockrank"
# of the depth; the published choice is layer 20 of 32
SIGNAL_DEPTH = 0.625


def signal_layer(model: PreTrainedModel, layer: int | None = None) -> int:
    """The layer whose attention ranks: the one asked for, the one the model was trained with, or five eighths down.

    Raises
    ------
    RankingError : the model has no such layer.
    """
    config = model.config.get_text_config(decoder=True)
    number = config.num_hidden_layers
    if layer is None:
        stored = getattr(model.config, CONFIG_KEY, None)
        layer = int(stored["layer"]) if isinstance(stored, dict) else min(number - 1, int(number * SIGNAL_DEPTH))
    if not 0 <= layer < number:
        raise RankingError(f"layer {layer} does not exist; the model has layers 0 to {number - 1}")
    return layer


def query_position(model: PreTrainedModel) -> int:
    """Position of a prompt's closing block: the one the model was trained with, or the middle of its window."""
    stored = getattr(model.config, CONFIG_KEY, None)
    if isinstance(stored, dict):
        return int(stored["query_position"])
    return int(model.config.get_text_config(decoder=True).max_position_embeddings) // 2


def ranking_loss(
    model: PreTrainedModel, batch: Batch, *, layer: int, aux_weight: float = 0.1, temperature: float = 0.05
) -> tuple[Tensor, dict[str, float]]:
    """The training loss of a batch of `collate_packed`; the lever `blockrank` must be on.

    Returns
    -------
    (loss, parts) : next-token loss plus `aux_weight` times the contrastive loss; both, and the accuracy of attention

    Source: arXiv 2510.05396, section 3.2.
    """
    recorder = SignalRecorder(layer, batch["signal_positions"].tolist())
    states = model.get_decoder()(
        input_ids=batch["input_ids"],
        attention_mask=batch["attention_mask"],
        position_ids=batch["position_ids"],
        block_ids=batch["block_ids"],
        signal=recorder,
        use_cache=False,
    ).last_hidden_state
    head = model.get_output_embeddings()
    assert isinstance(head, nn.Module)
    total, weight = linear_cross_entropy_sum(
        states[:, :-1].flatten(0, 1),
        head.weight,  # type: ignore[arg-type]
        batch["labels"][:, 1:].flatten(),
        bias=getattr(head, "bias", None),
        softcap=getattr(model.config, "final_logit_softcapping", None),
    )
    next_token = total / weight.clamp(min=1e-8)
    contrast, accuracy = block_infonce(recorder.scores(), batch["answer_ids"], temperature)
    named = {"next_token": next_token, "contrast": contrast, "accuracy": accuracy}
    parts = {name: float(value.detach()) for name, value in named.items()}
    return next_token + aux_weight * contrast, parts


class BlockRankTrainer(LongTrainer):
    """Trains on batches of `collate_packed`.

    layer, aux_weight, temperature : as in `ranking_loss`; `parts` holds what the last step's loss was made of
    """

    def __init__(
        self, *args: object, layer: int, aux_weight: float = 0.1, temperature: float = 0.05, **kwargs: object
    ) -> None:
        super().__init__(*args, **kwargs)
        self.layer = layer
        self.aux_weight = aux_weight
        self.temperature = temperature
        self.parts: dict[str, float] = {}

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        unwrapped: PreTrainedModel = self.accelerator.unwrap_model(model)
        with self.accelerator.autocast():
            loss, self.parts = ranking_loss(
                unwrapped, inputs, layer=self.layer, aux_weight=self.aux_weight, temperature=self.temperature
            )
        return loss


def ranking_batches(
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[RankingExample],
    *,
    batch_size: int,
    documents: int,
    query_position: int,
    max_document: int | None = None,
    seed: int = 0,
) -> Iterator[Batch]:
    """Batches without end: examples in an order drawn anew in every round, documents sampled and shuffled each time.

    Raises
    ------
    RankingError : there is no example, or one without a relevant document.
    """
    if not examples:
        raise RankingError("no examples to train on")
    for example in examples:
        if not set(example.answers) & set(example.documents):
            raise RankingError(f"example '{example.query_id or example.query}' has no relevant document among its own")
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
    place = 0
    order: list[int] = []
    while True:
        rows = []
        for _ in range(batch_size):
            if place % len(examples) == 0:
                generator = torch.Generator().manual_seed(seed + place)
                order = torch.randperm(len(examples), generator=generator).tolist()
            example = examples[order[place % len(examples)]]
            there = [answer for answer in example.answers if answer in example.documents]
            chosen = sample_documents(example.documents, there, documents, seed=seed + place)
            rows.append(ranking_blocks(tokenizer, example.query, chosen.texts, chosen.answers))
            place += 1
        yield collate_packed(rows, pad_token_id=pad, query_position=query_position, max_document=max_document)


def fit_ranker(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[RankingExample],
    *,
    steps: int,
    batch_size: int = 8,
    documents: int = 30,
    layer: int | None = None,
    aux_weight: float = 0.1,
    temperature: float = 0.05,
    learning_rate: float = 3e-6,
    optimizer: str = "adamw",
    max_document: int | None = None,
    precision: str = "fp32",
    seed: int = 0,
) -> dict[str, float]:
    """Train a model to rank, in place; its configuration then says with which layer and positions.

    Parameters
    ----------
    documents : documents in every prompt
    layer : whose attention is trained, by default five eighths down
    aux_weight : 0 trains next tokens alone

    Returns
    -------
    Parts of the last step's loss.

    Raises
    ------
    RankingError : an example cannot be used, or the layer does not exist.
    """
    chosen, position = signal_layer(model, layer), query_position(model)
    tuned = build_optimizer(
        model, optimizer, learning_rate=learning_rate, muon_learning_rate=learning_rate, weight_decay=0.0
    )
    batches = ranking_batches(
        tokenizer,
        examples,
        batch_size=batch_size,
        documents=documents,
        query_position=position,
        max_document=max_document,
        seed=seed,
    )
    was_training = model.training
    with tempfile.TemporaryDirectory() as scratch, BlockRank()(model):
        trainer = BlockRankTrainer(
            model=model,
            args=training_arguments(Path(scratch), max_steps=steps, precision=precision, seed=seed, data_workers=0),
            train_dataset=BatchList(batches),
            optimizers=(tuned, LambdaLR(tuned, lambda step: trapezoid(step, max(1, steps // 20), steps, 0.5))),
            layer=chosen,
            aux_weight=aux_weight,
            temperature=temperature,
        )
        trainer.train()
        trainer.accelerator.unwrap_model(model, keep_fp32_wrapper=False)
    model.train(was_training)
    setattr(model.config, CONFIG_KEY, {"layer": chosen, "query_position": position})
    return trainer.parts
