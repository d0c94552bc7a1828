"""What training reads: documents, the sources that make them, and the stream of packed batches.

A source turns a seeded random generator and a length into one document of token ids, with a mark on every token that
the loss looks at. A stream draws sources by weight, packs documents into rows, and is a pure function of its seed and
the batch's number: it holds no state, so a resumed run reads exactly what an uninterrupted one would have read.
"""

from __future__ import annotations

import hashlib
import importlib
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch.utils.data import IterableDataset
from transformers import PreTrainedTokenizerBase

from farspan.errors import FarspanError
from farspan.training.config import SourceConfig, Stage
from farspan.training.data.packing import IGNORE_INDEX, pack_rows


@dataclass(frozen=True)
class Document:
    """Token ids, and for each token whether predicting it is part of the loss."""

    ids: Sequence[int]
    supervised: Sequence[bool]

    def __post_init__(self) -> None:
        if len(self.ids) != len(self.supervised):
            raise FarspanError(f"a document has {len(self.ids)} tokens but {len(self.supervised)} loss marks")


class DocumentSource(Protocol):
    """Makes documents of at most `length` tokens, the same for the same state of `rng`; empty if none fits."""

    def document(self, rng: random.Random, length: int) -> Document: ...


def step_seed(*parts: object) -> int:
    """A 63-bit seed from any printable parts, equal on every machine."""
    digest = hashlib.sha256("\x1f".join(str(part) for part in parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def build_source(config: SourceConfig, tokenizer: PreTrainedTokenizerBase | None) -> DocumentSource:
    """Resolve `package.module:Class` and build it as `Class(tokenizer, **settings)`."""
    module, colon, attribute = config.source.partition(":")
    try:
        factory = getattr(importlib.import_module(module), attribute) if colon else None
    except (ImportError, AttributeError) as error:
        raise FarspanError(f"data source '{config.source}' cannot be imported: {error}") from error
    if factory is None:
        raise FarspanError(f"data source '{config.source}' must be written package.module:Class")
    try:
        source: DocumentSource = factory(tokenizer, **config.settings)
    except TypeError as error:
        raise FarspanError(f"data source '{config.source}' does not take these settings: {error}") from error
    return source


class DocumentStream(IterableDataset[dict[str, torch.Tensor]]):
    """Batches of packed rows, `batch_tokens // row length` rows each, one row length a batch.

    Parameters
    ----------
    stages : the curriculum, in order; the last stage goes on for ever
    sources : by the names that the stages' mixes use
    weights : loss weight of a supervised token, by source name
    batch_tokens : tokens a batch
    pad_token_id : fills what packing leaves over
    start_step : number of the first step
    rank, ranks : which of several processes this is; they take batches in turn
    """

    def __init__(
        self,
        stages: Sequence[Stage],
        sources: Mapping[str, DocumentSource],
        weights: Mapping[str, float],
        *,
        batch_tokens: int,
        pad_token_id: int,
        seed: int,
        start_step: int = 0,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        unknown = {name for stage in stages for name in stage.mix} - set(sources)
        if unknown:
            raise FarspanError(f"stages use sources that are not defined: {', '.join(sorted(unknown))}")
        self.stages = list(stages)
        self.sources = dict(sources)
        self.weights = dict(weights)
        self.batch_tokens = batch_tokens
        self.pad_token_id = pad_token_id
        self.seed = seed
        self.start_step = start_step
        self.rank = rank
        self.ranks = ranks

    def stage_of(self, number: int) -> Stage:
        """The stage that a batch belongs to."""
        tokens = number * self.batch_tokens
        for stage in self.stages:
            if tokens < stage.tokens:
                return stage
            tokens -= stage.tokens
        return self.stages[-1]

    def check(self) -> None:
        """Make the first batch of every stage, so that what is wrong with the data is said before training begins.

        Raises
        ------
        FarspanError : see `batch`.
        """
        tokens = 0
        for stage in self.stages:
            self.batch(-(-tokens // self.batch_tokens))
            tokens += stage.tokens

    def batch(self, number: int) -> dict[str, torch.Tensor]:
        """One batch by its number; with one process, that of the step.

        Returns
        -------
        `input_ids`, `labels`, `loss_weights` [rows, length]; `position_ids` [rows, length], restarting at 0 at every
        document, only where a row holds more than one document (transformers then masks across documents).

        Raises
        ------
        FarspanError : no row got a document to learn from.
        """
        stage = self.stage_of(number)
        rng = random.Random(step_seed("batch", self.seed, number))
        length = rng.choices(list(stage.lengths), list(stage.lengths.values()))[0]
        names, shares = list(stage.mix), list(stage.mix.values())
        rows = []
        for _ in range(max(1, self.batch_tokens // length)):
            parts: list[tuple[Document, float]] = []
            room = length
            failures = 0
            while room >= min(length, stage.shortest_document) and failures < 16:
                name = rng.choices(names, shares)[0]
                document = self.sources[name].document(rng, room)
                if not any(document.supervised[1:]):
                    failures += 1
                    continue
                if len(document.ids) > room:
                    raise FarspanError(f"source '{name}' made {len(document.ids)} tokens where {room} were asked for")
                parts.append((document, self.weights.get(name, 1.0)))
                room -= len(document.ids)
            rows.append(parts)
        if not any(rows):
            raise FarspanError(
                f"there is nothing to train on: {', '.join(sorted(stage.mix))} made no document of two tokens or more "
                f"that fits into a row of {length}; give more or longer documents"
            )
        return pack_rows(rows, length, self.pad_token_id)

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        number = self.start_step * self.ranks + self.rank
        while True:
            yield self.batch(number)
            number += self.ranks


__all__ = ["IGNORE_INDEX", "Document", "DocumentSource", "DocumentStream", "build_source", "step_seed"]
