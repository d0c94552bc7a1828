"""One training run for many windows: the lever `e2` draws scales and offsets, and each factor asked for becomes a
recipe of its own on the same learned weights.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from transformers import PreTrainedModel

from farspan.errors import FarspanError
from farspan.positions import E2LLM
from farspan.recipe import Recipe, build_lever
from farspan.training.fine_tune import FineTune
from farspan.training.trainer import Batch


def fit_e2(
    lever: E2LLM,
    model: PreTrainedModel,
    batches: Iterable[Batch],
    out: str | Path,
    *,
    batch_tokens: int,
    factors: Sequence[float] = (),
    fine_tune: FineTune | None = None,
    deadline: float | None = None,
    precision: str = "auto",
) -> dict[float, Recipe]:
    """Train once on short rows, and put the model's own weights back.

    Parameters
    ----------
    lever : settings of the draws
    model : with its own positions
    batches : as `DocumentStream` makes them, of rows within the model's window
    out : folder for `weights.safetensors` and a recipe a factor, `recipe-x4.yaml`
    batch_tokens : tokens a batch
    factors : to make recipes for; the lever's own if left out
    fine_tune : how the model is trained, and for how many tokens
    deadline : moment of `time.monotonic()` after which no further step starts

    Returns
    -------
    A recipe for each factor, all with the same weights.

    Raises
    ------
    FarspanError : a factor below 1, nothing to train on, or files that cannot be written.
    LeverNotApplicable : the model cannot take the lever.

    Source: arXiv 2401.06951, algorithm 1.
    """
    if lever.factor == 1:
        raise FarspanError("e2 at factor 1 changes nothing; give a factor that the window is to reach")
    folder = Path(out)
    settings = lever.model_dump(exclude_defaults=True)
    levers = {factor: build_lever("e2", {**settings, "factor": factor}) for factor in factors or (lever.factor,)}
    with lever(model):
        fitted = (fine_tune or FineTune()).fit(
            model,
            batches,
            folder / "weights.safetensors",
            batch_tokens=batch_tokens,
            deadline=deadline,
            precision=precision,
        )
    recipes = {factor: Recipe([served, fitted]) for factor, served in levers.items()}
    for factor, recipe in recipes.items():
        recipe.to_yaml(folder / f"recipe-x{factor:g}.yaml")
    return recipes
