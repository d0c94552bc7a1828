"""Counting tokens of text pieces as they stand inside a longer text.

A `TokenCounter` wraps a tokenizer and counts units behind an anchor, the end of what comes before them, so that the
sum of counts is the count of the whole. `calibrate` finds out whether that holds for a kind of unit: "additive" (it
does), "affine" (a constant error a joint), or "verify" (finished texts must be tokenised). Nothing here builds
contexts.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

import numpy as np

from farspan.errors import FarspanError
from farspan.evals.generate.length import IntArray

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

    from farspan.evals.generate.counted import CountedSource

    TokenizerLike = str | Path | Tokenizer | PreTrainedTokenizerBase | Callable[[str], Sequence[object]]

Mode = Literal["additive", "affine", "verify"]

CALIBRATION_UNITS = 64
MOST_KNOWN = 1 << 20
_CHUNK_CHARACTERS = 1 << 16
_TAIL_CHARACTERS = 64
_PROBE = "The road is long."


class TokenizerError(FarspanError):
    """A tokenizer that cannot be loaded or used for counting."""


@dataclass(frozen=True)
class Calibration:
    """How units of one kind add up.

    mode : see the module
    anchor : the end of a preceding unit, behind which pieces are counted
    per_joint : tokens to add to each piece (affine mode)
    mean_tokens : mean count of a piece, for estimates
    """

    mode: Mode
    anchor: str
    per_joint: int
    mean_tokens: float


class TokenCounter:
    """Counts tokens, never special tokens.

    Parameters
    ----------
    tokenizer : a folder or hub name, a `tokenizer.json`, a `tokenizers.Tokenizer`, a transformers tokenizer, or any
        function from text to a list of tokens
    anchor : text behind which units are counted; None takes a newline
    cache : keep counts of corpora in Farspan's cache folder

    Attributes
    ----------
    mode : how lines of plain words add up behind the anchor
    tokenizer_id : first 16 hex digits of the SHA-256 of the tokenizer's definition
    sources : corpora counted so far, by fingerprint
    """

    def __init__(self, tokenizer: TokenizerLike, anchor: str | None = None, cache: bool = True) -> None:
        self.name = str(tokenizer) if isinstance(tokenizer, str | Path) else ""
        self.cache = cache
        self.anchor = "\n" if anchor is None else anchor
        self._fast: Tokenizer | None = None
        self._hf: PreTrainedTokenizerBase | None = None
        self._slow: PreTrainedTokenizerBase | None = None
        self._function: Callable[[str], Sequence[object]] | None = None
        self._open(tokenizer)
        self.tokenizer_id = self._identity()
        self._templates: dict[bool, int] = {}
        self._calibrations: dict[str, Calibration] = {}
        self._known: dict[str, dict[str, int]] = {}
        self.sources: dict[str, CountedSource] = {}
        words = _PROBE.rstrip(".").split()
        lines = [f"{words[i % 4]} {words[i * 7 % 3]} {i}." for i in range(CALIBRATION_UNITS)]
        self.mode: Mode = self.calibration("lines", lambda: lines, "\n", None).mode

    def _open(self, tokenizer: TokenizerLike) -> None:
        import tokenizers

        loaded = _load(tokenizer) if isinstance(tokenizer, str | Path) else tokenizer
        if isinstance(loaded, tokenizers.Tokenizer):
            self._fast = _bare(loaded)
        elif hasattr(loaded, "get_vocab") and hasattr(loaded, "apply_chat_template"):
            self._hf = cast("PreTrainedTokenizerBase", loaded)
            backend = getattr(loaded, "backend_tokenizer", None)
            try:
                self._fast = _bare(backend) if isinstance(backend, tokenizers.Tokenizer) else None
            except Exception:  # a tokenizer with parts written in Python cannot be copied
                self._fast = None
            self._slow = self._hf if self._fast is None else None
        elif callable(loaded):
            self._function = loaded
        else:
            raise TokenizerError(f"{type(loaded).__name__} is no tokenizer; give a folder, a tokenizer or a function")

    @property
    def guesses(self) -> bool:
        """Whether a function stands in for a model's tokenizer."""
        return self._function is not None

    # -- counting ------------------------------------------------------------------------------------------------

    def count(self, text: str) -> int:
        """Tokens of the text alone."""
        return self.count_many([text])[0]

    def count_many(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text alone, in one batch."""
        if not texts:
            return []
        if self._fast is not None:
            return [len(encoding) for encoding in self._fast.encode_batch_fast(list(texts), add_special_tokens=False)]
        if self._slow is not None:
            return [len(ids) for ids in self._slow(list(texts), add_special_tokens=False)["input_ids"]]
        assert self._function is not None
        return [len(self._function(text)) for text in texts]

    def count_units(self, units: Sequence[str], anchor: str | None = None) -> IntArray:
        """Anchored counts `n(anchor + unit) - n(anchor)`, int64 [units]; equal units are tokenised once."""
        anchor = self.anchor if anchor is None else anchor
        distinct = dict.fromkeys(units)
        few = len(distinct) * 2 < len(units)
        todo: Sequence[str] = list(distinct) if few else units
        base, *counts = self.count_many([anchor, *(anchor + unit for unit in todo)])
        if few:
            table = {unit: count - base for unit, count in zip(todo, counts, strict=True)}
            return np.fromiter((table[unit] for unit in units), dtype=np.int64, count=len(units))
        return np.asarray(counts, dtype=np.int64) - base

    def recurring(self, units: Sequence[str], anchor: str) -> IntArray:
        """`count_units` of texts that come again and again: each is tokenised once in the life of this counter."""
        known = self._known.setdefault(anchor, {})
        if len(known) > MOST_KNOWN:
            known.clear()
        new = [unit for unit in dict.fromkeys(units) if unit not in known]
        if new:
            known.update(zip(new, self.count_units(new, anchor).tolist(), strict=True))
        return np.fromiter(map(known.__getitem__, units), dtype=np.int64, count=len(units))

    def verify(self, text: str) -> int:
        """Tokens of a long text, tokenised in parallel chunks cut at newlines, else at spaces."""
        if len(text) <= 4 * _CHUNK_CHARACTERS or self._fast is None:
            return self.count(text)
        cuts = [0]
        while len(text) - cuts[-1] > 2 * _CHUNK_CHARACTERS:
            cuts.append(_cut(text, cuts[-1] + _CHUNK_CHARACTERS))
        cuts.append(len(text))
        tails = [text[max(cut - _TAIL_CHARACTERS, 0) : cut] for cut in cuts[:-1]]
        chunks = [tail + text[a:b] for tail, a, b in zip(tails, cuts[:-1], cuts[1:], strict=True)]
        return sum(self.count_many(chunks)) - sum(self.count_many(tails))

    # -- calibration ---------------------------------------------------------------------------------------------

    def calibrate(self, units: Sequence[str], joiner: str, anchor: str | None = None) -> Calibration:
        """How units joined by `joiner` add up: tries several anchors and takes the first that is exact.

        Pieces are `joiner + unit`, counted behind an anchor that ends as units end.
        """
        if len(units) < 2:
            only = float(self.count_units([joiner + u for u in units], anchor or ".")[0]) if units else 1.0
            return Calibration("verify", anchor or ".", 0, max(only, 1.0))
        pieces = [joiner + unit for unit in units]
        sizes = [size for size in (2, 3, 5, 9, 17, 33) if size < len(units)] + [len(units)]
        truth = np.asarray(self.count_many([joiner.join(units[:size]) for size in sizes])) - self.count(units[0])
        best: Calibration | None = None
        smallest = None
        for candidate in _anchors(units[0], anchor):
            counts = self.count_units(pieces, candidate)
            sums = np.cumsum(counts) - counts[0]
            errors = truth - sums[np.asarray(sizes) - 1]
            mean = max(float(counts.mean()), 0.25)
            if not errors.any():
                return Calibration("additive", candidate, 0, mean)
            joints = np.asarray(sizes) - 1
            constant = int(errors[0]) // int(joints[0])
            if np.array_equal(errors, constant * joints):
                found = Calibration("affine", candidate, constant, mean + constant)
            else:
                found = Calibration("verify", candidate, 0, mean)
            rank = (found.mode == "verify", int(np.abs(errors).sum()))
            if smallest is None or rank < smallest:
                best, smallest = found, rank
        assert best is not None
        return best

    def calibration(
        self, kind: str, units: Callable[[], Sequence[str]], joiner: str, anchor: str | None
    ) -> Calibration:
        """`calibrate`, remembered under the name of the kind of unit."""
        if kind not in self._calibrations:
            self._calibrations[kind] = self.calibrate(units(), joiner, anchor)
        return self._calibrations[kind]

    # -- templates -----------------------------------------------------------------------------------------------

    def template_tokens(self, chat: bool = False) -> int:
        """Tokens a model's prompt holds beside its text.

        Without `chat` the special tokens the tokenizer adds; with it the whole chat template around one user turn.

        Raises
        ------
        TokenizerError : `chat` is asked of a tokenizer without a chat template.
        """
        if chat not in self._templates:
            self._templates[chat] = self._measure_template(chat)
        return self._templates[chat]

    def _measure_template(self, chat: bool) -> int:
        if chat:
            if self._hf is None or not self._hf.chat_template:
                raise TokenizerError("this tokenizer has no chat template; generate for a base model instead")
            turns = [{"role": "user", "content": _PROBE}]
            rendered = self._hf.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
            return self.count(str(rendered)) - self.count(_PROBE)
        source = self._fast if self._fast is not None else self._slow
        return int(source.num_special_tokens_to_add(False)) if source is not None else 0

    # -- identity ------------------------------------------------------------------------------------------------

    def _identity(self) -> str:
        if self._fast is not None:
            definition = self._fast.to_str()
        elif self._slow is not None:
            definition = type(self._slow).__name__ + json.dumps(sorted(self._slow.get_vocab().items()))
        else:
            definition = f"function {getattr(self._function, '__module__', '')}.{_function_name(self._function)}"
        return hashlib.sha256(definition.encode("utf-8")).hexdigest()[:16]

    def __getstate__(self) -> dict[str, object]:
        state = dict(self.__dict__)
        if self._fast is not None:
            # Workers count with the bare tokenizer, so that none of them has to import transformers.
            self._templates.setdefault(False, self._measure_template(False))
            state["_hf"] = None
        state["sources"], state["_known"] = {}, {}
        return state


def _load(name: str | Path) -> Tokenizer | PreTrainedTokenizerBase:
    """Open a tokenizer by its file, folder or hub name."""
    import tokenizers

    path = Path(name)
    if str(name) == "reference":
        from farspan.models import model_path

        path = Path(model_path("reference"))
    elif str(name).startswith((".", "/", "~")) and not path.expanduser().exists():
        raise TokenizerError(f"no tokenizer at {name}: no such file or folder")
    path = path.expanduser()
    try:
        if path.suffix == ".json" and path.is_file():
            return tokenizers.Tokenizer.from_file(str(path))
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(str(path))
    except Exception as error:  # the libraries raise whatever their parsers and clients raise
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise TokenizerError(f"cannot load a tokenizer from '{name}': {reason}") from error


def _bare(tokenizer: Tokenizer) -> Tokenizer:
    """A private copy that neither pads nor truncates."""
    copy = type(tokenizer).from_str(tokenizer.to_str())
    copy.no_truncation()
    copy.no_padding()
    return copy


def _function_name(function: object) -> str:
    return str(getattr(function, "__qualname__", type(function).__qualname__))


def _anchors(unit: str, wanted: str | None) -> list[str]:
    """Ends of a unit to count behind, from short to long."""
    stripped = unit.rstrip()
    run = len(stripped)
    while run > 0 and not stripped[run - 1].isalnum():
        run -= 1
    tails = [wanted or "", stripped[-1:], stripped[run:], stripped[-4:], stripped[-16:], unit]
    return list(dict.fromkeys(tail for tail in tails if tail)) or ["."]


def _cut(text: str, start: int) -> int:
    """A place at or after `start` where the text can be cut: after a newline, else before a single space."""
    end = min(start + _CHUNK_CHARACTERS, len(text) - 1)
    place = text.find("\n", start, end)
    while place >= 0:
        if not text[place + 1].isspace():
            return place + 1
        place = text.find("\n", place + 1, end)
    place = text.find(" ", start, end)
    while place >= 0:
        if not text[place + 1].isspace() and not text[place - 1].isspace():
            return place
        place = text.find(" ", place + 1, end)
    return end
