"""Giraffe's frequency vectors, random positions and scores."""

from __future__ import annotations

from typing import Any

from tests.golden.compare import assert_close

# The reference values are float32 and printed with nine digits.
FLOAT32 = 1e-6


def frequency_vector(case: dict[str, Any]) -> None:
    from farspan.positions import giraffe_vector

    given = case["input"]
    vector = giraffe_vector(
        given["rope_theta"], given["head_dim"], given["linear_scale"], given["power"], given["truncate"]
    )
    assert_close(vector, case["expected"], rtol=FLOAT32)


def randomized_positions(case: dict[str, Any]) -> None:
    import torch

    from farspan.positions.randomized import positions_from_uniforms

    given = case["input"]
    steps = {key: given[key] for key in ("max_step", "min_step") if key in given}
    positions = positions_from_uniforms(torch.tensor(given["uniforms"], dtype=torch.float64), **steps)
    assert_close(positions, case["expected"], rtol=FLOAT32)


def score_lines(case: dict[str, Any]) -> None:
    from farspan.evals.metrics import line_number

    given = case["input"]
    parsed = line_number(given["output"], which="first")
    assert_close({"parsed": parsed, "correct": parsed == given["expected_number"]}, case["expected"])


def presence(case: dict[str, Any]) -> None:
    from farspan.evals.metrics import presence as score

    given = case["input"]
    assert_close(int(score(given["reference"], given["output"])), case["expected"])


def bleu(case: dict[str, Any]) -> None:
    from farspan.evals.metrics import bleu as score

    given = case["input"]
    # A product with an empty n-gram count is of the order of 1e-154 in the reference, and reported as 0 here.
    assert_close(score(given["reference"], given["output"]), case["expected"], rtol=1e-6, atol=1e-12)


def row_location(case: dict[str, Any]) -> None:
    from farspan.evals.tasks.altered_numbers import wikiqa_row_labels

    labels = [wikiqa_row_labels(row) for row in case["input"]["rows"]]
    named = [{f"{name}_location": value for name, value in label.items()} for label in labels]
    assert_close(named, case["expected"])


ADAPTERS = {
    "frequency_vector": frequency_vector,
    "randomized_positions": randomized_positions,
    "score_lines": score_lines,
    "presence": presence,
    "bleu": bleu,
    "row_location": row_location,
}
