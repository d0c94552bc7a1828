"""V-NIAH and V-RULER as Inspect tasks: `inspect eval farspan/v_niah --model none -T model_path=FOLDER`.

The model is loaded here rather than by Inspect, because teacher forcing and kept frames need its insides. Frames never
enter the log. What is asked and how it is scored is the families' business.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Literal

from anyio import to_thread
from inspect_ai import Task, task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import ModelOutput
from inspect_ai.scorer import Score, Scorer, Target, grouped, mean, scorer, stderr
from inspect_ai.solver import Generate, Solver, TaskState, solver

from farspan.errors import FarspanError
from farspan.evals.tasks.video_frames import SYNTHETIC
from farspan.evals.tasks.video_needles import (
    HEIGHT,
    PAPER_DEPTHS,
    PAPER_FRAMES,
    WIDTH,
    VideoSample,
    family_of,
)
from farspan.evals.video_run import needle_samples, ruler_samples
from farspan.recipe import Recipe

if TYPE_CHECKING:
    from farspan.evals.video_model import VideoModel

VideoScoring = Literal["forced", "generate"]
Frames = str | int | Sequence[int]

OWN_LAYOUT = "hope:layout=mrope"
"""The model's own positions, with the text behind a video where it was in training; transformers misplaces it."""


@task(name="v_niah")
def v_niah(
    model_path: str,
    haystack: str = SYNTHETIC,
    frames: Frames = PAPER_FRAMES,
    depths: int = PAPER_DEPTHS,
    scoring: VideoScoring = "forced",
    recipe: str = OWN_LAYOUT,
    seed: int = 0,
    height: int = HEIGHT,
    width: int = WIDTH,
    cache: str = "",
) -> Task:
    """The visual needle: five needles at every depth of every length.

    Parameters
    ----------
    model_path : folder or hub name of a model of the Qwen2-VL or Qwen2.5-VL classes
    haystack : `synthetic`, or a `.npy` file of uint8 [frames, height, width, 3]
    frames : lengths of the haystack, a list or text with commas
    depths : places between first and last frame
    scoring : `forced` compares each token of the answer given before it, as the paper does; `generate` reads what the
        model says
    recipe : levers to switch on, as text or a file; by default the model's own layout
    cache : folder that keeps embedded frames between runs; empty keeps none
    """
    samples = needle_samples(_lengths(frames), depths, seed, haystack=haystack, height=height, width=width)
    return _video_task("v_niah", samples, model_path, scoring, recipe, cache)


@task(name="v_ruler")
def v_ruler(
    model_path: str,
    task: str | Sequence[str] = (),
    haystack: str = SYNTHETIC,
    frames: Frames = PAPER_FRAMES,
    samples: int = 10,
    scoring: VideoScoring = "generate",
    recipe: str = OWN_LAYOUT,
    seed: int = 0,
    height: int = HEIGHT,
    width: int = WIDTH,
    cache: str = "",
    distractors: int = 3,
    values: int = 3,
    most: int = 9,
) -> Task:
    """The video ruler: `samples` of each task at each length; see `v_niah` for the rest, `VideoKnobs` for the knobs.

    Parameters
    ----------
    task : some of single, multi_key, multi_value, count and order, a list or text with commas; all where empty
    """
    names = [name.strip() for name in task.split(",") if name.strip()] if isinstance(task, str) else list(task)
    made = ruler_samples(
        names,
        _lengths(frames),
        samples,
        seed,
        haystack=haystack,
        height=height,
        width=width,
        distractors=distractors,
        values=values,
        most=most,
    )
    return _video_task("v_ruler", made, model_path, scoring, recipe, cache)


@solver
def ask_video(model_path: str, scoring: VideoScoring, recipe: str, cache: str = "") -> Solver:
    """Draw the sample's video, ask the model, and keep what it said and whether that is right."""
    asked = _Asked(model_path, scoring, recipe, cache)

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        sample = VideoSample.model_validate(state.metadata["sample"])
        said, score = await to_thread.run_sync(asked, sample)
        state.output = ModelOutput.from_content(model_path, said)
        state.metadata["video_score"] = score
        return state

    return solve


@scorer(
    metrics=[
        mean(),
        stderr(),
        grouped(mean(), "length", all=False, name_template="length {group_name}"),
        grouped(mean(), "depth", all=False, name_template="depth {group_name}"),
        grouped(mean(), "task", all=False, name_template="task {group_name}"),
    ]
)
def video_score() -> Scorer:
    """What `ask_video` found."""

    async def score(state: TaskState, target: Target) -> Score:
        return Score(value=float(state.metadata["video_score"]), answer=state.output.completion)

    return score


class _Asked:
    """One model, loaded when first asked, that answers one sample at a time."""

    def __init__(self, model_path: str, scoring: VideoScoring, recipe: str, cache: str) -> None:
        self.model_path = model_path
        self.scoring = scoring
        self.recipe = Recipe.read(recipe) if recipe else Recipe()
        self.cache = cache
        self.lock = threading.Lock()
        self.model: VideoModel | None = None

    def __call__(self, sample: VideoSample) -> tuple[str, float]:
        from farspan.evals.video_model import VideoModel, load_vision

        with self.lock:
            if self.model is None:
                self.model = VideoModel(*load_vision(self.model_path), cache=self.cache or None)
            with self.recipe(self.model.model):
                if self.scoring == "forced":
                    right = self.model.forced(sample)
                    return "as expected" if right else "otherwise", float(right)
                said = self.model.generate(sample)
        return said, family_of(sample.benchmark).score(sample, said)


def _video_task(
    name: str,
    samples: Iterable[tuple[int, VideoSample]],
    model_path: str,
    scoring: VideoScoring,
    recipe: str,
    cache: str,
) -> Task:
    if scoring not in ("forced", "generate"):
        raise FarspanError(f"scoring '{scoring}' is not known; choose forced or generate")
    rows = [
        Sample(
            id=sample.id,
            input=sample.question,
            target=sample.answer,
            metadata={
                "length": length,
                "depth": "any" if sample.depth is None else f"{sample.depth:g}",
                "task": sample.task,
                "sample": sample.model_dump(mode="json"),
            },
        )
        for length, sample in samples
    ]
    return Task(
        dataset=MemoryDataset(rows, name=f"farspan/{name}"),
        solver=ask_video(model_path, scoring, recipe, cache),
        scorer=video_score(),
        name=name,
        metadata={"model_path": model_path, "scoring": scoring, "recipe": recipe, "text": "generated"},
    )


def _lengths(frames: Frames) -> list[int]:
    parts = frames.split(",") if isinstance(frames, str) else [frames] if isinstance(frames, int) else list(frames)
    try:
        found = [int(part) for part in parts]
    except ValueError as error:
        raise FarspanError(f"frames are whole numbers with commas between, such as 100,300; not {frames!r}") from error
    if not found or min(found) < 1:
        raise FarspanError(f"videos have at least 1 frame; {frames!r} is given")
    return found
