"""What `attention.py` compares: settings of every attention lever by length, and queries, keys and values to try on.

On a CPU they are those of the bundled model while it reads text; a GPU gets made ones of any shape. Nothing is timed
here.
"""

from __future__ import annotations

from dataclasses import dataclass

from farspan.attention import AttentionLever
from farspan.profiling.layers import DENSE_BACKENDS, Layer, Problem, Runner, made_up, read_by, text_ids
from farspan.recipe import Lever, build_lever, lever_class, lever_table

__all__ = ["DENSE_BACKENDS", "Layer", "Problem", "Runner", "Side", "made_up", "read_by", "sides", "text_ids"]


@dataclass(frozen=True)
class Side:
    """A lever with one of its settings. `series` names the line it belongs to in the picture."""

    series: str
    lever: AttentionLever

    @property
    def key(self) -> str:
        """The lever as text, what serves every side alike left out."""
        return str(self.lever.model_copy(update={"min_length": None, "backend": "auto"}))


def sides(length: int, quick: bool = False) -> tuple[list[Side], dict[str, str]]:
    """Settings of every lever of slot attention, from reading much to reading little, and levers left out with why.

    A lever that is not in the list below is tried with its own `trials`.
    """
    found, left_out = [], {}
    for name in lever_table():
        cls = lever_class(name)
        if cls.slot != "attention":
            continue
        if name == "blockrank":
            left_out[name] = "needs documents: see blockrank.py"
        elif cls.needs != "nothing":
            left_out[name] = f"needs {cls.needs}: see squeezed.py"
        else:
            found += _sides_of(name, cls, length, quick)
    return found, left_out


def _sides_of(name: str, cls: type[Lever], length: int, quick: bool) -> list[Side]:
    block = 64 if length < 4096 else 128
    blocks: dict[str, object] = {"block_size": block}
    masses = [{**blocks, "threshold": threshold} for threshold in (0.9, 0.8, 0.6)]
    windows = [max(2 * block, length // part) for part in (4, 8)]
    settings: dict[str, list[dict[str, object]]] = {
        "pbs": [{**mass, "segment_size": 2 * block} for mass in masses],
        "pbs+": [{**mass, "segment_size": 2 * block, "scoring": "xattention"} for mass in masses],
        "mean-pool": masses,
        "xattention": masses,
        "spargeattn": [{**blocks, "cdf": 0.98}, {**blocks, "cdf": 0.8}, {**blocks, "similarity": -0.1, "topk": 0.25}],
        "minference": [{"adaptive_budget": share} for share in (0.3, 0.15, 0.05)],
        "flexprefill": [{**blocks, "min_budget": 4 * block, "gamma": gamma} for gamma in (0.95, 0.9, 0.7)],
        "sink-window": [{**blocks, "sinks": block, "window": window} for window in windows],
        "a-shape": [{**blocks, "n_init": block, "n_local": window - block} for window in windows],
        "tri-shape": [{**blocks, "n_init": block, "n_local": window - block} for window in windows],
    }
    made = []
    for series in ("pbs", "pbs+") if name == "pbs" else (name,):
        rows = settings.get(series, [dict(row) for row in cls.trials] or [{}])
        for row in rows[:1] if quick else rows:
            lever = build_lever(name, {**row, "min_length": 0})
            assert isinstance(lever, AttentionLever)
            made.append(Side(series, lever))
    return made
