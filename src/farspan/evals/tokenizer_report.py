"""How differently tokenizers count the same text, so that lengths in tokens are not compared across them.

Source: arXiv 2411.05000, section 4.1.
"""

from __future__ import annotations

import inspect
import json.decoder
from collections.abc import Mapping
from random import Random

from pydantic import BaseModel, ConfigDict

from farspan.errors import FarspanError
from farspan.evals.generate.count import TokenCounter
from farspan.evals.generate.haystack import KVHaystack, ProseHaystack

PROSE_SENTENCES = 500
DIGITS = 4000
PAIRS_TEXT, WINDOW_TEXT = "uuid_json", "prose:en"


class TokenizerRow(BaseModel):
    """One tokenizer.

    tokens_per_pair : tokens of one pair of a needle-threading haystack (80 characters)
    characters_per_token : by kind of text
    ratio : tokens of the UUID haystack, as a multiple of each tokenizer's
    window_characters : characters of prose in its context window; None where no window is given
    """

    model_config = ConfigDict(frozen=True)

    name: str
    tokens_per_pair: float
    characters_per_token: Mapping[str, float]
    ratio: Mapping[str, float]
    window_characters: int | None = None


def tokenizer_report(
    tokenizers: Mapping[str, TokenCounter | object],
    n_pairs: int = 1000,
    seed: int = 0,
    texts: Mapping[str, str] | None = None,
    windows: Mapping[str, int] | None = None,
) -> list[TokenizerRow]:
    """Compare tokenizers on identifiers, digits, prose, code and given texts.

    Parameters
    ----------
    tokenizers : by name, counters or anything `TokenCounter` takes
    n_pairs : pairs of the haystack of identifiers
    seed : of the generated texts
    texts : further texts by name
    windows : context windows in tokens, by the tokenizer's name

    Raises
    ------
    FarspanError : no tokenizer, no pair or an empty text.
    """
    if not tokenizers or n_pairs < 1:
        raise FarspanError("compare at least one tokenizer on at least one pair")
    haystack = KVHaystack()
    samples = {
        PAIRS_TEXT: haystack.head + haystack.joiner.join(haystack.units(seed, n_pairs)) + haystack.tail,
        "digits": "".join(str(Random(seed + i).randrange(10)) for i in range(DIGITS)),
        WINDOW_TEXT: " ".join(ProseHaystack("en").units(seed, PROSE_SENTENCES)),
        "code": inspect.getsource(json.decoder),
        **(texts or {}),
    }
    empty = [name for name, text in samples.items() if not text]
    if empty:
        raise FarspanError(f"the text '{empty[0]}' is empty")
    counters = {name: c if isinstance(c, TokenCounter) else TokenCounter(c) for name, c in tokenizers.items()}  # type: ignore[arg-type]
    tokens = {name: {kind: c.verify(text) for kind, text in samples.items()} for name, c in counters.items()}
    rows = []
    for name, counts in tokens.items():
        per_token = {kind: len(text) / counts[kind] for kind, text in samples.items()}
        window = (windows or {}).get(name)
        rows.append(
            TokenizerRow(
                name=name,
                tokens_per_pair=counts[PAIRS_TEXT] / n_pairs,
                characters_per_token=per_token,
                ratio={other: counts[PAIRS_TEXT] / tokens[other][PAIRS_TEXT] for other in tokens},
                window_characters=None if window is None else int(window * per_token[WINDOW_TEXT]),
            )
        )
    return rows
