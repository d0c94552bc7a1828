"""The four kinds of keys a record of lines can have.

Keys of one record are always distinct; a longer record of the same random stream starts with the keys of the shorter.

Source: arXiv 2308.10882, section 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice, product
from random import Random
from uuid import UUID

from farspan.errors import FarspanError

KEY_OPTIONS = ("nl", "lrt", "abc", "uuid")
CODE_LETTERS = "ABCDEF"
CODE_LENGTH = 6


def line_index(option: str, n: int) -> list[str]:
    """The first `n` keys of an option whose keys need no randomness: `lrt` counts from 1, `abc` counts in letters.

    Raises
    ------
    FarspanError : another option, or more codes than six of six letters allow (46,656).
    """
    if option == "lrt":
        return [str(number) for number in range(1, n + 1)]
    if option == "abc":
        limit = len(CODE_LETTERS) ** CODE_LENGTH
        if n > limit:
            raise FarspanError(f"keys of kind 'abc' are limited to {limit} lines, got {n}; use another kind")
        return ["".join(code) for code in islice(product(CODE_LETTERS, repeat=CODE_LENGTH), n)]
    raise FarspanError(f"only 'lrt' and 'abc' keys are fixed, not '{option}'; draw the others with line_keys")


def line_keys(option: str, n: int, rng: Random, adjectives: Sequence[str] = (), nouns: Sequence[str] = ()) -> list[str]:
    """`n` distinct keys of one of the four kinds.

    Parameters
    ----------
    option : `nl` adjective-noun pairs, `lrt` numbers from 1, `abc` six letters A to F, `uuid` random version-4 UUIDs
    n : number of keys
    rng : random stream of `nl` and `uuid`
    adjectives, nouns : the words of `nl`

    Raises
    ------
    FarspanError : an unknown kind, or more keys than the kind has.
    """
    if option in ("lrt", "abc"):
        return line_index(option, n)
    if option == "uuid":
        return [str(UUID(int=rng.getrandbits(128), version=4)) for _ in range(n)]
    if option != "nl":
        raise FarspanError(f"keys are of kind {', '.join(KEY_OPTIONS)}, not '{option}'")
    if n > len(adjectives) * len(nouns):
        raise FarspanError(
            f"{len(adjectives)} adjectives and {len(nouns)} nouns give {len(adjectives) * len(nouns)} keys, not {n}"
        )
    keys: dict[str, None] = {}
    while len(keys) < n:
        keys[f"{adjectives[rng.randrange(len(adjectives))]}-{nouns[rng.randrange(len(nouns))]}"] = None
    return list(keys)
