"""Collections of one's own, tokenised once: JSONL, JSON, parquet and arrow files, or plain text, as one memory-mapped
array of token ids with the bounds of documents.

The store lies in a folder and is made again where files, field or tokenizer have changed. Training reads from it what
it needs, so that a collection may be larger than memory. Files are read by `datasets`; nothing is downloaded.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedTokenizerBase

from farspan.errors import FarspanError
from farspan.training.data.documents import Document

KINDS = {".jsonl": "json", ".json": "json", ".parquet": "parquet", ".arrow": "arrow", ".txt": "text", ".md": "text"}
TOKENS, BOUNDS, NOTE = "tokens.bin", "bounds.npy", "store.json"
BATCH = 256
BESIDE = ("dataset_info.json", "state.json")  # what `datasets` writes beside its own files


class StoreError(FarspanError):
    """A collection that cannot be read or tokenised, or a folder that holds no store."""


class TokenStore:
    """Documents as token ids on disk; `store[i]` is document `i`, uint32."""

    def __init__(self, folder: str | Path) -> None:
        """Open a store.

        Raises
        ------
        StoreError : the folder holds none, or an unfinished one.
        """
        self.folder = Path(folder)
        try:
            self.note: dict[str, object] = json.loads((self.folder / NOTE).read_text(encoding="utf-8"))
            self.bounds: npt.NDArray[np.int64] = np.load(self.folder / BOUNDS)
            self.tokens: npt.NDArray[np.uint32] = np.memmap(self.folder / TOKENS, dtype=np.uint32, mode="r")
        except (OSError, ValueError) as error:
            raise StoreError(f"{self.folder} holds no store of tokens: {error}") from error
        if int(self.bounds[-1]) != len(self.tokens):
            raise StoreError(f"{self.folder} holds an unfinished store; delete it and make it again")

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def __getitem__(self, index: int) -> npt.NDArray[np.uint32]:
        return self.tokens[self.bounds[index] : self.bounds[index + 1]]

    @classmethod
    def build(
        cls, texts: Iterable[str], tokenizer: PreTrainedTokenizerBase, folder: str | Path, note: str = ""
    ) -> TokenStore:
        """Tokenise texts into a folder, with the end-of-text token behind each; empty ones are left out.

        Parameters
        ----------
        note : what the texts are, for whoever asks later

        Raises
        ------
        StoreError : there is no text.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        end = [] if tokenizer.eos_token_id is None else [int(tokenizer.eos_token_id)]
        bounds = [0]
        unfinished = folder / f"{TOKENS}.{os.getpid()}"
        with unfinished.open("wb") as file:
            for batch in _batches(texts):
                for ids in tokenizer(batch, add_special_tokens=False, verbose=False)["input_ids"]:
                    if ids:
                        np.asarray([*ids, *end], dtype=np.uint32).tofile(file)
                        bounds.append(bounds[-1] + len(ids) + len(end))
        if len(bounds) == 1:
            unfinished.unlink()
            raise StoreError("there is no text to tokenise: every document is empty")
        np.save(folder / BOUNDS, np.asarray(bounds, dtype=np.int64))
        unfinished.replace(folder / TOKENS)
        (folder / NOTE).write_text(json.dumps({"note": note, "documents": len(bounds) - 1}), encoding="utf-8")
        return cls(folder)


class StoredTexts:
    """A source of documents from files of one's own, kept as a `TokenStore`.

    Parameters
    ----------
    tokenizer : None only where the texts themselves are wanted
    path : a file, or a folder of files of one kind: .jsonl, .json, .parquet, .arrow, .txt or .md
    field : of each row that holds the text; for plain text a file is a document
    store : folder of the store; beside the files where absent
    split : `train`, or `held_out` for the `held_out` share of documents that training never reads
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase | None,
        path: str,
        field: str = "text",
        store: str | None = None,
        split: Literal["train", "held_out"] = "train",
        held_out: float = 0.0,
    ) -> None:
        self.files = _files(Path(path))
        self.field = field
        self.store: TokenStore | None = None
        if tokenizer is None:
            return
        place = Path(store) if store else (self.files[0].parent / ".farspan-tokens")
        key = self._key(tokenizer)
        try:
            self.store = TokenStore(place / key)
        except StoreError:
            self.store = TokenStore.build(self._texts(), tokenizer, place / key, note=str(path))
        order = list(range(len(self.store)))
        random.Random(20240229).shuffle(order)
        kept = len(order) - round(held_out * len(order))
        self.documents = order[:kept] if split == "train" else order[kept:]
        if not self.documents:
            raise StoreError(f"{path} has no documents for split '{split}' with held_out={held_out}")
        sizes = np.diff(self.store.bounds)[self.documents]
        self._until = np.cumsum(sizes)

    def texts(self) -> list[str]:
        """All texts, for training a tokenizer."""
        return list(self._texts())

    def _key(self, tokenizer: PreTrainedTokenizerBase) -> str:
        parts = [self.field, json.dumps(tokenizer.get_vocab(), sort_keys=True)]
        for file in self.files:
            state = file.stat()
            parts.append(f"{file.name}:{state.st_size}:{state.st_mtime_ns}")
        return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()[:16]

    def _texts(self) -> Iterator[str]:
        kind = KINDS[self.files[0].suffix]
        if kind == "text":
            yield from (file.read_text(encoding="utf-8", errors="replace") for file in self.files)
            return
        for number, row in enumerate(_rows(kind, [str(file) for file in self.files])):
            text = row.get(self.field)
            if not isinstance(text, str):
                known = ", ".join(name for name, value in row.items() if isinstance(value, str)) or "none"
                place = f"row {number} of {self.files[0].parent}"
                raise StoreError(f"{place} has no text in field '{self.field}'; fields with text: {known}")
            yield text

    def document(self, rng: random.Random, length: int) -> Document:
        """A whole document, or `length` tokens of a longer one from a random place; long ones are drawn more often."""
        if self.store is None:
            raise StoreError("documents of a store need a tokenizer")
        drawn = int(np.searchsorted(self._until, rng.randrange(int(self._until[-1])), side="right"))
        ids = self.store[self.documents[drawn]]
        start = rng.randrange(max(1, len(ids) - length + 1))
        cut = ids[start : start + length].tolist()
        return Document(cut, [True] * len(cut))


def _files(path: Path) -> list[Path]:
    inside = path.rglob("*") if path.is_dir() else [path]
    files = sorted(
        file
        for file in inside
        if file.is_file()
        and file.suffix in KINDS
        and file.name not in BESIDE
        and not any(part.startswith(".") for part in file.relative_to(path).parts)
    )
    if not files:
        raise StoreError(f"{path} is, or holds, no file of a known kind: {', '.join(KINDS)}")
    kinds = sorted({KINDS[file.suffix] for file in files})
    if len(kinds) > 1:
        raise StoreError(f"{path} holds files of several kinds ({', '.join(kinds)}); name one kind's folder or file")
    return files


def _rows(kind: str, files: list[str]) -> Iterator[dict[str, object]]:
    from datasets import Dataset, load_dataset
    from datasets.exceptions import DatasetGenerationError

    try:
        if kind == "arrow":
            for file in files:
                yield from Dataset.from_file(file)
        else:
            yield from load_dataset(kind, data_files=files, split="train", streaming=True)
    except (DatasetGenerationError, OSError, ValueError) as error:
        raise StoreError(f"cannot read {files[0]} as {kind}: {str(error).splitlines()[0]}") from error


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    for text in texts:
        if text:
            batch.append(text)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch
