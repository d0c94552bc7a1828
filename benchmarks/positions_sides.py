"""What `positions.py` compares: every lever of slot positions that fits the bundled model, and how each one learns.

A side is a method at a factor, as it is or after a short fine-tune. All fine-tunes of a run read the same number of
tokens of the same sources. Methods that draw positions in training read rows within the native window; `clex` and `e2`
train once and serve every factor, the others train once a factor. Nothing is measured here but the time of learning.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from farspan.errors import FarspanError
from farspan.positions import LongRope, search_longrope
from farspan.positions.lever import PositionLever
from farspan.recipe import Lever, Recipe, build_lever, lever_class, lever_table
from farspan.training import FineTune, teach
from farspan.tuning.material import Material, calibration_texts

NONE = "none"
NATIVE = 512
LARGEST = 16
ONE_RUN = ("clex", "e2", "e2-ntk")
VARIANTS: dict[str, tuple[str, dict[str, object]]] = {"e2-ntk": ("e2", {"family": "ntk"})}
LIKE_ANOTHER = {
    "randomized": "without training it is linear",
    "e2": "without training it is linear",
    "e2-ntk": "without training it is ntk",
}
SETTINGS: dict[str, dict[str, object]] = {name: {"max_factor": LARGEST} for name in ONE_RUN}


@dataclass(frozen=True)
class Side:
    """A method at a factor. `none` is the model without a lever."""

    method: str
    factor: int
    trained: bool

    @property
    def key(self) -> str:
        """Its name in the record."""
        return f"{self.method} x{self.factor} {'trained' if self.trained else 'as it is'}"

    @property
    def learned_with(self) -> int:
        """The factor that is switched on while it learns."""
        return LARGEST if self.method in ONE_RUN else self.factor


def methods(model: PreTrainedModel) -> tuple[list[str], dict[str, str]]:
    """Names of all levers of slot positions that such a model can take, in the table's order, and the others with why.

    Variants stand behind the lever they belong to.
    """
    found, left_out = [], {}
    for name in lever_table():
        cls = lever_class(name)
        if cls.slot != "positions":
            continue
        given = {"factor": 2.0} if "factor" in cls.model_fields else {}
        try:
            build_lever(name, dict(given)).check_model(model.config)
        except FarspanError as error:
            left_out[name] = str(error)
        else:
            found += [name, *(variant for variant, (base, _) in VARIANTS.items() if base == name)]
    return found, left_out


def lever_of(method: str, factor: float, **more: object) -> PositionLever:
    """A method's lever with the settings that it is compared with."""
    name, settings = VARIANTS.get(method, (method, {}))
    lever = build_lever(name, {"factor": float(factor), **SETTINGS.get(method, {}), **settings, **more})
    assert isinstance(lever, PositionLever)
    return lever


def told(levers: Sequence[Lever]) -> str:
    """Levers as text, without files of weights."""
    named = [
        lever.model_copy(update=dict.fromkeys(lever.weights_fields)) for lever in levers if lever.slot != "weights"
    ]
    return ",".join(map(str, named))


@dataclass(eq=False)
class School:
    """Learns what sides need, once, and keeps it in a folder for runs that go on.

    tokens : of every fine-tune
    search_tokens : read by a search of divisors, whatever the factor
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    folder: Path
    tokens: int
    search_tokens: int
    seed: int = 0

    def recipe(self, side: Side) -> tuple[Recipe, dict[str, object]]:
        """What a side is measured with, and what learning it has cost."""
        if not side.trained:
            return self._as_it_is(side)
        place = self.folder / f"{side.method}-x{side.learned_with}"
        cost = place / "cost.json"
        if not cost.is_file():
            self._train(side, place, cost)
        recipe = Recipe.from_yaml(place / "recipe.yaml")
        served = [
            lever.model_copy(update={"factor": float(side.factor)}) if isinstance(lever, PositionLever) else lever
            for lever in recipe
        ]
        return Recipe(served), json.loads(cost.read_text(encoding="utf-8"))

    def served_at(self, side: Side, factor: float, **more: object) -> Recipe:
        """The weights of a trained side at a factor that it was not trained for."""
        recipe, _ = self.recipe(side)
        return Recipe(
            lever.model_copy(update={"factor": factor, **more}) if isinstance(lever, PositionLever) else lever
            for lever in recipe
        )

    def _as_it_is(self, side: Side) -> tuple[Recipe, dict[str, object]]:
        if side.method == NONE:
            return Recipe(), {}
        if side.method == "longrope":
            return self._searched(side.factor)
        more: dict[str, object] = {"act": "none"} if side.method == "clex" else {}
        return Recipe([lever_of(side.method, side.factor, **more)]), {}

    def _searched(self, factor: int) -> tuple[Recipe, dict[str, object]]:
        """Divisors found by reading one text as often as the tokens allow."""
        target = NATIVE * factor
        evals = max(4, self.search_tokens // target)
        started = time.process_time()
        texts = calibration_texts(self.tokenizer, target, 1, seed=self.seed)
        journal = self.folder / f"longrope-x{factor}.jsonl"
        journal.parent.mkdir(parents=True, exist_ok=True)
        lever, _ = search_longrope(self.model, texts, target, budget_evals=evals, journal=journal)
        cost = {"searched_tokens": evals * target, "search_seconds": round(time.process_time() - started, 1)}
        return Recipe([lever]), cost

    def _train(self, side: Side, place: Path, cost: Path) -> None:
        levers: list[Lever] = []
        if side.method == "longrope":
            found, _ = self._searched(side.factor)
            levers = [lever for lever in found if isinstance(lever, LongRope)]
        elif side.method != NONE:
            levers = [lever_of(side.method, side.learned_with)]
        short = any(isinstance(lever, PositionLever) and lever.short_rows for lever in levers)
        material = Material(self.tokenizer, NATIVE, NATIVE * side.learned_with, seed=self.seed, short_rows=short)
        started = time.process_time()
        recipe = teach(
            levers,
            self.model,
            material,
            place,
            batch_tokens=material.batch_tokens,
            fine_tune=FineTune(tokens=self.tokens, seed=self.seed),
        )
        seconds = time.process_time() - started
        recipe.to_yaml(place / "recipe.yaml")
        done = sum(lever.tokens for lever in recipe if isinstance(lever, FineTune))
        row = NATIVE if short else NATIVE * side.learned_with
        paid = {"tokens": done, "longest_row": row, "seconds": round(seconds, 1), "serves_all": side.method in ONE_RUN}
        cost.write_text(json.dumps(paid), encoding="utf-8")
