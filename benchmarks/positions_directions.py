"""What papers say of positions, checked against the cells of `positions.py`; one by one, so that what fails is seen.

Margins are constants of this file. A claim is None where the figures that it needs are not there.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

PERPLEXITY_HELD = 1.1
"""Perplexity beyond the window over that of reading in windows, up to which it counts as held."""
E2_LOSS, E2_SCORE = 0.1, 0.1
"""Nats a token, and score, by which one run may stand behind a run for the factor."""
BELOW_FEW = 4

Cells = Mapping[str, Mapping[str, object]]
Claim = dict[str, object]


def directions(cells: Cells) -> list[Claim]:
    """Claims with `holds`, the figures behind each, and what is compared."""
    factors = sorted({int(key.split("x")[1]) for key in cells if key.startswith("windows x")})
    return [
        *(interpolation(cells, method, factor) for method in INTERPOLATIONS for factor in factors),
        *(held(cells, factor) for factor in factors if factor <= BELOW_FEW),
        *(one_run(cells, method, alone, factor) for method, alone in PAIRS for factor in factors),
        *(between(cells, t) for t in sorted({key.split(" ")[1] for key in cells if key.startswith("between ")})),
    ]


INTERPOLATIONS = ("linear", "yarn")
PAIRS = (("e2", "linear"), ("e2-ntk", "ntk"))


def interpolation(cells: Cells, method: str, factor: int) -> Claim:
    """Trained interpolation against the model as it is, and against the same training without it."""
    trained = _of(cells, f"{method} x{factor} trained")
    plain, taught = _of(cells, f"none x{factor} as it is"), _of(cells, f"none x{factor} trained")
    claim = f"trained interpolation by {method} beats none at {factor}x"
    if trained is None or plain is None:
        return {"claim": claim, "holds": None}
    rivals = [rival for rival in (plain, taught) if rival is not None]
    better = all(
        _number(trained, "score") > _number(rival, "score")
        and _number(trained, "loss_beyond") < _number(rival, "loss_beyond")
        for rival in rivals
    )
    return {
        "claim": claim,
        "holds": better,
        "score": _three(trained, plain, taught, "score"),
        "loss_beyond": _three(trained, plain, taught, "loss_beyond"),
    }


def held(cells: Cells, factor: int) -> Claim:
    """Perplexity of NTK-aware frequencies, untrained, against reading in windows."""
    claim = f"ntk without training holds perplexity within {PERPLEXITY_HELD:g} times that of windows at {factor}x"
    stretched, windows = _of(cells, f"ntk x{factor} as it is"), _of(cells, f"windows x{factor}")
    plain = _of(cells, f"none x{factor} as it is")
    if stretched is None or windows is None:
        return {"claim": claim, "holds": None}
    mean, lo, hi = _paired(stretched, windows)
    told: Claim = {
        "claim": claim,
        "holds": math.exp(mean) <= PERPLEXITY_HELD,
        "ratio": round(math.exp(mean), 4),
        "interval": [round(math.exp(lo), 4), round(math.exp(hi), 4)],
    }
    if plain is not None:
        told["ratio_without_lever"] = round(math.exp(_paired(plain, windows)[0]), 4)
    return told


def one_run(cells: Cells, method: str, alone: str, factor: int) -> Claim:
    """One run of E2-LLM against a run for this very factor with as many tokens."""
    claim = f"one run of {method} is within {E2_LOSS:g} nats and {E2_SCORE:g} of score of {alone} trained for {factor}x"
    one, own = _of(cells, f"{method} x{factor} trained"), _of(cells, f"{alone} x{factor} trained")
    if one is None or own is None:
        return {"claim": claim, "holds": None}
    behind, lo, hi = _paired(one, own)
    lost = _number(own, "score") - _number(one, "score")
    return {
        "claim": claim,
        "holds": behind <= E2_LOSS and lost <= E2_SCORE,
        "loss_more": round(behind, 4),
        "interval": [round(lo, 4), round(hi, 4)],
        "score_less": round(lost, 4),
    }


def between(cells: Cells, t: str) -> Claim:
    """CLEX between trained factors against the best that linear interpolation trained around it gives there."""
    claim = f"clex between trained factors, at {t}x, beats linear"
    one = _of(cells, f"between {t} clex")
    named = {key: _of(cells, key) for key in cells if key.startswith(f"between {t} linear")}
    others = {key: cell for key, cell in named.items() if cell is not None}
    if one is None or not others:
        return {"claim": claim, "holds": None}
    lowest = min(others, key=lambda key: _number(others[key], "loss_beyond"))
    highest = max(others, key=lambda key: _number(others[key], "score"))
    less, lo, hi = _paired(others[lowest], one)
    more = _number(one, "score") - _number(others[highest], "score")
    return {
        "claim": claim,
        "holds": less > 0 and more > 0,
        "loss_less": round(less, 4),
        "interval": [round(lo, 4), round(hi, 4)],
        "score_more": round(more, 4),
        "linear_best_by_loss": lowest.split(", ", 1)[-1],
        "linear_best_by_score": highest.split(", ", 1)[-1],
    }


def _of(cells: Cells, key: str) -> Mapping[str, object] | None:
    cell = cells.get(key)
    return None if cell is None or "failed" in cell else cell


def _number(cell: Mapping[str, object], name: str) -> float:
    value = cell[name]
    assert isinstance(value, (int, float))
    return float(value)


def _three(
    trained: Mapping[str, object], plain: Mapping[str, object], taught: Mapping[str, object] | None, name: str
) -> dict[str, float]:
    found = {"trained": trained, "as it is": plain, "trained without a lever": taught}
    return {label: _number(cell, name) for label, cell in found.items() if cell is not None}


def _paired(one: Mapping[str, object], other: Mapping[str, object]) -> tuple[float, float, float]:
    """Mean over texts of how much more `one` loses beyond the window, with its 95 % interval."""
    pairs = zip(_list(one), _list(other), strict=True)
    differences = [first - second for first, second in pairs]
    mean = statistics.fmean(differences)
    half = 1.96 * statistics.stdev(differences) / len(differences) ** 0.5 if len(differences) > 1 else 0.0
    return mean, mean - half, mean + half


def _list(cell: Mapping[str, object]) -> Sequence[float]:
    values = cell["loss_beyond_by_text"]
    assert isinstance(values, list)
    return values
