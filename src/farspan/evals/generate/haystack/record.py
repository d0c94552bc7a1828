"""Records a family writes itself: biographies, verbalised rows, exam items, documents."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from farspan.evals.generate.haystack.base import Haystack
from farspan.evals.generate.rng import derive_seed


class RecordHaystack(Haystack):
    """Unit i is `make(rng, i)` with a random stream of its own, so any one record can be made alone.

    Parameters
    ----------
    make : writes one record
    kind : a name for this kind of record; calibration is done once a kind
    joiner, head, tail : see `Haystack`
    """

    def __init__(
        self,
        make: Callable[[Random, int], str],
        kind: str,
        *,
        joiner: str = "\n\n",
        head: str = "",
        tail: str = "",
    ) -> None:
        self.make = make
        self._kind = kind
        self.joiner, self.head, self.tail = joiner, head, tail

    def units(self, seed: int, n: int) -> list[str]:
        return [self.make(Random(derive_seed(seed, "record", i)), i) for i in range(n)]

    @property
    def kind(self) -> str:
        return f"record:{self._kind}:{self.joiner}"
