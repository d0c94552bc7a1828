"""Seeds and random streams of generated contexts.

Everything random in a generated sample comes from here, so that equal seeds give equal bytes on any machine, in any
process and for any number of workers. Nothing here uses `hash()`, the order of sets, numpy's global state or time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from random import Random
from typing import TypeVar

import numpy as np

T = TypeVar("T")

STREAMS = ("needle", "haystack", "placement", "question")


def derive_seed(*parts: object) -> int:
    """A 63-bit seed from any printable parts: the first eight bytes of the SHA-256 of their joined strings.

    Examples
    --------
    >>> derive_seed("a", "b")
    8092085543480239773
    """
    digest = hashlib.sha256("\x1f".join(str(part) for part in parts).encode("utf-8")).digest()
    return int.from_bytes(digest[:8], "big") & (2**63 - 1)


def stream_seeds(
    family: str, task: str, base_seed: int, index: int, *, length: object = None, depth: object = None
) -> dict[str, int]:
    """Seeds of the four streams of one sample.

    Needle, haystack and question do not depend on length and depth, so samples of equal index are paired across both;
    placement depends on them where they are given.
    """
    seeds = {name: derive_seed(family, task, base_seed, index, name) for name in STREAMS}
    if length is not None or depth is not None:
        seeds["placement"] = derive_seed(family, task, base_seed, index, "placement", length, depth)
    return seeds


def substreams(
    family: str, task: str, base_seed: int, index: int, *, length: object = None, depth: object = None
) -> dict[str, Random]:
    """The streams `needle`, `haystack`, `placement` and `question` as `random.Random` objects."""
    seeds = stream_seeds(family, task, base_seed, index, length=length, depth=depth)
    return {name: Random(seed) for name, seed in seeds.items()}


def sample_indices(rng: Random, population: int, count: int) -> list[int]:
    """`count` distinct integers of `range(population)` in ascending order, by Floyd's method.

    `Random.sample` switches its algorithm with the sizes; this one is the same for all, hence stable by definition.
    """
    if not 0 <= count <= population:
        raise ValueError(f"cannot draw {count} distinct of {population}")
    chosen: set[int] = set()
    for upper in range(population - count, population):
        draw = rng.randrange(upper + 1)
        chosen.add(upper if draw in chosen else draw)
    return sorted(chosen)


def shuffled(rng: Random, items: Sequence[T]) -> list[T]:
    """A shuffled copy."""
    copy = list(items)
    for position in range(len(copy) - 1, 0, -1):
        other = rng.randrange(position + 1)
        copy[position], copy[other] = copy[other], copy[position]
    return copy


def mixed(rng: Random, items: Sequence[T]) -> list[T]:
    """A shuffled copy of a long sequence, several times faster than `shuffled`: items sorted by random numbers."""
    draw = rng.random
    order = np.argsort(np.array([draw() for _ in range(len(items))]), kind="stable")
    return [items[place] for place in order.tolist()]
