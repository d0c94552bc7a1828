"""Haystacks: seeded streams of text units, a file each."""

from farspan.evals.generate.haystack.base import CorpusHaystack, Haystack, HaystackError, ListHaystack

__all__ = ["CorpusHaystack", "Haystack", "HaystackError", "ListHaystack"]
