"""Ranking documents in context: one forward to the signal layer, no decoding.

The ranker builds prompts, switches the lever on for the call, and reads the scores; it trains nothing. More documents
than a group holds are ranked in groups, and the best of each group once more together.

Source: arXiv 2510.05396, section 3.3.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.cache_utils import DynamicCache

from farspan.attention.blockrank import BlockRank, EnoughRead, SignalRecorder
from farspan.engine.forward import evaluating
from farspan.training.data.ranking import (
    RankingError,
    RankingExample,
    collate_packed,
    documents_by_id,
    parse_id,
    ranking_blocks,
)
from farspan.training.objectives.blockrank import query_position, signal_layer

SURVIVORS = 0.2
_ANSWER_TOKENS = 8


@dataclass(frozen=True)
class Ranked:
    """A document and its score: the log of its share of attention, plus the log of the number of documents.

    So 0 is an average document, whatever their number. -inf where a document got no attention.
    """

    doc_id: str
    score: float


class InContextRanker:
    """Ranks documents for a query with a language model.

    Parameters
    ----------
    model, tokenizer : as loaded; best one that `fit_ranker` trained
    layer : whose attention ranks; the one the model was trained with where left out
    mode : `attention` reads the scores, `decode` lets the model name one document, which then comes first
    structure : `blocks`, or `full` for full attention over the same prompt, for comparison
    group : documents in one prompt at most
    max_document : tokens of a document at most; as many as the positions allow where left out

    Raises
    ------
    RankingError : the model has no such layer.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        layer: int | None = None,
        mode: Literal["attention", "decode"] = "attention",
        structure: Literal["blocks", "full"] = "blocks",
        group: int = 100,
        max_document: int | None = None,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.layer = signal_layer(model, layer)
        self.mode = mode
        self.group = max(2, group)
        self.max_document = max_document
        self._lever = BlockRank(structure=structure)
        self._query_position = query_position(model)

    def rank(
        self, query: str, documents: Mapping[str, str] | Sequence[object], top_k: int | None = None
    ) -> list[Ranked]:
        """Documents, the most relevant first; equal scores keep their order.

        Parameters
        ----------
        documents : texts by id, or a list of texts or of mappings with `doc_id`, `title` and `text`
        top_k : how many to return, all where left out

        Raises
        ------
        RankingError : no documents, an id that stands twice, or an instruction that leaves no room for documents.
        """
        texts = dict(documents) if isinstance(documents, Mapping) else documents_by_id(list(documents))
        if not texts:
            raise RankingError("no documents to rank")
        ordered = self._ranked(query, list(texts), texts)
        return ordered if top_k is None else ordered[:top_k]

    def scores(self, query: str, texts: Sequence[str]) -> list[float]:
        """Share of attention of each document in one prompt; they sum to 1.

        Raises
        ------
        RankingError : no documents, or an instruction that leaves no room for them.
        """
        if not texts:
            raise RankingError("no documents to rank")
        batch = self._batch(query, texts)
        recorder = SignalRecorder(self.layer, batch["signal_positions"].tolist(), stop=True)
        with torch.no_grad(), evaluating(self.model), self._lever(self.model):
            with suppress(EnoughRead):
                self._forward(batch, signal=recorder)
            found = recorder.scores()[0].tolist()
        # documents without a token of their own stand at the end of a row
        return [float(score) for score in found] + [0.0] * (len(texts) - len(found))

    def decode(self, query: str, texts: Sequence[str]) -> int | None:
        """Place of the document the model names, None where it names none."""
        batch = self._batch(query, texts)
        cache = DynamicCache(config=self.model.config.get_text_config(decoder=True))
        head = self.model.get_output_embeddings()
        ids: list[int] = []
        position = int(batch["position_ids"][0, -1])
        with torch.no_grad(), evaluating(self.model), self._lever(self.model):
            states = self._forward(batch, past_key_values=cache, use_cache=True)
            for step in range(_ANSWER_TOKENS):
                ids.append(int(head(states[:, -1]).argmax(-1)))
                if "]" in str(self.tokenizer.decode(ids)):
                    break
                states = self.model.get_decoder()(
                    input_ids=torch.tensor([[ids[-1]]], device=states.device),
                    position_ids=torch.tensor([[position + step + 1]], device=states.device),
                    past_key_values=cache,
                    use_cache=True,
                ).last_hidden_state
        named = parse_id(str(self.tokenizer.decode(ids)), map(str, range(len(texts))))
        return None if named is None else int(named)

    def best_layer(self, examples: Sequence[RankingExample]) -> int:
        """The layer of the middle half whose attention ranks these examples best, by reciprocal rank; it is taken.

        Raises
        ------
        RankingError : no example has answers.
        """
        known = [example for example in examples if example.answers]
        if not known:
            raise RankingError("choosing a layer needs examples with answers")
        number = self.model.config.get_text_config(decoder=True).num_hidden_layers
        quality: dict[int, float] = {}
        for layer in range(number // 4, max(number // 4 + 1, 3 * number // 4 + 1)):
            if layer >= number:
                break
            self.layer = layer
            ranks = [reciprocal_rank(self.rank(e.query, e.documents), e.answers) for e in known]
            quality[layer] = sum(ranks) / len(ranks)
        self.layer = max(quality, key=lambda layer: quality[layer])
        return self.layer

    def _ranked(self, query: str, names: list[str], texts: Mapping[str, str]) -> list[Ranked]:
        if len(names) <= self.group:
            return self._one_group(query, names, texts)
        # equal groups, so that no document competes with few others only
        number = -(-len(names) // self.group)
        groups = [self._one_group(query, names[begin::number], texts) for begin in range(number)]
        survivors = [one for group in groups for one in group[: max(1, math.ceil(len(group) * SURVIVORS))]]
        losers = [one for group in groups for one in group[max(1, math.ceil(len(group) * SURVIVORS)) :]]
        place = {name: index for index, name in enumerate(names)}
        alive = sorted((one.doc_id for one in survivors), key=place.__getitem__)
        final = self._ranked(query, alive, texts)
        return final + sorted(losers, key=lambda one: -one.score)

    def _one_group(self, query: str, names: list[str], texts: Mapping[str, str]) -> list[Ranked]:
        some = [texts[name] for name in names]
        shares = self.scores(query, some)
        found = [
            Ranked(name, math.log(share) + math.log(len(names)) if share > 0 else -math.inf)
            for name, share in zip(names, shares, strict=True)
        ]
        ordered = sorted(found, key=lambda one: -one.score)
        if self.mode == "decode":
            named = self.decode(query, some)
            if named is not None:
                ordered.sort(key=lambda one: one.doc_id != names[named])
        return ordered

    def _batch(self, query: str, texts: Sequence[str]) -> dict[str, torch.Tensor]:
        blocks = ranking_blocks(self.tokenizer, query, texts)
        room = self._query_position - len(blocks.prompt[0])
        if room < 1:
            raise RankingError(
                f"instruction and query take {len(blocks.prompt[0])} tokens, the closing block begins at position "
                f"{self._query_position}; shorten the query, or stretch the model's window"
            )
        longest = room if self.max_document is None else min(room, self.max_document)
        batch = collate_packed([blocks], pad_token_id=0, query_position=self._query_position, max_document=longest)
        weight = self.model.get_input_embeddings().weight
        assert isinstance(weight, torch.Tensor)
        return {name: tensor.to(weight.device) for name, tensor in batch.items()}

    def _forward(self, batch: Mapping[str, torch.Tensor], **arguments: object) -> torch.Tensor:
        names = ("input_ids", "attention_mask", "position_ids", "block_ids")
        given = {"use_cache": False, **{name: batch[name] for name in names}, **arguments}
        states: torch.Tensor = self.model.get_decoder()(**given).last_hidden_state
        return states


def reciprocal_rank(ranked: Sequence[Ranked], answers: Sequence[str], cut: int = 10) -> float:
    """1 over the place of the first relevant document, 0 where none is among the first `cut`."""
    for place, one in enumerate(ranked[:cut]):
        if one.doc_id in answers:
            return 1.0 / (place + 1)
    return 0.0


def ndcg(ranked: Sequence[Ranked], answers: Sequence[str], cut: int = 10) -> float:
    """Discounted gain of relevant documents among the first `cut`, over the best possible."""
    gains = sum(1 / math.log2(place + 2) for place, one in enumerate(ranked[:cut]) if one.doc_id in answers)
    best = sum(1 / math.log2(place + 2) for place in range(min(cut, len(answers))))
    return gains / best if best else 0.0
