"""Document benchmarks: published questions on published documents, scored as published and as they should be."""

from farspan.evals.documents.base import (
    BenchmarkError,
    Dataset,
    DocumentBenchmark,
    Options,
    Prompt,
    Reading,
    Row,
    Scored,
    Table,
    benchmark,
    sample_of,
)

__all__ = [
    "BenchmarkError",
    "Dataset",
    "DocumentBenchmark",
    "Options",
    "Prompt",
    "Reading",
    "Row",
    "Scored",
    "Table",
    "benchmark",
    "sample_of",
]
