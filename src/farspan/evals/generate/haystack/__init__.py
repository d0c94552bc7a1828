"""Haystacks: seeded streams of text units, a file each."""

from farspan.evals.generate.haystack.base import CorpusHaystack, Haystack, HaystackError, ListHaystack
from farspan.evals.generate.haystack.encyclopaedia import EncyclopaediaHaystack
from farspan.evals.generate.haystack.kv import KVHaystack
from farspan.evals.generate.haystack.lines import LinesHaystack
from farspan.evals.generate.haystack.noise import NoiseHaystack
from farspan.evals.generate.haystack.prose import ProseHaystack
from farspan.evals.generate.haystack.record import RecordHaystack
from farspan.evals.generate.haystack.text import TextHaystack
from farspan.evals.generate.haystack.word_list import WordListHaystack

__all__ = [
    "CorpusHaystack",
    "EncyclopaediaHaystack",
    "Haystack",
    "HaystackError",
    "KVHaystack",
    "LinesHaystack",
    "ListHaystack",
    "NoiseHaystack",
    "ProseHaystack",
    "RecordHaystack",
    "TextHaystack",
    "WordListHaystack",
]
