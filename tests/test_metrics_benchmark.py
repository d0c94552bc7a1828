"""The benchmark of metrics runs, and finds what the documentation says of ROUGE."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from benchmarks import metrics


@pytest.mark.timing
def test_rouge_of_long_chinese_is_seven_times_as_fast_with_equal_values(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "metrics.json"
    monkeypatch.setattr(sys, "argv", ["metrics.py", "--words", "300", "--pairs", "5", "--rows", "2", "--out", str(out)])
    metrics.main()
    (row,) = json.loads(out.read_text(encoding="utf-8"))["rouge_l_of_chinese"]
    assert row["largest_difference"] == 0.0
    assert row["ratio"] >= 7
