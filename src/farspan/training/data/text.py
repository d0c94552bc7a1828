"""Text that every Python installation carries: the sources of the standard library, and plain files of a user's own.

Documents are files; a long file is read at a random place. The last files of a seeded shuffle are held out, so that
text loss is measured on files the model never saw.
"""

from __future__ import annotations

import random
import sysconfig
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedTokenizerBase

from farspan.errors import FarspanError
from farspan.training.data.documents import Document

SKIPPED_FOLDERS = frozenset({"site-packages", "test", "tests", "lib2to3", "idlelib", "__pycache__"})


@runtime_checkable
class CorpusSource(Protocol):
    """Anything whose texts can train a tokenizer."""

    def texts(self) -> list[str]: ...


def standard_library_files() -> list[Path]:
    """Python sources of the running interpreter's standard library, tests left out, in a fixed order."""
    root = Path(sysconfig.get_paths()["stdlib"])
    return sorted(path for path in root.rglob("*.py") if not SKIPPED_FOLDERS & set(path.relative_to(root).parts))


class TextFiles:
    """Documents cut from text files; every token is supervised.

    Parameters
    ----------
    tokenizer : None only where the texts themselves are wanted
    folder : searched for `pattern`; the standard library's sources where absent
    split : `train`, or `held_out` for the `held_out` share of files that training never reads
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase | None,
        folder: str | None = None,
        pattern: str = "**/*.txt",
        split: Literal["train", "held_out"] = "train",
        held_out: float = 0.05,
    ) -> None:
        files = standard_library_files() if folder is None else sorted(Path(folder).glob(pattern))
        random.Random(20240229).shuffle(files)
        kept = len(files) - max(1, round(held_out * len(files)))
        self.files = files[:kept] if split == "train" else files[kept:]
        if not self.files:
            raise FarspanError(f"no text files in {folder or 'the standard library'} for split '{split}'")
        self.tokenizer = tokenizer
        self._ids: list[npt.NDArray[np.int32]] | None = None

    def texts(self) -> list[str]:
        """The text of every file of the split."""
        return [path.read_text(encoding="utf-8", errors="ignore") for path in self.files]

    def token_ids(self) -> list[npt.NDArray[np.int32]]:
        """Token ids of every file, tokenised once, with the end-of-text token behind each."""
        if self._ids is None:
            if self.tokenizer is None:
                raise FarspanError("documents of text files need a tokenizer")
            encoded = self.tokenizer(self.texts(), add_special_tokens=False, verbose=False)["input_ids"]
            end = [self.tokenizer.eos_token_id] if self.tokenizer.eos_token_id is not None else []
            self._ids = [np.asarray([*ids, *end], dtype=np.int32) for ids in encoded if ids]
            if not self._ids:
                raise FarspanError(
                    f"all {len(self.files)} text files are empty, such as {self.files[0]}; give longer ones"
                )
        return self._ids

    def document(self, rng: random.Random, length: int) -> Document:
        """A whole file, or `length` tokens of a longer one from a random place; long files are drawn more often."""
        files = self.token_ids()
        ids = rng.choices(files, [len(file) for file in files])[0]
        start = rng.randrange(max(1, len(ids) - length + 1))
        cut = ids[start : start + length].tolist()
        return Document(cut, [True] * len(cut))
