"""The folder of a tune run: what is kept there while it runs, so that a killed run goes on where it was.

Every file appears whole or not at all. Nothing here measures or decides.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from farspan.errors import FarspanError
from farspan.evals.evaluation import Evaluation, TaskResult
from farspan.profiling import Profile
from farspan.recipe import Recipe
from farspan.report.record import TrialRecord, write_atomically


class _Data(BaseModel):
    model_config = ConfigDict(frozen=True)


class TuneSettings(_Data):
    """What shapes a run; a folder goes on only with the settings it was begun with.

    budget_seconds is not among them: a run may be given more time. `levers` are the choices that proposals are drawn
    from; a study cannot go on with others, as another version of Farspan may have.
    """

    model: str
    target_length: int
    seed: int
    threshold: float
    levers: tuple[str, ...] = ()


class Measured(_Data):
    """A complete measurement: all tasks and all costs."""

    evaluation: Evaluation
    profile: Profile
    seconds: float


class Trial(_Data):
    """One finished trial: its record for the report, its answers, and the recipe with what was learned for it.

    rows : the recipe as `Recipe.to_list` gives it; empty where learning failed
    """

    record: TrialRecord
    params: dict[str, str | float | bool]
    result: TaskResult | None = None
    rows: list[dict[str, object]] = []
    fit_seconds: float = 0.0
    fit_tokens: int = 0

    @property
    def learned(self) -> bool:
        """Whether anything was learned for it."""
        return self.fit_seconds > 0

    @property
    def whole_recipe(self) -> Recipe:
        """The recipe with what was learned."""
        return Recipe.from_list(self.rows)


class RunFolder:
    """Reads and writes the state of one run.

    Raises
    ------
    FarspanError : the folder holds a run with other settings, or something that is no run.
    """

    def __init__(self, root: Path, settings: TuneSettings) -> None:
        self.root = root
        self.trials_dir = root / "trials"
        self.weights_dir = root / "weights"
        kept = root / "settings.json"
        if kept.is_file():
            try:
                found = TuneSettings.model_validate_json(kept.read_text())
            except ValidationError as error:
                raise FarspanError(f"{kept} is not readable; choose another --out folder") from error
            if found != settings:
                changed = [
                    name for name in TuneSettings.model_fields if getattr(found, name) != getattr(settings, name)
                ]
                raise FarspanError(
                    f"{root} holds a run with other {' and '.join(changed)}; choose another --out folder or remove it"
                )
        self.trials_dir.mkdir(parents=True, exist_ok=True)
        self.weights_dir.mkdir(exist_ok=True)
        write_atomically(kept, settings.model_dump_json(indent=1) + "\n")

    @property
    def storage(self) -> str:
        """The study's database, as Optuna names it."""
        return f"sqlite:///{self.root / 'study.db'}"

    def save_baseline(self, measured: Measured) -> None:
        """Keep the baseline."""
        write_atomically(self.root / "baseline.json", measured.model_dump_json())

    def baseline(self) -> Measured | None:
        """The baseline of an earlier process, if it got so far."""
        path = self.root / "baseline.json"
        return Measured.model_validate_json(path.read_text()) if path.is_file() else None

    def save_trial(self, trial: Trial) -> None:
        """Keep a finished trial."""
        write_atomically(self.trials_dir / f"{trial.record.number:04d}.json", trial.model_dump_json())

    def trials(self) -> list[Trial]:
        """Finished trials, in the order tried."""
        return [Trial.model_validate_json(path.read_text()) for path in sorted(self.trials_dir.glob("*.json"))]

    def learned_dir(self, number: int) -> Path:
        """Where what a trial learns goes."""
        folder = self.weights_dir / f"{number:04d}"
        folder.mkdir(exist_ok=True)
        return folder
