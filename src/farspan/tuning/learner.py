"""Learning what a proposal needs before it can be judged: calibration on texts, or a brief training of the model.

What is learned is written to the trial's folder; the model is left as found.
"""

from __future__ import annotations

import time
from functools import cached_property

from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from farspan.positions import LongRope
from farspan.positions.lever import PositionLever
from farspan.recipe import Lever, Recipe
from farspan.training import FineTune, teach
from farspan.tuning.folder import RunFolder
from farspan.tuning.material import Material, calibration_texts
from farspan.tuning.space import Proposal

TEXTS = 2
UNLIMITED = 10**9


class Learner:
    """Learns for one model and one target.

    Parameters
    ----------
    model, tokenizer : without levers
    native_length, target_length : tokens
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        folder: RunFolder,
        native_length: int,
        target_length: int,
        *,
        seed: int,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.folder = folder
        self.native_length = native_length
        self.target_length = target_length
        self.seed = seed

    @cached_property
    def texts(self) -> list[Tensor]:
        """Texts of the target length to calibrate on."""
        return calibration_texts(self.tokenizer, self.target_length, TEXTS, seed=self.seed)

    @property
    def text(self) -> Tensor:
        """One text of the target length."""
        return self.texts[0]

    def learn(self, proposal: Proposal, number: int, until: float) -> tuple[Recipe, float, int]:
        """A proposal's recipe with all that it needs, learned by the moment `until`.

        Returns
        -------
        The recipe, seconds spent on learning, tokens trained on; 0 where nothing had to be learned.
        """
        levers = proposal.levers()
        if not proposal.calibrated and not proposal.fine_tune:
            return Recipe(levers), 0.0, 0
        started = time.monotonic()
        if proposal.calibrated:
            levers = [self._calibrated(lever, number, until) for lever in levers]
        recipe, tokens = self._taught(levers, number, until) if proposal.fine_tune else (Recipe(levers), 0)
        return recipe, time.monotonic() - started, tokens

    def _calibrated(self, lever: Lever, number: int, until: float) -> Lever:
        if not isinstance(lever, LongRope):
            return lever
        return lever.fit(
            self.model, self.texts, self.folder.learned_dir(number) / f"{lever.name}.jsonl", deadline=until
        )

    def _taught(self, levers: list[Lever], number: int, until: float) -> tuple[Recipe, int]:
        short = any(isinstance(lever, PositionLever) and lever.short_rows for lever in levers)
        material = Material(self.tokenizer, self.native_length, self.target_length, seed=self.seed, short_rows=short)
        recipe = teach(
            levers,
            self.model,
            material,
            self.folder.learned_dir(number),
            batch_tokens=material.batch_tokens,
            fine_tune=FineTune(tokens=UNLIMITED, seed=self.seed),
            deadline=until,
        )
        return recipe, sum(lever.tokens for lever in recipe if isinstance(lever, FineTune))
