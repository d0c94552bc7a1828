"""Ranking as text: a query and candidate documents as blocks of a prompt, and batches of such prompts.

Blocks are an instruction with the query, one block a document, and a closing block that asks for the id. They are
tokenised one by one, so no token crosses a border and a document's tokens do not depend on its neighbours. Documents
share their positions, which makes them exchangeable. Nothing here runs a model.

Source: arXiv 2510.05396, section 3.1 and appendix.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from farspan.attention.segments import PADDING, SUFFIX
from farspan.errors import FarspanError
from farspan.training.data.packing import IGNORE_INDEX

DUMMY_TEXT = "This is a dummy document."
_SEPARATOR = "\u241e"
_INSTRUCTION = (
    "Below are a query and numbered documents, each written as ID, CONTENT and ID again. "
    "Read them and find those that help to answer the query.\nQuery: {query}\n\nDocuments:"
)
_DOCUMENT = "\nID: {index} | CONTENT: {text} | END ID: {index}"
_CLOSING = "\n\nWhich documents help to answer the query? Give their IDs.\nQuery: {query}\n"
_LEAD = "Final Answer:"


class RankingError(FarspanError):
    """Documents or examples that cannot be ranked."""


@dataclass(frozen=True)
class RankingExample:
    """A query, documents by id, and the ids of those that answer it (empty where unknown)."""

    query: str
    documents: Mapping[str, str]
    answers: tuple[str, ...] = ()
    query_id: str = ""

    @classmethod
    def from_dict(cls, row: Mapping[str, object]) -> RankingExample:
        """Read `{"query", "documents": [{"doc_id", "title", "text"} or text], "answer_ids", "query_id"}`.

        Raises
        ------
        RankingError : the row has no query or no documents.
        """
        query, documents = row.get("query"), row.get("documents")
        if not isinstance(query, str) or not isinstance(documents, list) or not documents:
            raise RankingError("an example needs a text 'query' and a list 'documents'")
        answers = cast("Iterable[object]", row.get("answer_ids") or ())
        named = tuple(str(answer) for answer in answers)
        return cls(query, documents_by_id(documents), named, str(row.get("query_id", "")))


@dataclass(frozen=True)
class SampledDocuments:
    """Documents in the order of the prompt: texts, their ids, and places of the answers."""

    texts: tuple[str, ...]
    ids: tuple[str, ...]
    answers: tuple[int, ...]


@dataclass(frozen=True)
class Blocks:
    """Token ids of a prompt's blocks (instruction, documents, closing), and what follows it.

    The last token of the closing block and the first of `completion` are the signal tokens.
    """

    prompt: tuple[tuple[int, ...], ...]
    completion: tuple[int, ...]
    answers: tuple[int, ...] = ()


def documents_by_id(documents: Sequence[object]) -> dict[str, str]:
    """Texts by id of a list of texts or of mappings with `doc_id`, `title` and `text`; places are ids where none is.

    Raises
    ------
    RankingError : an id stands twice, or an entry is neither.
    """
    found: dict[str, str] = {}
    for index, document in enumerate(documents):
        if isinstance(document, str):
            name, text = str(index), document
        elif isinstance(document, Mapping) and isinstance(document.get("text"), str):
            name = str(document.get("doc_id", index))
            text = f"{document.get('title') or ''} {document['text']}".strip()
        else:
            raise RankingError(f"document {index} is neither a text nor a mapping with a 'text'")
        if name in found:
            raise RankingError(f"document id '{name}' stands twice; ids must differ")
        found[name] = text
    return found


def read_documents(file: str | Path) -> dict[str, str]:
    """Documents of a file: one JSON object or text a line for `.jsonl`, otherwise one plain text a line.

    Raises
    ------
    RankingError : the file cannot be read, holds no document, or an id stands twice.
    """
    path = Path(file)
    try:
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        rows = [json.loads(line) for line in lines] if path.suffix == ".jsonl" else lines
    except (OSError, ValueError) as error:
        raise RankingError(f"cannot read documents from {path}: {error}") from error
    if not rows:
        raise RankingError(f"{path} holds no document")
    return documents_by_id(rows)


def sample_documents(
    documents: Mapping[str, str],
    answers: Sequence[str] = (),
    number: int = -1,
    *,
    seed: int | None = None,
    sample: bool = True,
    fill: bool = True,
) -> SampledDocuments:
    """Choose documents for one prompt and shuffle them.

    Parameters
    ----------
    number : documents to choose; all where it is not positive, or larger than there are and `fill` is off
    sample : keep the answers (at most `number`) and draw others; otherwise take the first ones
    fill : fill up with dummy documents

    Source: arXiv 2510.05396, appendix; the order of random draws is that of the published code.
    """
    rng = random.Random(seed)
    names = list(documents)
    if number <= 0 or (number > len(names) and not fill):
        number = len(names)
    relevant = list(answers)
    if sample:
        relevant = relevant[:number]
        others = [name for name in names if name not in relevant]
        chosen = relevant + rng.sample(others, min(number - len(relevant), len(others)))
    else:
        chosen = names[:number]
    texts = dict(documents)
    while fill and len(chosen) < number:
        chosen.append(f"dummy_{len(chosen)}")
        texts[chosen[-1]] = DUMMY_TEXT
    rng.shuffle(chosen)
    places = tuple(place for place, name in enumerate(chosen) if name in relevant)
    return SampledDocuments(tuple(texts[name] for name in chosen), tuple(chosen), places)


def parse_id(text: str, valid: Iterable[str] | None = None) -> str | None:
    """The first number that stands alone in an answer; None if there is none or it is not among `valid`."""
    found = re.search(r"\b\d+\b", text)
    if found is None or (valid is not None and found[0] not in set(valid)):
        return None
    return found[0]


def ranking_blocks(
    tokenizer: PreTrainedTokenizerBase, query: str, texts: Sequence[str], answers: Sequence[int] | None = None
) -> Blocks:
    """Tokenise a query and documents block by block.

    answers : places of relevant documents, for training; without them the completion is the opening bracket alone
    """
    parts = [_INSTRUCTION.format(query=query)]
    parts += [_DOCUMENT.format(index=index, text=text.strip()) for index, text in enumerate(texts)]
    parts.append(_CLOSING.format(query=query))
    begin: list[int] = []
    if tokenizer.chat_template is None:
        parts[-1] += _LEAD
        begin = list(tokenizer("")["input_ids"])
    else:
        turn = [{"role": "user", "content": _SEPARATOR.join(parts)}]
        rendered = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
        parts = (str(rendered) + _LEAD).split(_SEPARATOR)
    opened = ["["] if answers is None else ["[", ", ".join(map(str, answers)) + "]"]
    encoded = tokenizer([*parts, *opened], add_special_tokens=False)["input_ids"]
    prompt = [tuple(ids) for ids in encoded[: len(parts)]]
    prompt[0] = (*begin, *prompt[0])
    completion = tuple(token for ids in encoded[len(parts) :] for token in ids)
    return Blocks(tuple(prompt), completion, tuple(answers or ()))


def collate_packed(
    examples: Sequence[Blocks], *, pad_token_id: int, query_position: int, max_document: int | None = None
) -> dict[str, Tensor]:
    """A batch without padding between blocks; rows are padded at the left.

    Parameters
    ----------
    query_position : position of the closing block's first token
    max_document : tokens of a document at most; instruction and closing block are never cut

    Returns
    -------
    `input_ids`, `attention_mask`, `position_ids`, `block_ids`, `labels` [B, L], `answer_ids` [B, most], filled up with
    -1, and `signal_positions` [B, 2]

    Raises
    ------
    RankingError : a document would reach into the positions of the closing block.
    """
    rows = [_packed_row(example, query_position, max_document) for example in examples]
    length = max(len(row[0]) for row in rows)
    fillings = (pad_token_id, 0, PADDING, IGNORE_INDEX)
    names = ("input_ids", "position_ids", "block_ids", "labels")
    batch = {
        name: torch.tensor([[filling] * (length - len(row[0])) + row[part] for row in rows])
        for part, (name, filling) in enumerate(zip(names, fillings, strict=True))
    }
    batch["attention_mask"] = (batch["block_ids"] != PADDING).long()
    batch["answer_ids"] = _answers(examples)
    first = [length - len(example.completion) for example in examples]
    batch["signal_positions"] = torch.tensor([[place - 1, place] for place in first])
    return batch


def _packed_row(example: Blocks, query_position: int, max_document: int | None) -> list[list[int]]:
    opening, *documents, closing = example.prompt
    documents = [document[:max_document] for document in documents]
    longest = max(map(len, documents), default=0)
    if len(opening) + longest > query_position:
        raise RankingError(
            f"instruction and longest document take {len(opening) + longest} tokens, the closing block begins at "
            f"position {query_position}; cut documents with max_document={max(1, query_position - len(opening))} "
            "or give a larger query_position"
        )
    ids, positions, names = list(opening), list(range(len(opening))), [0] * len(opening)
    for index, document in enumerate(documents):
        ids += document
        positions += range(len(opening), len(opening) + len(document))
        names += [index + 1] * len(document)
    last = [*closing, *example.completion]
    labels = [IGNORE_INDEX] * (len(ids) + len(closing)) + list(example.completion)
    positions += range(query_position, query_position + len(last))
    return [ids + last, positions, names + [SUFFIX] * len(last), labels]


def collate_padded(
    examples: Sequence[Blocks],
    *,
    pad_token_id: int,
    query_position: int = 16384,
    multiple: int = 16,
    max_block: int | None = None,
) -> dict[str, Tensor]:
    """The published layout: every block padded at the left to the same length H.

    Documents longer than `max_block` are cut at the right; instruction and closing block are never cut, whatever H
    they need.

    Returns
    -------
    `input_ids`, `position_ids`, `labels` [B, M * H], `attention_mask` bool [B, M, H], `answer_ids` [B, most]

    Raises
    ------
    RankingError : examples differ in their number of documents.
    """
    blocks = len(examples[0].prompt)
    if any(len(example.prompt) != blocks for example in examples):
        raise RankingError("the padded layout needs equally many documents in every example; use the packed one")
    width = 0
    for example in examples:
        opening, *documents, closing = example.prompt
        longest = max(map(len, documents), default=0)
        wanted = longest if max_block is None else min(longest, max_block)
        width = max(width, wanted, len(opening), len(closing) + len(example.completion))
    width = -(-width // multiple) * multiple
    shape = (len(examples), blocks, width)
    input_ids = torch.full(shape, pad_token_id, dtype=torch.long)
    positions = torch.zeros(shape, dtype=torch.long)
    labels = torch.full(shape, IGNORE_INDEX, dtype=torch.long)
    mask = torch.zeros(shape, dtype=torch.bool)
    for row, example in enumerate(examples):
        opening, *documents, closing = example.prompt
        last = (*closing, *example.completion)
        for index, ids in enumerate((opening, *(document[:width] for document in documents), last)):
            start = 0 if index == 0 else query_position if index == blocks - 1 else len(opening)
            input_ids[row, index, width - len(ids) :] = torch.tensor(ids)
            positions[row, index, width - len(ids) :] = torch.arange(start, start + len(ids))
            mask[row, index, width - len(ids) :] = True
        if example.completion:
            labels[row, -1, -len(example.completion) :] = torch.tensor(example.completion)
    flat = {"input_ids": input_ids, "position_ids": positions, "labels": labels}
    return {
        **{name: tensor.flatten(1) for name, tensor in flat.items()},
        "attention_mask": mask,
        "answer_ids": _answers(examples),
    }


def _answers(examples: Sequence[Blocks]) -> Tensor:
    most = max(len(example.answers) for example in examples)
    return torch.tensor(
        [[*example.answers, *[-1] * (most - len(example.answers))] for example in examples], dtype=torch.long
    ).reshape(len(examples), most)
