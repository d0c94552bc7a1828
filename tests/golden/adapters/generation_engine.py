"""Seeds, intervals, curves, bootstrapped effective length and placement of the generation engine."""

from __future__ import annotations

from typing import Any

from tests.golden.compare import assert_close

# The reference values are printed with twelve decimals.
EXACT = 1e-9
BOOTSTRAP = 1e-6


def derive_seed(case: dict[str, Any]) -> None:
    from farspan.evals.generate import derive_seed as derive

    assert_close(derive(*case["input"]["parts"]), case["expected"])


def binomial_interval(case: dict[str, Any]) -> None:
    from farspan.evals.effective import clopper_pearson, wilson

    k, n, conf = (case["input"][name] for name in ("k", "n", "conf"))
    found = {
        "wilson": list(wilson(k, n, conf)),
        "wilson_one_sided_lower": wilson(k, n, conf, side="lower")[0],
        "clopper_pearson": list(clopper_pearson(k, n, conf)),
    }
    assert_close(found, case["expected"], rtol=EXACT, atol=EXACT)


def isotonic_decreasing(case: dict[str, Any]) -> None:
    from farspan.evals.effective import isotonic_decreasing as fit

    fitted = [float(value) for value in fit(case["input"]["y"], case["input"].get("w"))]
    assert_close(fitted, case["expected"], rtol=EXACT, atol=EXACT)


def effective_length_point(case: dict[str, Any]) -> None:
    from farspan.evals.effective import crossing, grid_length
    from farspan.evals.effective import isotonic_decreasing as fit

    given = case["input"]
    lengths, scores, threshold, scale = (given[name] for name in ("lengths", "scores", "threshold", "scale"))
    raw, side = crossing(lengths, scores, threshold, scale)
    smooth, smooth_side = crossing(lengths, list(fit(scores, given.get("weights"))), threshold, scale)
    found = {
        "crossing": raw,
        "censoring": side,
        "isotonic_crossing": smooth,
        "isotonic_censoring": smooth_side,
        "grid": grid_length(lengths, scores, threshold),
    }
    assert_close(found, case["expected"], rtol=EXACT)


def effective_length(case: dict[str, Any]) -> None:
    from farspan.evals.effective import ScoreRecord
    from farspan.evals.effective import effective_length as estimate

    given = case["input"]
    rows = zip(given["lengths"], given["scores"], strict=True)
    records = [ScoreRecord(length, score) for length, scores in rows for score in scores]
    settings = {name: given[name] for name in ("B", "seed", "conf", "isotonic", "scale") if name in given}
    result = estimate(records, given["threshold"], **settings)
    found = {name: getattr(result, name) for name in case["expected"]}
    assert_close(found, case["expected"], rtol=BOOTSTRAP)


def insertion_index(case: dict[str, Any]) -> None:
    from farspan.evals.generate import insertion_index as place

    assert_close(place(case["input"]["unit_tokens"], case["input"]["depths"]), case["expected"])


def fit_units(case: dict[str, Any]) -> None:
    from farspan.evals.generate import fit_units as fit

    assert_close(list(fit(case["input"]["unit_tokens"], case["input"]["budget"])), case["expected"])


ADAPTERS = {
    "binomial_interval": binomial_interval,
    "derive_seed": derive_seed,
    "effective_length": effective_length,
    "effective_length_point": effective_length_point,
    "fit_units": fit_units,
    "insertion_index": insertion_index,
    "isotonic_decreasing": isotonic_decreasing,
}
