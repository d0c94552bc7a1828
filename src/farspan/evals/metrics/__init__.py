"""Metrics: pure functions from strings to numbers, without network, files or global state."""

from farspan.evals.metrics.bleu import bleu, bleu_1_4
from farspan.evals.metrics.chinese import jieba_tokens, normalized_zh_tokens
from farspan.evals.metrics.edit_similarity import edit_similarity
from farspan.evals.metrics.line_number import line_number
from farspan.evals.metrics.meteor import meteor_exact_stem
from farspan.evals.metrics.normalize import normalize_squad, normalize_squad_cased, normalize_zh
from farspan.evals.metrics.presence import presence, whole_number_pattern
from farspan.evals.metrics.rouge import (
    Rouge,
    rouge_google,
    rouge_google_mean,
    rouge_lcs_zh,
    rouge_set,
    rouge_set_zh,
    rouge_words,
)
from farspan.evals.metrics.string_match import (
    match_any,
    match_share,
    postprocess_pred,
    string_match_all,
    string_match_part,
)
from farspan.evals.metrics.token_f1 import f1_helmet, f1_set, f1_tokens, qa_f1, qa_f1_zh
from farspan.evals.metrics.uuid_match import UuidMatch, copy_errors, extract_uuids, uuid_match

__all__ = [
    "Rouge",
    "UuidMatch",
    "bleu",
    "bleu_1_4",
    "copy_errors",
    "edit_similarity",
    "extract_uuids",
    "f1_helmet",
    "f1_set",
    "f1_tokens",
    "jieba_tokens",
    "line_number",
    "match_any",
    "match_share",
    "meteor_exact_stem",
    "normalize_squad",
    "normalize_squad_cased",
    "normalize_zh",
    "normalized_zh_tokens",
    "postprocess_pred",
    "presence",
    "qa_f1",
    "qa_f1_zh",
    "rouge_google",
    "rouge_google_mean",
    "rouge_lcs_zh",
    "rouge_set",
    "rouge_set_zh",
    "rouge_words",
    "string_match_all",
    "string_match_part",
    "uuid_match",
    "whole_number_pattern",
]
