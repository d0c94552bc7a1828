"""One fast core for every generated context: counting, lengths, placement, haystacks, samples.

Contexts are built from counted units, so length is arithmetic, placement is exact, and equal seeds give equal bytes.
"""

from farspan.evals.generate.build import BuiltContext, Placer, build_context
from farspan.evals.generate.count import TokenCounter, TokenizerError
from farspan.evals.generate.distractors import DistractorSpec, make_distractors
from farspan.evals.generate.generators import (
    Generator,
    GeneratorBase,
    UnknownKnobError,
    UnknownTaskError,
    generator_class,
)
from farspan.evals.generate.haystack import (
    Haystack,
    KVHaystack,
    LinesHaystack,
    ListHaystack,
    NoiseHaystack,
    ProseHaystack,
    RecordHaystack,
    TextHaystack,
    WordListHaystack,
)
from farspan.evals.generate.length import LengthTarget, LengthTargetError, fit_units, insertion_index
from farspan.evals.generate.many import SampleSpec, build_many
from farspan.evals.generate.needle import Frame, Needle
from farspan.evals.generate.placement import DepthGrid
from farspan.evals.generate.rng import derive_seed, sample_indices, substreams

__all__ = [
    "BuiltContext",
    "DepthGrid",
    "DistractorSpec",
    "Frame",
    "Generator",
    "GeneratorBase",
    "Haystack",
    "KVHaystack",
    "LengthTarget",
    "LengthTargetError",
    "LinesHaystack",
    "ListHaystack",
    "Needle",
    "NoiseHaystack",
    "Placer",
    "ProseHaystack",
    "RecordHaystack",
    "SampleSpec",
    "TextHaystack",
    "TokenCounter",
    "TokenizerError",
    "UnknownKnobError",
    "UnknownTaskError",
    "WordListHaystack",
    "build_context",
    "build_many",
    "derive_seed",
    "fit_units",
    "generator_class",
    "insertion_index",
    "make_distractors",
    "sample_indices",
    "substreams",
]
