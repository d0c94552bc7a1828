"""The plainest haystack: one line of five very short sentences, again and again."""

from __future__ import annotations

from farspan.evals.generate.haystack.base import CorpusHaystack, fingerprint_of

NOISE_LINE = "The road is long. The hill is low. The wind is warm. On we walk. Out and home again."


class NoiseHaystack(CorpusHaystack):
    """Endless copies of one line.

    Source: arXiv 2404.06654, table 1 (the kind of filler; the wording is ours).
    """

    joiner = "\n"
    starts = 1

    def __init__(self, line: str = NOISE_LINE) -> None:
        self.line = line

    def chunk(self, number: int) -> list[str]:
        return [self.line] * self.CHUNK

    def units(self, seed: int, n: int) -> list[str]:
        return [self.line] * n

    @property
    def fingerprint(self) -> str:
        return fingerprint_of("noise", self.line)
