"""LooGLE: BLEU, ROUGE's recalls, METEOR of stems, masks filled in, and orders of events."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from farspan.evals.metrics import cloze, reorder
from farspan.evals.metrics.bleu import bleu_1_4
from farspan.evals.metrics.meteor import meteor_exact_stem
from farspan.evals.tasks.loogle import rouge_1_2_l_recall
from tests.golden.compare import assert_close

EXACT = 1e-12
TINY = 1e-300

Case = dict[str, Any]


def check(function: Callable[..., object]) -> Callable[[Case], None]:
    def run(case: Case) -> None:
        given = {name: value for name, value in case["input"].items() if name != "note"}
        found = function(**given)
        assert_close(list(found) if isinstance(found, tuple) else found, case["expected"], rtol=EXACT, atol=EXACT)

    return run


def check_bleu(case: Case) -> None:
    """Scores without a hit are some tiny number or 0; which one depends on the last bits."""
    given = case["input"]
    for found, expected in zip(bleu_1_4(given["reference"], given["hypothesis"]), case["expected"], strict=True):
        if not (found < TINY and expected < TINY):
            assert_close(found, float(expected), rtol=EXACT)


ADAPTERS = {
    "bleu_1_4": check_bleu,
    "rouge_1_2_l_recall": check(rouge_1_2_l_recall),
    "meteor_exact_stem": check(meteor_exact_stem),
    "cloze_exact_match": check(cloze.cloze_exact_match),
    "cloze_partial_match": check(cloze.cloze_partial_match),
    **{
        name: check(getattr(reorder, name))
        for kind in ("location_square", "location_mean", "swap", "swap_distance")
        for name in (f"{kind}_deviation", f"max_{kind}_deviation")
    },
}
