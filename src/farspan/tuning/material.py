"""What a fine-tune inside a tune run reads: text of the standard library and generated exercises up to the target.

The exercises come from the training split of the generated tasks; no sample that judges a recipe is among them.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import torch
from transformers import PreTrainedTokenizerBase

from farspan.evals.exercises import FamilyExercise, KeyValues
from farspan.training.config import Stage
from farspan.training.data.documents import DocumentSource, DocumentStream
from farspan.training.data.text import TextFiles

TEXT_WEIGHT = 0.5


class Material:
    """Batches for fine-tuning at lengths up to the target; a fresh, equal stream each time it is iterated.

    Parameters
    ----------
    native_length, target_length : tokens; half the rows are of the target's length
    short_rows : no row longer than the native window, for levers that spread positions themselves
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        native_length: int,
        target_length: int,
        *,
        seed: int,
        short_rows: bool = False,
    ) -> None:
        if short_rows:
            native_length, target_length = max(1, native_length // 2), native_length
        lengths: dict[int, float] = {target_length: 2.0}
        length = target_length // 2
        while length >= native_length:
            lengths[length] = 1.0
            length //= 2
        self.batch_tokens = max(2048, target_length)
        sources: dict[str, DocumentSource] = {
            "text": TextFiles(tokenizer),
            "key_values": KeyValues(tokenizer, questions=(8, 40)),
            "lines": FamilyExercise(tokenizer, "lines", "single", "{answer}>\n", questions=(8, 24)),
            "needles": FamilyExercise(tokenizer, "ruler", "niah_multikey_1", " {answer}.\n", questions=(2, 4)),
        }
        pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        self.stream = DocumentStream(
            [Stage(tokens=1, lengths=lengths, mix={"text": 1.0, "key_values": 2.0, "lines": 4.0, "needles": 1.5})],
            sources,
            {"text": TEXT_WEIGHT},
            batch_tokens=self.batch_tokens,
            pad_token_id=pad if pad is not None else 0,
            seed=seed,
        )

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        return iter(self.stream)


def calibration_texts(tokenizer: PreTrainedTokenizerBase, length: int, count: int, *, seed: int) -> list[torch.Tensor]:
    """Texts of exactly so many tokens, files of the standard library one after another: Tensors int64 [length]."""
    source, rng = TextFiles(tokenizer), random.Random(seed)
    texts = []
    for _ in range(count):
        ids: list[int] = []
        while len(ids) < length:
            ids += source.document(rng, length - len(ids)).ids
        texts.append(torch.tensor(ids, dtype=torch.long))
    return texts
