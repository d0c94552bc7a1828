"""Haystacks of random identifier pairs, and the threads that run through them.

Pure construction: pairs in, pairs out, with a `random.Random` for every choice. Lengths here are numbers of pairs;
tokens, questions and scores belong to the benchmark that uses this.

Source: arXiv 2411.05000, section 3.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from random import Random
from typing import Literal

from farspan.errors import FarspanError
from farspan.evals.generate.haystack.kv import KVHaystack, pair_text
from farspan.evals.generate.length import LengthTargetError

Pair = tuple[str, str]
Direction = Literal["forward", "backward", "random"]
CHARACTERS_PER_PAIR = 80
HEX_DIGITS = "0123456789abcdef"


def uuid_haystack(seed: int, num_kv_pairs: int) -> list[Pair]:
    """`num_kv_pairs` pairs of random identifiers; a longer haystack of the same seed starts with the shorter one.

    Source: arXiv 2411.05000, section 3; seed 0 with 25 pairs gives the published sample record byte for byte.
    """
    return KVHaystack().pairs(seed, num_kv_pairs)


def serialize(pairs: Sequence[Pair]) -> str:
    """The pairs as one JSON object on one line: exactly 80 characters a pair. Equal keys are kept, in order."""
    return "{" + ", ".join(pair_text(key, value) for key, value in pairs) + "}"


def parse_pairs(text: str) -> list[Pair]:
    """The inverse of `serialize`, equal keys included. Raises FarspanError if the text is no flat JSON object."""
    pairs: object
    try:
        pairs = json.loads(text, object_pairs_hook=list)
    except json.JSONDecodeError as error:
        raise FarspanError(f"the context is not a JSON object: {error}") from error
    if not isinstance(pairs, list):
        raise FarspanError("the context is not a JSON object")
    return [(str(key), str(value)) for key, value in pairs]


def needle_index(num_kv_pairs: int, depth: float) -> int:
    """Index of the pair at a depth in percent: 0 is the first pair, 100 the last; halves round up."""
    if not 0 <= depth <= 100:
        raise FarspanError(f"depth is a percentage from 0 to 100, not {depth}")
    return math.floor((num_kv_pairs - 1) * depth / 100 + 0.5)


@dataclass(frozen=True)
class Thread:
    """A chain of lookups: the pairs in the order in which it visits them, its first key and its final value."""

    order: tuple[int, ...]
    start: str
    answer: str

    @property
    def hops(self) -> int:
        """Links from one pair to the next: one less than its pairs."""
        return len(self.order) - 1


def thread_order(indices: Sequence[int], direction: Direction, rng: Random) -> list[int]:
    """The visiting order of distinct pair indices: ascending, descending, or any order that is neither of the two."""
    forward = sorted(indices)
    if direction == "forward":
        return forward
    if direction == "backward":
        return forward[::-1]
    if direction != "random":
        raise FarspanError(f"direction is 'forward', 'backward' or 'random', not '{direction}'")
    order = list(forward)
    rng.shuffle(order)
    while len(order) >= 3 and order in (forward, forward[::-1]):
        rng.shuffle(order)
    return order


def make_thread(
    pairs: Sequence[Pair], indices: Sequence[int], direction: Direction, rng: Random
) -> tuple[list[Pair], Thread]:
    """Link the pairs at `indices` into one thread: each key but the first becomes the value of the pair before it.

    Parameters
    ----------
    pairs : the haystack; it is not changed
    indices : distinct places of the thread's pairs, in any order
    direction : `forward` visits them in ascending order of place, `backward` in descending, `random` in neither
    rng : draws the random order

    Returns
    -------
    the new list of pairs, and the thread

    Raises
    ------
    FarspanError : no places, repeated places or places outside the haystack, or an unknown direction.

    Source: arXiv 2411.05000, section 3.
    """
    if not indices or len(set(indices)) != len(indices) or not all(0 <= i < len(pairs) for i in indices):
        raise FarspanError(f"a thread needs distinct places inside its {len(pairs)} pairs, got {list(indices)}")
    order = thread_order(indices, direction, rng)
    linked = list(pairs)
    for before, here in pairwise(order):
        linked[here] = (linked[before][1], linked[here][1])
    return linked, Thread(tuple(order), linked[order[0]][0], linked[order[-1]][1])


def follow_thread(pairs: Sequence[Pair], start_key: str, max_steps: int | None = None) -> tuple[str, int]:
    """Look up a key, use its value as the next key, and so on until a value is no key.

    Returns the final value and the number of lookups; stops after `max_steps` (default: the number of pairs), so that
    a cycle ends too. A start key that is no key gives itself and 0.
    """
    table = dict(reversed(pairs))
    limit = len(pairs) if max_steps is None else max_steps
    key, steps = start_key, 0
    while key in table and steps < limit:
        key = table[key]
        steps += 1
    return key, steps


@dataclass(frozen=True)
class Branched:
    """A tree of lookups: several pairs share a key, one path is the longest.

    order : places of the pairs of the longest path, from the start
    places : places of all pairs of the tree
    leaves : final values of all branches, in the order of their places
    """

    order: tuple[int, ...]
    places: tuple[int, ...]
    start: str
    answer: str
    leaves: tuple[str, ...]


def make_branched(pairs: Sequence[Pair], length: int, branching: int, rng: Random) -> tuple[list[Pair], Branched]:
    """Link randomly placed pairs into a tree whose longest path has `length` pairs and is the only one so long.

    At every step of the longest path but the last, `branching` pairs share the key; the others lead to side branches
    of one pair or more that end before the longest path does.

    Raises
    ------
    FarspanError : length or branching below 2.
    LengthTargetError : a haystack that is too small for the tree.

    Source: arXiv 2411.05000, section 3.
    """
    if length < 2 or branching < 2:
        raise FarspanError(f"a branched thread needs length and branching of at least 2, got {length} and {branching}")
    sides = [rng.randint(1, length - 1 - step) for step in range(length - 1) for _ in range(branching - 1)]
    needed = length + sum(sides)
    if needed > len(pairs):
        raise LengthTargetError(f"a branched thread of {needed} pairs does not fit into {len(pairs)} pairs")
    places = rng.sample(range(len(pairs)), needed)
    linked = list(pairs)
    trunk, free = places[:length], places[length:]
    for before, here in pairwise(trunk):
        linked[here] = (linked[before][1], linked[here][1])
    ends = [trunk[-1]]
    for number, size in enumerate(sides):
        key = linked[trunk[number // (branching - 1)]][0]
        for _ in range(size):
            here = free.pop()
            linked[here] = (key, linked[here][1])
            key = linked[here][1]
        ends.append(here)
    leaves = tuple(linked[place][1] for place in sorted(ends))
    return linked, Branched(tuple(trunk), tuple(places), linked[trunk[0]][0], linked[trunk[-1]][1], leaves)


def follow_branches(pairs: Sequence[Pair], start_key: str) -> list[tuple[str, int]]:
    """Final value and number of lookups of every branch from a key, in the order of the final pairs' places."""
    values: dict[str, list[tuple[int, str]]] = {}
    for place, (key, value) in enumerate(pairs):
        values.setdefault(key, []).append((place, value))
    ends: list[tuple[int, str, int]] = []
    heads = [(place, value, 1) for place, value in values.get(start_key, [])]
    while heads:
        place, value, steps = heads.pop()
        following = values.get(value, []) if steps < len(pairs) else []
        heads += [(place, value, steps + 1) for place, value in following]
        if not following:
            ends.append((place, value, steps))
    return [(value, steps) for _, value, steps in sorted(ends)]


def mark_keys(pairs: Sequence[Pair], indices: Sequence[int], character: str, rng: Random) -> list[Pair]:
    """Replace one random digit or letter of the keys at `indices` by a character that no other key contains.

    Raises
    ------
    FarspanError : not a single character, or one that a key or the JSON notation may hold.
    """
    if len(character) != 1 or character in HEX_DIGITS + '-"\\' or not character.isprintable() or character.isspace():
        raise FarspanError(
            f"the character {character!r} cannot mark keys; give one printable character that is no hex digit, "
            "hyphen, quote, backslash or space"
        )
    marked = list(pairs)
    for index in indices:
        key, value = marked[index]
        place = rng.choice([i for i, digit in enumerate(key) if digit.isalnum()])
        marked[index] = (key[:place] + character + key[place + 1 :], value)
    return marked
