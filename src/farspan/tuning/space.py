"""What a tune run tries: the recipes to begin with, and the space that the sampler draws from afterwards.

Levers say themselves with which settings they are worth trying and what they must learn first; those that cannot work
on a model are left out with their reason. Nothing here runs a model.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import zip_longest

import optuna
from transformers import PretrainedConfig

from farspan.errors import FarspanError
from farspan.recipe import Lever, Recipe, build_lever, lever_class, lever_table

NONE = "none"
FINE_TUNE = "fine-tune"
SAVERS = ("attention", "cache")
"""Slots of levers that make reading cheaper, tried on top of a stretch."""


@dataclass(frozen=True)
class Proposal:
    """One recipe to try, before anything in it is learned.

    positions, factor : the stretch
    attention, cache : a lever and which of its trial settings, `pbs/0`, or `none`
    fine_tune : whether training follows once the other levers are on
    """

    positions: str = NONE
    factor: float = 1.0
    attention: str = NONE
    cache: str = NONE
    fine_tune: bool = False

    def levers(self) -> list[Lever]:
        """The levers without the fine-tune."""
        found = []
        if self.positions != NONE:
            settings = (lever_class(self.positions).trials or ({},))[0]
            found.append(build_lever(self.positions, {"factor": self.factor, **settings}))
        for choice in (self.attention, self.cache):
            if choice != NONE:
                name, _, setting = choice.partition("/")
                found.append(build_lever(name, lever_class(name).trials[int(setting)]))
        return found

    @property
    def name(self) -> str:
        """The recipe's string form before anything is learned, a fine-tune to come named at its end."""
        return ",".join(filter(None, (str(Recipe(self.levers())), FINE_TUNE if self.fine_tune else "")))

    @property
    def lever_names(self) -> list[str]:
        """Names of all levers, in order."""
        return [lever.name for lever in self.levers()] + ([FINE_TUNE] if self.fine_tune else [])

    @property
    def calibrated(self) -> bool:
        """Whether a lever must be calibrated on text first."""
        return any(lever.needs == "calibration" for lever in self.levers())

    def params(self) -> dict[str, object]:
        """The proposal as parameters of an Optuna trial."""
        return {
            "positions": self.positions,
            "factor": self.factor,
            "attention": self.attention,
            "cache": self.cache,
            "fine_tune": self.fine_tune,
        }


class Space:
    """The levers that work on a model, and how proposals are drawn.

    Parameters
    ----------
    config : of the model
    native_length, target_length : tokens
    only : names of levers to try; all that work where empty

    Attributes
    ----------
    stretches : position levers that need nothing, calibration or training, by name
    savers : choices of each slot that makes reading cheaper
    refused : levers that do not work on the model, with the reason
    """

    def __init__(
        self, config: PretrainedConfig, native_length: int, target_length: int, *, only: tuple[str, ...] = ()
    ) -> None:
        self.refused: dict[str, str] = {}
        full = target_length / native_length
        self.factors = sorted({full, *(factor for factor in (2.0, full / 2, 2 * full) if factor >= 2.0)})
        self.full = full
        self.fine_tune = not only or FINE_TUNE in only
        self.stretches: dict[str, list[str]] = {"nothing": [], "calibration": [], "training": []}
        self.savers: dict[str, list[str]] = {slot: [] for slot in SAVERS}
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
                    self.stretches[lever.needs].append(name)
            elif lever.slot in self.savers:
                settings = enumerate(lever.trials)
                works = [f"{name}/{index}" for index, trial in settings if self._works(config, name, trial)]
                self.savers[lever.slot] += works
                if asked and not lever.trials:
                    self.refused[name] = "it needs settings or learned files of its own; put it into a recipe"

    def _works(self, config: PretrainedConfig, name: str, settings: dict[str, object]) -> bool:
        try:
            build_lever(name, settings).check_model(config)
        except FarspanError as error:
            self.refused[name] = str(error)
            return False
        return True

    @property
    def positions(self) -> list[str]:
        """Names of all position levers that work."""
        return [name for names in self.stretches.values() for name in names]

    @property
    def choices(self) -> tuple[str, ...]:
        """Everything that proposals are drawn from."""
        return (*self.positions, *(choice for choices in self.savers.values() for choice in choices))

    def opening_stretches(self) -> list[Proposal]:
        """Every stretch that needs nothing, alone, at the target."""
        return [Proposal(positions=name, factor=self.full) for name in self.stretches["nothing"]]

    def opening_savers(self, stretch: Proposal) -> list[Proposal]:
        """Every lever that makes reading cheaper on top of a stretch: slots in turn, first settings before others."""
        found = []
        for rank in range(max((len(lever_class(name).trials) for name in self._saver_names()), default=0)):
            ranked = ([choice for choice in self.savers[slot] if choice.endswith(f"/{rank}")] for slot in SAVERS)
            for attention, cache in zip_longest(*ranked, fillvalue=NONE):
                if attention != NONE:
                    found.append(replace(stretch, attention=attention))
                if cache != NONE:
                    found.append(replace(stretch, cache=cache))
        return found

    def calibrations(self) -> list[Proposal]:
        """Stretches that are calibrated on text."""
        return [Proposal(positions=name, factor=self.full) for name in self.stretches["calibration"]]

    def suggest(self, trial: optuna.Trial) -> Proposal:
        """Draw a proposal; also how enqueued proposals are read back."""
        positions = str(trial.suggest_categorical("positions", [NONE, *self.positions]))
        factor = trial.suggest_categorical("factor", sorted({1.0, *self.factors}))
        attention, cache = (str(trial.suggest_categorical(slot, [NONE, *self.savers[slot]])) for slot in SAVERS)
        fine_tune = bool(trial.suggest_categorical("fine_tune", [False, True]))
        return Proposal(positions, float(factor) if positions != NONE else 1.0, attention, cache, fine_tune)

    def learns(self, proposal: Proposal) -> bool:
        """Whether anything in a proposal must be learned before it can be judged."""
        untaught = [*self.stretches["calibration"], *self.stretches["training"]]
        return proposal.fine_tune or proposal.positions in untaught

    def _saver_names(self) -> set[str]:
        return {choice.partition("/")[0] for choices in self.savers.values() for choice in choices}
