"""Documents, their sources, packing and the stream of batches."""

from farspan.training.data.documents import Document, DocumentSource, DocumentStream, build_source
from farspan.training.data.packing import document_ids, pack, pack_rows

__all__ = ["Document", "DocumentSource", "DocumentStream", "build_source", "document_ids", "pack", "pack_rows"]
