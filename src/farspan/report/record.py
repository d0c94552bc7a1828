"""What a run leaves behind: the record that the tuner writes and the report reads.

A record is data and nothing else: frozen models, one JSON file (`run.json`), no arithmetic on scores and no knowledge
of how a number was measured. A number nobody measured is `None`; the report shows it as missing and never fills it in.
Lengths are tokens, times are seconds, memory is bytes, ratios are after divided by before.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from farspan.errors import FarspanError

SCHEMA_VERSION = 1
RECORD_NAME = "run.json"

Censoring = Literal["none", "left", "right"]
TrialState = Literal["baseline", "complete", "pruned", "failed"]
Fact = str | int | float | bool | None


class RecordError(FarspanError):
    """A run record that cannot be read or written."""


class _Data(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Cell(_Data):
    """One measured mean score in [0, 1] at a length, and at a depth where the task has one.

    length : tokens
    depth : percent of the context before the evidence, `None` where all depths are pooled
    n : samples behind the mean; 0 with `mean=None` marks a cell that was planned and not measured
    lo, hi : 95 % interval of the mean
    """

    length: int = Field(ge=1)
    depth: float | None = Field(default=None, ge=0, le=100)
    n: int = Field(ge=0)
    mean: float | None = None
    lo: float | None = None
    hi: float | None = None


class Effective(_Data):
    """An effective context length in tokens with its 95 % interval.

    censoring : `left` if the score is below the threshold already at the shortest length tested, `right` if it never
        falls below it up to the longest; `value` is then not a length the model was seen to stop at
    threshold : the score the model must keep, in [0, 1]
    n_per_length : samples at each length tested
    """

    value: float = Field(ge=0)
    lo: float | None = Field(default=None, ge=0)
    hi: float | None = Field(default=None, ge=0)
    censoring: Censoring = "none"
    threshold: float
    n_per_length: dict[int, int] = Field(default_factory=dict)


class TaskMeasure(_Data):
    """One task before or after: cells over length x depth, the same pooled over depth, and the effective length."""

    title: str
    cells: list[Cell] = Field(default_factory=list)
    by_length: list[Cell] = Field(default_factory=list)
    effective: Effective | None = None


class LossPoint(_Data):
    """Mean loss (nats a token) of ordinary text between two positions, start included and end excluded.

    n : independent texts behind the mean
    """

    position_start: int = Field(ge=0)
    position_end: int = Field(ge=1)
    loss: float | None
    lo: float | None = None
    hi: float | None = None
    n: int = Field(ge=0)


class ProfileRow(_Data):
    """What one length costs: medians over `n` repeats with their spread.

    ttft_s : time to first token, seconds
    tpot_s : time per further token, seconds
    peak_memory_bytes : peak of the process or device while measuring, weights included
    kv_bytes : bytes of the key-value cache at this length
    """

    length: int = Field(ge=1)
    ttft_s: float | None = None
    ttft_lo: float | None = None
    ttft_hi: float | None = None
    tpot_s: float | None = None
    tpot_lo: float | None = None
    tpot_hi: float | None = None
    peak_memory_bytes: int | None = None
    kv_bytes: int | None = None
    n: int = Field(ge=0)


class Measurement(_Data):
    """Everything measured of one model with one recipe; tasks by their name."""

    tasks: dict[str, TaskMeasure] = Field(default_factory=dict)
    text_loss: list[LossPoint] = Field(default_factory=list)
    profile: list[ProfileRow] = Field(default_factory=list)


class ModelInfo(_Data):
    """The model as it was found.

    parameters : number of weights, shared ones counted once
    native_length : the window it was trained for, tokens
    """

    name: str
    architecture: str
    parameters: int | None = None
    native_length: int = Field(ge=1)
    dtype: str | None = None
    tokenizer: str | None = None


class WinnerInfo(_Data):
    """The recipe that is delivered.

    recipe_yaml : the text of `recipe.yaml`
    recipe : its string form, as `--recipe` takes it
    trial : number of the trial it comes from
    baked : whether a checkpoint was written that loads without Farspan
    checkpoint : path of that checkpoint relative to the run's folder
    reason : one sentence on why this one was kept
    """

    recipe_yaml: str
    recipe: str
    trial: int | None = None
    baked: bool = False
    checkpoint: str | None = None
    reason: str = ""


class TrialRecord(_Data):
    """One recipe tried. The baseline is a trial too, with `state="baseline"`.

    levers : names of the levers in it, in order
    effective_length, lo, hi : tokens, on the task that judges (`RunRecord.headline_task`)
    censoring : of that effective length
    ratio_to_baseline, ratio_lo, ratio_hi : paired ratio of effective lengths and its 95 % interval
    length : tokens at which `ttft_s` and `peak_memory_bytes` were measured
    seconds : what the trial itself took
    kept : whether its gain cleared its interval
    reason : why it was kept, pruned, dropped or failed, one line
    """

    number: int = Field(ge=0)
    recipe: str
    levers: list[str] = Field(default_factory=list)
    state: TrialState
    effective_length: float | None = None
    lo: float | None = None
    hi: float | None = None
    censoring: Censoring = "none"
    ratio_to_baseline: float | None = None
    ratio_lo: float | None = None
    ratio_hi: float | None = None
    n: int | None = None
    length: int | None = None
    ttft_s: float | None = None
    peak_memory_bytes: int | None = None
    seconds: float | None = None
    kept: bool = False
    reason: str = ""


class AblationRow(_Data):
    """What one lever of the winner bought and cost, the others kept on.

    bought : effective length with the lever divided by that without it
    ttft_ratio, memory_ratio : the same for time to first token and peak memory (below 1 is cheaper)
    fit_seconds : time spent on learning, 0 where nothing was learned
    perspective : where the field's map places the lever, such as `Architecture` or `Training`
    n : paired samples behind `bought`
    """

    lever: str
    bought: float | None = None
    bought_lo: float | None = None
    bought_hi: float | None = None
    ttft_ratio: float | None = None
    memory_ratio: float | None = None
    fit_seconds: float | None = None
    perspective: str | None = None
    n: int | None = None
    note: str = ""


class RunRecord(_Data):
    """One finished or interrupted `farspan tune`, complete enough to rebuild its report from this alone.

    created : ISO 8601 with offset
    command : as typed
    lengths : tokens, ascending, the grid of the final measurement
    headline_task : the task whose effective length judges; the first of `tasks` where left out
    verdict : one sentence
    trials : in the order tried
    commands : lines that reproduce the result
    """

    schema_version: int = SCHEMA_VERSION
    created: str
    farspan_version: str
    versions: dict[str, str] = Field(default_factory=dict)
    machine: dict[str, Fact] = Field(default_factory=dict)
    seed: int
    command: str
    model: ModelInfo
    target_length: int = Field(ge=1)
    budget_seconds: float | None = None
    seconds_used: float | None = None
    tasks: list[str] = Field(default_factory=list)
    headline_task: str | None = None
    lengths: list[int] = Field(default_factory=list)
    threshold: float
    baseline: Measurement
    best: Measurement | None = None
    winner: WinnerInfo | None = None
    verdict: str
    trials: list[TrialRecord] = Field(default_factory=list)
    ablation: list[AblationRow] = Field(default_factory=list)
    notes: list[str] = Field(default_factory=list)
    commands: list[str] = Field(default_factory=list)

    @property
    def headline(self) -> str | None:
        """Name of the task that judges, or `None` if nothing was measured."""
        if self.headline_task is not None:
            return self.headline_task
        return self.tasks[0] if self.tasks else next(iter(self.baseline.tasks), None)

    def save(self, path: Path | str) -> Path:
        """Write the record as JSON; a folder gets `run.json` in it.

        The file appears whole or not at all, so a killed run leaves the last good record.

        Raises
        ------
        RecordError : the folder cannot be written.
        """
        path = _record_path(Path(path))
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, self.model_dump_json(indent=1) + "\n")
        except OSError as error:
            raise RecordError(f"cannot write {path}: {error.strerror or error}; choose another --out folder") from error
        return path

    @classmethod
    def load(cls, path: Path | str) -> RunRecord:
        """Read a record from a run's folder or from its JSON file.

        Raises
        ------
        RecordError : missing, unreadable, of a newer schema, or not a run record; the line names the first field wrong.
        """
        path = _record_path(Path(path))
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError as error:
            raise RecordError(f"no run record at {path}; give the --out folder of a finished `farspan tune`") from error
        except (OSError, UnicodeDecodeError) as error:
            raise RecordError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
        try:
            document = json.loads(text)
        except json.JSONDecodeError as error:
            raise RecordError(f"{path} is not valid JSON (line {error.lineno}): {error.msg}") from error
        version = document.get("schema_version") if isinstance(document, dict) else None
        if not isinstance(version, int):
            raise RecordError(f"{path} is not a run record: it has no schema_version")
        if version > SCHEMA_VERSION:
            raise RecordError(
                f"{path} has schema version {version}, this farspan reads up to {SCHEMA_VERSION}; upgrade farspan"
            )
        try:
            return cls.model_validate(document)
        except ValidationError as error:
            problem = error.errors()[0]
            field = ".".join(str(part) for part in problem["loc"])
            raise RecordError(f"{path} is not a valid run record: {field}: {problem['msg']}") from error


def write_atomically(path: Path, text: str) -> None:
    """Write a text file through a neighbour and a rename, so that no reader ever sees half of it."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _record_path(path: Path) -> Path:
    return path if path.suffix == ".json" else path / RECORD_NAME
