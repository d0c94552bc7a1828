"""Golden adapter: graphs, energies and alignments of points, accuracies, baselines, bends and power laws."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from farspan.evals import graphs
from tests.golden.compare import assert_close

ATOL = 1e-6


def check_case(case: dict[str, Any]) -> None:
    CHECKS[case["name"].partition(":")[0]](case["input"], case["expected"])


def check_adjacency(given: dict[str, Any], expected: Any) -> None:
    if given["graph"] == "ring":
        made = graphs.ring_graph(given["nodes"])
    else:
        build = graphs.grid_graph if given["graph"] == "grid" else graphs.hex_graph
        made = build(given["rows"], given["cols"])
    assert_close(made, expected)


def geometry(points: Any, graph: Any) -> dict[str, Any]:
    _, shares = graphs.pca(points)
    return {
        "energy": graphs.dirichlet_energy(points, graph),
        "normalized_energy": graphs.normalized_energy(points, graph),
        "pca_explained": shares.tolist(),
        "laplacian_alignment": graphs.laplacian_alignment(points, graph),
    }


def check_energy(given: dict[str, Any], expected: Any) -> None:
    found = geometry(given["class_means"], given["adjacency"])
    assert_close({name: found[name] for name in expected}, expected, rtol=1e-6, atol=ATOL)


def check_mixing(given: dict[str, Any], expected: Any) -> None:
    mixed = graphs.neighbour_mixing(given["class_means"], given["adjacency"])
    if isinstance(expected, dict):
        found = {**geometry(mixed, given["adjacency"]), "mixed": mixed.tolist(), "class_means": mixed.tolist()}
        assert_close({name: found[name] for name in expected}, expected, rtol=1e-6, atol=ATOL)
    else:
        assert_close(mixed, expected, rtol=1e-6, atol=ATOL)


def check_accuracy(given: dict[str, Any], expected: Any) -> None:
    found = graphs.rule_following_accuracy(given["node_probs"], given["current"], given["adjacency"])
    assert_close(found, expected, rtol=1e-9, atol=1e-12)


def check_memorization(given: dict[str, Any], expected: Any) -> None:
    names = {"one_shot": 1, "two_shot": 2}
    found = {name: graphs.memorization_curve(given["nodes"], given["context"], names[name]) for name in expected}
    assert_close(found, expected, rtol=1e-6, atol=1e-9)


def check_means(given: dict[str, Any], expected: Any) -> None:
    means, counts = graphs.class_means(given["hidden_states"], given["node_ids"], given["nodes"], given["window"])
    shown = [None if math.isnan(row[0]) else row for row in means.tolist()]
    assert_close({"means": shown, "counts": counts}, expected, rtol=1e-6, atol=ATOL)


def check_bigram(given: dict[str, Any], expected: Any) -> None:
    assert_close(graphs.bigram_baseline(given["node_ids"], given["adjacency"]), expected, rtol=1e-9)


def check_critical(given: dict[str, Any], expected: Any) -> None:
    found = graphs.critical_context(given["context"], given["accuracy"])
    shown = {
        "critical_context": found.context if found.found else None,
        "sse": found.sse,
        "slope_before": found.slope_before,
        "slope_after": found.slope_after,
    }
    assert_close({name: shown[name] for name in expected}, expected, rtol=1e-6, atol=1e-8)


def check_power(given: dict[str, Any], expected: Any) -> None:
    exponent, prefactor = graphs.power_law_fit(given["nodes"], given["critical_context"])
    assert_close({"exponent": exponent, "prefactor": prefactor}, expected, rtol=1e-6)


CHECKS: dict[str, Callable[[dict[str, Any], Any], None]] = {
    "adjacency": check_adjacency,
    "dirichlet_energy": check_energy,
    "neighbour_mixing": check_mixing,
    "rule_following_accuracy": check_accuracy,
    "memorization_baselines": check_memorization,
    "class_means": check_means,
    "bigram_baseline_accuracy": check_bigram,
    "critical_context": check_critical,
    "power_law_fit": check_power,
}
DEFAULT = "case"
ADAPTERS: dict[str, Callable[[dict[str, Any]], None]] = {DEFAULT: check_case}
