"""Documents, their sources, packing and the stream of batches."""

from farspan.training.data.documents import Document, DocumentSource, DocumentStream, build_source
from farspan.training.data.packing import document_ids, pack, pack_rows
from farspan.training.data.summaries import LongSummary, ShortSummaries, concat_short_summaries

__all__ = [
    "Document",
    "DocumentSource",
    "DocumentStream",
    "LongSummary",
    "ShortSummaries",
    "build_source",
    "concat_short_summaries",
    "document_ids",
    "pack",
    "pack_rows",
]
