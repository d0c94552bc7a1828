"""Golden adapter: latencies and bytes of the characterisation of long-context cost. Operators and energy are not built.

Cases carry no function name of their own; their name says what they are about.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from transformers import LlamaConfig

from farspan.profiling import all_logits_bytes_per_token, kv_bytes_per_token, latency_metrics
from tests.golden.compare import assert_close


def check_kv_bytes(case: dict[str, Any]) -> None:
    given = dict(case["input"])
    dtype_bytes = given.pop("dtype_bytes")
    config = LlamaConfig(num_attention_heads=given["num_key_value_heads"], **given)
    assert_close(kv_bytes_per_token(config, dtype_bytes), case["expected"])


def check_logits_bytes(case: dict[str, Any]) -> None:
    given, expected = case["input"], case["expected"]
    computed = all_logits_bytes_per_token(given["vocab_rows"], given["hidden_size"], given["dtype_bytes"])
    assert_close(computed, expected["bytes"] if isinstance(expected, dict) else expected)
    if isinstance(expected, dict) and "measured_slope_in_public_csv" in expected:
        # What was measured holds small buffers besides.
        assert_close(float(computed), float(expected["measured_slope_in_public_csv"][-1]), rtol=1e-3)


def check_latency(case: dict[str, Any]) -> None:
    given = case["input"]
    metrics = latency_metrics(given["input_tokens"], given["output_tokens"], given["prefill_s"], given["total_s"])
    computed = {
        "ttft_s": metrics.ttft_s,
        "decode_s": metrics.decode_s,
        "tpot_published_s": metrics.tpot_published_s,
        "tpot_s": metrics.tpot_s,
        "throughput_tok_s": metrics.throughput_tok_s,
        "decode_throughput_tok_s": metrics.decode_throughput_tok_s,
    }
    assert_close(computed, case["expected"], rtol=1e-8)


_BY_NAME: dict[str, Callable[[dict[str, Any]], None]] = {
    "kv_cache_bytes_per_token": check_kv_bytes,
    "logits_and_last_hidden_bytes_per_token": check_logits_bytes,
    "latency_metrics": check_latency,
}


def check_by_name(case: dict[str, Any]) -> None:
    name = str(case["name"]).partition("(")[0]
    assert name in _BY_NAME, f"no adapter for {name!r}"
    _BY_NAME[name](case)


DEFAULT = "by_name"
ADAPTERS: dict[str, Callable[[dict[str, Any]], None]] = {"by_name": check_by_name, **_BY_NAME}
