"""What a tune run tries: the recipes to begin with, and the space that the sampler draws from afterwards.

Levers say themselves with which settings they are worth trying; those that cannot work on a model are left out with
their reason. Nothing here runs a model.
"""

from __future__ import annotations

from dataclasses import dataclass

import optuna
from transformers import PretrainedConfig

from farspan.errors import FarspanError
from farspan.recipe import Lever, Recipe, build_lever, lever_class, lever_table

NONE = "none"
FINE_TUNE = "fine-tune"


@dataclass(frozen=True)
class Proposal:
    """One recipe to try, before anything in it is fitted.

    fine_tune : whether training follows once the other levers are on
    """

    positions: str = NONE
    factor: float = 1.0
    attention: str = NONE
    attention_setting: int = 0
    fine_tune: bool = False

    def levers(self) -> list[Lever]:
        """The levers without the fine-tune."""
        found = []
        if self.positions != NONE:
            settings = (lever_class(self.positions).trials or ({},))[0]
            found.append(build_lever(self.positions, {"factor": self.factor, **settings}))
        if self.attention != NONE:
            found.append(build_lever(self.attention, lever_class(self.attention).trials[self.attention_setting]))
        return found

    def recipe(self) -> Recipe:
        """The recipe without the fine-tune."""
        return Recipe(self.levers())

    @property
    def name(self) -> str:
        """The recipe's string form, a fine-tune to come named at its end."""
        return ",".join(filter(None, (str(self.recipe()), FINE_TUNE if self.fine_tune else "")))

    @property
    def lever_names(self) -> list[str]:
        """Names of all levers, in order."""
        return [lever.name for lever in self.levers()] + ([FINE_TUNE] if self.fine_tune else [])

    def params(self) -> dict[str, object]:
        """The proposal as parameters of an Optuna trial."""
        return {
            "positions": self.positions,
            "factor": self.factor,
            "attention": f"{self.attention}/{self.attention_setting}",
            "fine_tune": self.fine_tune,
        }


class Space:
    """The levers that work on a model, and how proposals are drawn.

    Parameters
    ----------
    config : of the model
    native_length, target_length : tokens
    only : names of levers to try; all that work where empty
    """

    def __init__(
        self, config: PretrainedConfig, native_length: int, target_length: int, *, only: tuple[str, ...] = ()
    ) -> None:
        self.refused: dict[str, str] = {}
        full = target_length / native_length
        self.factors = sorted({full, *(factor for factor in (2.0, full / 2, 2 * full) if factor >= 2.0)})
        self.full = full
        self.fine_tune = not only or FINE_TUNE in only
        self.positions: list[str] = []
        self.attention: list[str] = []
        for name in lever_table():
            asked = name in only
            if only and not asked:
                continue
            try:
                lever = lever_class(name)
            except FarspanError as error:
                self.refused[name] = str(error)
                continue
            if lever.slot == "positions" and (lever.trials or asked):
                if self._works(config, name, {"factor": full, **(lever.trials or ({},))[0]}):
                    self.positions.append(name)
            elif lever.slot == "attention":
                settings = enumerate(lever.trials)
                self.attention += [f"{name}/{index}" for index, trial in settings if self._works(config, name, trial)]

    def _works(self, config: PretrainedConfig, name: str, settings: dict[str, object]) -> bool:
        try:
            build_lever(name, settings).check(config)
        except FarspanError as error:
            self.refused[name] = str(error)
            return False
        return True

    def opening(self) -> list[Proposal]:
        """One proposal a lever at the target, then the fastest lever on top of the first stretch."""
        found = [Proposal(positions=name, factor=self.full) for name in self.positions]
        for choice in self.attention:
            name, _, setting = choice.partition("/")
            first = self.positions[0] if self.positions else NONE
            found.append(Proposal(first, self.full if self.positions else 1.0, name, int(setting)))
        return found

    def suggest(self, trial: optuna.Trial) -> Proposal:
        """Draw a proposal; also how enqueued proposals are read back."""
        positions = str(trial.suggest_categorical("positions", [NONE, *self.positions]))
        factor = trial.suggest_categorical("factor", sorted({1.0, *self.factors}))
        attention, _, setting = str(trial.suggest_categorical("attention", [f"{NONE}/0", *self.attention])).partition(
            "/"
        )
        fine_tune = bool(trial.suggest_categorical("fine_tune", [False, True]))
        return Proposal(positions, float(factor) if positions != NONE else 1.0, attention, int(setting), fine_tune)
