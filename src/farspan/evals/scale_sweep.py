"""Serving a model at scales other than the one it was trained with: the cheapest gain in length, since nothing is
trained.

A model that was fine-tuned with its positions stretched by s often reads farther at 1.5 s or 2 s, at some cost on short
inputs. A few scales are tried on one retrieval task; each gets one figure, the area under its accuracy over the lengths
asked for. How a scale changes frequencies is the lever's business.

Source: arXiv 2308.10882, section 5.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from itertools import pairwise

from pydantic import BaseModel, ConfigDict
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from farspan.errors import FarspanError
from farspan.evals.run import evaluate
from farspan.positions import LinearInterpolation, PositionLever, get_rope
from farspan.recipe import LeverLike, Recipe, build_lever

MULTIPLES = (1.0, 1.25, 1.5, 2.0)
SHARES = (0.5, 1.0, 1.5, 2.0)


class ScaleResult(BaseModel):
    """One scale.

    multiple : of the scale the model was trained with
    recipe : levers that serve it, empty for the model as it stands
    window : tokens it is stretched to
    accuracy : a length, ascending
    n : questions a length
    area : mean height of the accuracy curve between the shortest and the longest length
    """

    model_config = ConfigDict(frozen=True)

    multiple: float
    recipe: str
    window: int
    accuracy: tuple[float, ...]
    n: tuple[int, ...]
    area: float


class ScaleSweep(BaseModel):
    """All scales that were tried, in the order given, over the same samples."""

    model_config = ConfigDict(frozen=True)

    task: str
    lengths: tuple[int, ...]
    results: tuple[ScaleResult, ...]

    @property
    def best(self) -> ScaleResult:
        """The scale with the largest area; of equals the smallest multiple, which changes least."""
        return max(self.results, key=lambda result: (result.area, -result.multiple))

    def cost_at_short(self, result: ScaleResult) -> float:
        """Accuracy that a scale loses at the shortest length against the first one tried."""
        return self.results[0].accuracy[0] - result.accuracy[0]


def sweep_scales(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    recipe: Recipe | None = None,
    *,
    multiples: Sequence[float] = MULTIPLES,
    lengths: Sequence[int] = (),
    task: str = "single_lines",
    n: int = 40,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> ScaleSweep:
    """Try scales on a model whose training with stretched positions is done.

    Parameters
    ----------
    model : as it was trained; its checkpoint may be stretched already
    recipe : with the position lever of the training and what it learned; its factor is multiplied. Without one, or
        without such a lever, the model's present positions are divided further, as by `linear`
    multiples : at least 1 each, of the scale of the training
    lengths : tokens; by default half the window of the training, the window, and one and a half and two of it
    task : a probe with scores from 0 to 1
    n : questions a length
    progress : called with scales done and scales in all

    Raises
    ------
    FarspanError : no multiple, one below 1, or one length alone.
    RecipeError : the lever cannot be given a factor so large.
    LeverNotApplicable : the model cannot take the lever.
    """
    if not multiples or min(multiples) < 1:
        raise FarspanError(f"a sweep needs multiples of the trained scale, each at least 1, not {list(multiples)}")
    candidates = [_at(recipe or Recipe(), multiple) for multiple in multiples]
    for candidate in candidates:
        candidate.check(model.config)
    trained = _window(recipe or Recipe(), model.config)
    grid = sorted(set(lengths)) or [round(share * trained) for share in SHARES]
    if len(grid) < 2:
        raise FarspanError("an area under accuracy needs at least two lengths")
    results = []
    for done, (multiple, candidate) in enumerate(zip(multiples, candidates, strict=True)):
        with candidate(model) if candidate.levers else nullcontext():
            found = evaluate(model, tokenizer, [task], grid, n=n, seed=seed, recipe=str(candidate)).headline
        cells = found.by_length()
        results.append(
            ScaleResult(
                multiple=multiple,
                recipe=str(candidate),
                window=_window(candidate, model.config),
                accuracy=tuple(cell.mean for cell in cells),
                n=tuple(cell.n for cell in cells),
                area=area([cell.length for cell in cells], [cell.mean for cell in cells]),
            )
        )
        if progress is not None:
            progress(done + 1, len(candidates))
    return ScaleSweep(task=task, lengths=tuple(grid), results=tuple(results))


def area(lengths: Sequence[float], scores: Sequence[float]) -> float:
    """Mean height of the line through the scores over ascending lengths.

    Raises
    ------
    FarspanError : fewer than two lengths.
    """
    if len(lengths) < 2:
        raise FarspanError("an area under accuracy needs at least two lengths")
    points = list(zip(lengths, scores, strict=True))
    under = sum((right - left) * (one + other) / 2 for (left, one), (right, other) in pairwise(points))
    return under / (lengths[-1] - lengths[0])


def _at(recipe: Recipe, multiple: float) -> Recipe:
    """The recipe with its position lever at a multiple of its factor."""
    levers: list[LeverLike] = list(recipe.levers)
    for index, lever in enumerate(levers):
        if isinstance(lever, PositionLever):
            settings = {**lever.model_dump(exclude_defaults=True), "factor": lever.factor * multiple}
            levers[index] = build_lever(lever.name, settings)
            return Recipe(levers)
    return Recipe(levers if multiple == 1 else [LinearInterpolation(factor=multiple, compose=True), *levers])


def _window(recipe: Recipe, config: PretrainedConfig) -> int:
    for lever in recipe.levers:
        if isinstance(lever, PositionLever):
            return lever.plan(config).target_length
    return get_rope(config).target_length
