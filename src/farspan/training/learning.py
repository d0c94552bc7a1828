"""Teaching a recipe: a model trained briefly with levers on, whatever the levers need learned along with it.

Most levers ask nothing but that they are on while the model trains. One that learns parameters of its own has a row
in the table below.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

from transformers import PreTrainedModel

from farspan.errors import FarspanError
from farspan.positions import Clex
from farspan.recipe import Lever, Recipe
from farspan.training.clex import fit_clex
from farspan.training.fine_tune import FineTune
from farspan.training.trainer import Batch


class Teacher(Protocol):
    """Learns a lever's own parameters while the model trains; returns the lever with them, then the fine-tune."""

    def __call__(
        self,
        lever: Lever,
        model: PreTrainedModel,
        batches: Iterable[Batch],
        out: Path,
        *,
        batch_tokens: int,
        fine_tune: FineTune,
        deadline: float | None,
    ) -> Recipe: ...


def _teach_clex(
    lever: Lever,
    model: PreTrainedModel,
    batches: Iterable[Batch],
    out: Path,
    *,
    batch_tokens: int,
    fine_tune: FineTune,
    deadline: float | None,
) -> Recipe:
    assert isinstance(lever, Clex)
    return fit_clex(lever, model, batches, out, batch_tokens=batch_tokens, fine_tune=fine_tune, deadline=deadline)


TEACHERS: dict[str, Teacher] = {"clex": _teach_clex}


def teach(
    levers: Sequence[Lever],
    model: PreTrainedModel,
    batches: Iterable[Batch],
    out: str | Path,
    *,
    batch_tokens: int,
    fine_tune: FineTune | None = None,
    deadline: float | None = None,
) -> Recipe:
    """Train a model briefly with levers on, and put the model's own weights back.

    Parameters
    ----------
    levers : in the order of the recipe
    batches : as `DocumentStream` makes them; rows within the model's window where a lever has `short_rows`
    out : folder for the learned files
    batch_tokens : tokens a batch
    fine_tune : how the model is trained, and for how many tokens
    deadline : moment of `time.monotonic()` after which no further step starts

    Returns
    -------
    The levers, with what they learned, then the fine-tune.

    Raises
    ------
    FarspanError : a lever that learns something of its own stands beside others, or there is nothing to train on.
    """
    folder, tuning = Path(out), fine_tune or FineTune()
    for lever in levers:
        teacher = TEACHERS.get(lever.name)
        if teacher is None:
            continue
        if len(levers) > 1:
            raise FarspanError(f"lever '{lever.name}' is taught alone; put the other levers on afterwards")
        return teacher(lever, model, batches, folder, batch_tokens=batch_tokens, fine_tune=tuning, deadline=deadline)
    with Recipe(levers)(model):
        fitted = tuning.fit(
            model, batches, folder / "weights.safetensors", batch_tokens=batch_tokens, deadline=deadline
        )
    return Recipe([*levers, fitted])
