"""The four kinds of keys a record of lines can have.

Keys of one record are always distinct; a longer record of the same random stream starts with the keys of the shorter.

Source: arXiv 2308.10882, section 4.
"""

from __future__ import annotations

from itertools import islice
from random import Random
from typing import get_args

from farspan.errors import FarspanError
from farspan.evals.generate.haystack import lines

KEY_OPTIONS: tuple[lines.KeyKind, ...] = get_args(lines.KeyKind)
FIXED_OPTIONS: tuple[lines.KeyKind, ...] = ("lrt", "abc")


def line_index(option: str, n: int) -> list[str]:
    """The first `n` keys of an option whose keys need no randomness: `lrt` counts from 1, `abc` counts in letters.

    Raises
    ------
    FarspanError : another option, or more codes than six of six letters allow (46,656).
    """
    if option not in FIXED_OPTIONS:
        raise FarspanError(f"only 'lrt' and 'abc' keys are fixed, not '{option}'; draw the others with line_keys")
    return line_keys(option, n, Random(0))


def line_keys(option: str, n: int, rng: Random, lang: str = "en") -> list[str]:
    """`n` distinct keys of one of the four kinds.

    Parameters
    ----------
    option : `nl` adjective-noun pairs, `lrt` numbers from 1, `abc` six letters A to F, `uuid` random identifiers
    n : number of keys
    rng : random stream of `nl` and `uuid`
    lang : language of the words of `nl`

    Raises
    ------
    FarspanError : an unknown kind, or more keys than the kind has.
    """
    for kind in KEY_OPTIONS:
        if kind == option:
            return list(islice(lines.line_keys(kind, rng, lang), n))
    raise FarspanError(f"keys are of kind {', '.join(KEY_OPTIONS)}, not '{option}'")
