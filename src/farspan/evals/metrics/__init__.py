"""Metrics: pure functions from strings to numbers, without network, files or global state."""

from farspan.evals.metrics.bleu import bleu
from farspan.evals.metrics.line_number import line_number
from farspan.evals.metrics.presence import presence, whole_number_pattern
from farspan.evals.metrics.string_match import (
    match_any,
    match_share,
    postprocess_pred,
    string_match_all,
    string_match_part,
)
from farspan.evals.metrics.uuid_match import UuidMatch, copy_errors, extract_uuids, uuid_match

__all__ = [
    "UuidMatch",
    "bleu",
    "copy_errors",
    "extract_uuids",
    "line_number",
    "match_any",
    "match_share",
    "postprocess_pred",
    "presence",
    "string_match_all",
    "string_match_part",
    "uuid_match",
    "whole_number_pattern",
]
