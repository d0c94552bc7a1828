"""How far an order of events is from the true one: four deviations, their maxima, and labels read out of an answer.

An answer with other labels than the reference, or with one twice, has no deviation (None).

Source: arXiv 2311.04939, section 4 and appendix on timeline reorder.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_ROMAN = {"I": 1, "V": 5, "X": 10, "L": 50}
_LABEL = re.compile(r"(?<![\w.])(\d{1,2}|[IVXL]+)(?![\w])")


def _places(reference: Sequence[str], prediction: Sequence[str]) -> list[int] | None:
    """Where each label of the reference stands in the prediction; None if it is no permutation of it."""
    if len(prediction) != len(reference) or not reference:
        return None
    place = {label: index for index, label in enumerate(prediction)}
    if len(place) != len(prediction) or set(place) != set(reference):
        return None
    return [place[label] for label in reference]


def location_square_deviation(reference: Sequence[str], prediction: Sequence[str]) -> float | None:
    """Mean squared distance of each event from its true place."""
    places = _places(reference, prediction)
    return None if places is None else sum((p - i) ** 2 for i, p in enumerate(places)) / len(places)


def location_mean_deviation(reference: Sequence[str], prediction: Sequence[str]) -> float | None:
    """Mean distance of each event from its true place."""
    places = _places(reference, prediction)
    return None if places is None else sum(abs(p - i) for i, p in enumerate(places)) / len(places)


def swap_deviation(reference: Sequence[str], prediction: Sequence[str]) -> float | None:
    """Fewest swaps of two events that restore the true order: events less cycles of the permutation."""
    places = _places(reference, prediction)
    if places is None:
        return None
    seen: set[int] = set()
    cycles = 0
    for start in range(len(places)):
        if start in seen:
            continue
        cycles += 1
        while start not in seen:
            seen.add(start)
            start = places[start]
    return float(len(places) - cycles)


def swap_distance_deviation(reference: Sequence[str], prediction: Sequence[str]) -> float | None:
    """Total distance over which events are swapped when every swap brings both nearer: half of all distances."""
    places = _places(reference, prediction)
    return None if places is None else sum(abs(p - i) for i, p in enumerate(places)) / 2


def max_location_square_deviation(n: int) -> float:
    """Largest `location_square_deviation` of n events: that of the reversed order."""
    return (n * n - 1) / 3


def max_location_mean_deviation(n: int) -> float:
    """Largest `location_mean_deviation` of n events."""
    return n * n // 2 / n


def max_swap_deviation(n: int) -> float:
    """Largest `swap_deviation` of n events: that of one cycle."""
    return float(n - 1)


def max_swap_distance_deviation(n: int) -> float:
    """Largest `swap_distance_deviation` of n events."""
    return float(n * n // 4)


def order_labels(text: str, among: Sequence[str] | None = None) -> list[str]:
    """Labels in the order of their first mention, Roman ones as Arabic numbers: "II, then 1" is ["2", "1"].

    among : labels to keep, in either writing; all where left out
    """
    wanted = None if among is None else {_arabic(label) for label in among}
    found = (_arabic(label) for label in _LABEL.findall(text))
    return list(dict.fromkeys(label for label in found if wanted is None or label in wanted))


def _arabic(label: str) -> str:
    if label.isdigit():
        return str(int(label))
    values = [_ROMAN.get(letter, 0) for letter in label]
    pairs = zip(values, [*values[1:], 0], strict=True)
    return str(sum(-value if value < after else value for value, after in pairs))


def reorder_scores(reference: str, prediction: str) -> dict[str, float]:
    """Scores in [0, 1] of an answer that orders events, 1 for the true order.

    Each deviation is divided by its maximum and taken from 1; an answer that is no order of the events has 0 in all.

    Returns
    -------
    `location_square`, `location_mean`, `swap`, `swap_distance`, `exact` (the true order and nothing else), and `valid`
    (1 if the answer orders all events).
    """
    right = order_labels(reference)
    answered = order_labels(prediction, among=right)
    n = len(right)
    deviations = {
        "location_square": (location_square_deviation(right, answered), max_location_square_deviation(n)),
        "location_mean": (location_mean_deviation(right, answered), max_location_mean_deviation(n) if n else 0.0),
        "swap": (swap_deviation(right, answered), max_swap_deviation(n)),
        "swap_distance": (swap_distance_deviation(right, answered), max_swap_distance_deviation(n)),
    }
    scores = {
        name: 0.0 if found is None else 1.0 - found / most if most else 1.0
        for name, (found, most) in deviations.items()
    }
    valid = deviations["swap"][0] is not None
    return {**scores, "exact": float(valid and answered == right), "valid": float(valid)}
