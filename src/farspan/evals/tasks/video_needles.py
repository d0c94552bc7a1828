"""Long videos with something to find: the visual needle (V-NIAH), and V-RULER, five tasks on numbered plates.

Samples are data: a recipe of frames, a question, its answers. Frames are drawn when asked for; models are not known.
V-RULER is our own, made like its namesake for text; V-NIAH follows its paper with synthetic frames and needles.

Source: arXiv 2406.16852 and 2505.20444, section 5.2 (V-NIAH); 2404.06654 (the idea of the ruler).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from random import Random
from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from farspan.evals.generate.generators import UnknownTaskError, suggest
from farspan.evals.generate.rng import derive_seed, sample_indices
from farspan.evals.tasks.family import KnobError
from farspan.evals.tasks.video_frames import COLOURS, SYNTHETIC, Frame, Plate, haystack, plate_frame, read_plate

HEIGHT, WIDTH = 252, 448
"""9 x 16 tokens a frame in models with patches of 14 pixels, four of which make a token."""

PAPER_FRAMES = tuple(range(100, 3001, 200))
PAPER_DEPTHS = 6
NEEDLES = 5
LETTERS = "ABCD"

Scoring = Literal["exact", "ordered"]


class VideoEvent(BaseModel):
    """A plate that is frame number `frame` of the video."""

    model_config = ConfigDict(frozen=True)

    frame: int = Field(ge=0)
    plate: Plate


class VideoSample(BaseModel):
    """One question on one video of `frames` frames: those of the haystack in their order, with `events` put between.

    The prompt is the video, `question`, and `answer_prefix` for models that continue a text. With scoring `exact` the
    first of `answers` is the answer; with `ordered` all are, in this order. `depth` is in percent, None where there is
    no single place.
    """

    model_config = ConfigDict(frozen=True)

    id: str
    benchmark: str
    task: str
    frames: int = Field(ge=1)
    height: int = HEIGHT
    width: int = WIDTH
    haystack: str = SYNTHETIC
    haystack_seed: int = 0
    events: tuple[VideoEvent, ...] = ()
    question: str
    answers: tuple[str, ...]
    scoring: Scoring = "exact"
    answer_prefix: str = "Answer: "
    instruction: str = "Answer with the number alone."
    depth: float | None = None
    seed: int = 0
    index: int = 0

    @property
    def answer(self) -> str:
        """The expected answer as a text."""
        return ", ".join(self.answers) if self.scoring == "ordered" else self.answers[0]

    def grid(self, patch_size: int = 14) -> tuple[int, int, int]:
        """Patches in time, height and width, as `video_grid_thw` counts them."""
        return self.frames, self.height // patch_size, self.width // patch_size

    def tokens(self, patch_size: int = 14, spatial_merge_size: int = 2) -> int:
        """Vision tokens of the whole video."""
        frames, height, width = self.grid(patch_size)
        return frames * (height // spatial_merge_size) * (width // spatial_merge_size)

    def order(self) -> Iterator[int | VideoEvent]:
        """What each frame is: an index into the haystack, or an event."""
        placed = {event.frame: event for event in self.events}
        taken = 0
        for frame in range(self.frames):
            if frame in placed:
                yield placed[frame]
            else:
                yield taken
                taken += 1

    def draw(self, part: int | VideoEvent) -> Frame:
        """One entry of `order` as uint8 [height, width, 3]."""
        if isinstance(part, VideoEvent):
            return plate_frame(part.plate, self.haystack_seed, self.height, self.width)
        return haystack(self.haystack, self.haystack_seed, self.height, self.width)(part)

    def video(self) -> Iterator[Frame]:
        """The frames one by one."""
        return map(self.draw, self.order())


class VideoKnobs(BaseModel):
    """Knobs of both families.

    height, width : pixels of a frame
    haystack : `synthetic`, or a `.npy` file of frames of this size
    depths : places between first and last frame, both included
    distractors : plates of other colours beside those asked for, in `multi_key`, `multi_value` and `count`
    values : plates of the colour asked for, in `multi_value`
    most : largest number to count, in `count`
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    height: int = Field(default=HEIGHT, ge=20)
    width: int = Field(default=WIDTH, ge=20)
    haystack: str = SYNTHETIC
    depths: int = Field(default=PAPER_DEPTHS, ge=1)
    distractors: int = Field(default=3, ge=0, le=6)
    values: int = Field(default=3, ge=1, le=9)
    most: int = Field(default=9, ge=1, le=20)


class VideoFamily:
    """What both families share: names, knobs, scores, and answering a sample from its pixels."""

    name: ClassVar[str]
    tasks: ClassVar[tuple[str, ...]]
    lengths: ClassVar[tuple[int, ...]] = PAPER_FRAMES

    def knobs(self, task: str, given: Mapping[str, object]) -> VideoKnobs:
        """The checked knobs.

        Raises
        ------
        UnknownTaskError, KnobError
        """
        if task not in self.tasks:
            raise UnknownTaskError(f"{self.name} has no task '{task}'; {suggest(task, self.tasks)}")
        try:
            return VideoKnobs.model_validate(dict(given))
        except ValidationError as error:
            problem = error.errors()[0]
            knob = ".".join(str(part) for part in problem["loc"])
            if problem["type"] == "extra_forbidden":
                raise KnobError(
                    f"{self.name} has no knob '{knob}'; it has: {', '.join(VideoKnobs.model_fields)}"
                ) from error
            raise KnobError(f"{self.name}, knob '{knob}': {problem['msg']} (given {problem['input']!r})") from error

    def sample(self, task: str, frames: int, index: int, seed: int, **knobs: object) -> VideoSample:
        """Sample number `index` of a task on videos of `frames` frames; equal arguments give equal samples."""
        raise NotImplementedError(f"{type(self).__name__} does not implement sample")

    @staticmethod
    def score(sample: VideoSample, output: str) -> float:
        """1 if the output gives the answer and nothing else, apart from its start, case and a full stop; else 0."""
        line = next((line for line in output.strip().splitlines() if line.strip()), "")
        said = line.strip().removeprefix(sample.answer_prefix.strip()).strip().rstrip(".").strip().lower()
        if sample.scoring == "ordered":
            return float(re.split(r"\s*(?:,|\band\b)\s*", said) == [answer.lower() for answer in sample.answers])
        return float(said == sample.answers[0].lower())

    @staticmethod
    def solve(sample: VideoSample) -> list[str]:
        """The answers, found from question and pixels alone."""
        plates = [plate for frame in sample.video() if (plate := read_plate(frame)) is not None]
        return _solved(sample.question, plates)


class VisualNeedle(VideoFamily):
    """V-NIAH: one frame with a plate, put after a share `depth` of the haystack; five kinds of questions on it.

    `frames` counts the haystack, so a video has one more. Sample i asks needle i mod 5 at depth (i div 5) mod depths.
    """

    name = "v_niah"
    tasks = ("needle",)

    def sample(self, task: str, frames: int, index: int, seed: int, **knobs: object) -> VideoSample:
        """See the class; the needle and the haystack do not depend on frames and depth."""
        checked = self.knobs(task, knobs)
        step, kind = divmod(index, NEEDLES)
        step %= checked.depths
        depth = 100.0 * step / max(1, checked.depths - 1)
        # In whole numbers: a share such as 0.6 is a little less than it says.
        place = frames * step // max(1, checked.depths - 1)
        plate, question, answer, instruction = _needle(kind, seed)
        return VideoSample(
            id=f"{self.name}/{task}/{frames}/{depth:g}/{seed}/{index}",
            benchmark=self.name,
            task=task,
            frames=frames + 1,
            height=checked.height,
            width=checked.width,
            haystack=checked.haystack,
            haystack_seed=derive_seed(self.name, seed) % 2**31,
            events=(VideoEvent(frame=place, plate=plate),),
            question=question,
            answers=(answer,),
            instruction=instruction,
            depth=depth,
            seed=seed,
            index=index,
        )


class VideoRuler(VideoFamily):
    """V-RULER: one plate to read, one among others, several of a colour, how many, and which comes first."""

    name = "v_ruler"
    tasks = ("single", "multi_key", "multi_value", "count", "order")

    def sample(self, task: str, frames: int, index: int, seed: int, **knobs: object) -> VideoSample:
        """See the class; `frames` counts all frames of the video.

        Raises
        ------
        KnobError : more plates than frames.
        """
        checked = self.knobs(task, knobs)
        rng = Random(derive_seed(self.name, task, seed, index))
        colours = list(COLOURS)
        rng.shuffle(colours)
        asked, others = colours[0], colours[1:]
        wanted = {"single": 1, "multi_key": 1, "multi_value": checked.values, "count": 0, "order": 2}[task]
        if task == "count":
            wanted = rng.randint(1, checked.most)
        distractors = checked.distractors if task in ("multi_key", "multi_value", "count") else 0
        if wanted + distractors > frames:
            raise KnobError(
                f"{self.name}/{task} shows {wanted + distractors} plates, the video has {frames} frames; "
                "use more frames"
            )
        numbers = [10 + number for number in sample_indices(rng, 90, wanted + distractors)]
        rng.shuffle(numbers)
        shown = [asked] * wanted if task != "order" else [asked, others[0]]
        shown += others[:distractors]
        plates = [Plate(colour=colour, number=number) for colour, number in zip(shown, numbers, strict=True)]
        rng.shuffle(plates)
        depth = None
        places = sample_indices(rng, frames, len(plates))
        if task in ("single", "multi_key"):
            step = index % checked.depths
            depth = 100.0 * step / max(1, checked.depths - 1)
            places, plates = _at_depth(rng, frames, step, checked.depths, plates, asked)
        question, instruction = _ruler_question(task, asked, others[0], rng)
        answers = _solved(question, plates)
        return VideoSample(
            id=f"{self.name}/{task}/{frames}/{'na' if depth is None else f'{depth:g}'}/{seed}/{index}",
            benchmark=self.name,
            task=task,
            frames=frames,
            height=checked.height,
            width=checked.width,
            haystack=checked.haystack,
            haystack_seed=derive_seed(self.name, seed) % 2**31,
            events=tuple(VideoEvent(frame=at, plate=plate) for at, plate in zip(places, plates, strict=True)),
            question=question,
            answers=tuple(answers),
            scoring="ordered" if task == "multi_value" else "exact",
            instruction=instruction,
            depth=depth,
            seed=seed,
            index=index,
        )


def family_of(name: str) -> VideoFamily:
    """The family of a name: `v_niah` or `v_ruler`."""
    families: dict[str, VideoFamily] = {"v_niah": VisualNeedle(), "v_ruler": VideoRuler()}
    if name not in families:
        raise UnknownTaskError(f"unknown family of video tasks '{name}'; {suggest(name, list(families))}")
    return families[name]


def _needle(kind: int, seed: int) -> tuple[Plate, str, str, str]:
    """Plate, question, answer and instruction of one of the five needles."""
    rng = Random(derive_seed("v_niah", "needle", seed, kind))
    colours = list(COLOURS)
    rng.shuffle(colours)
    options = colours[:4]
    numbers = [10 + number for number in sample_indices(rng, 90, 4)]
    rng.shuffle(numbers)
    right = rng.randrange(4)
    plate = Plate(colour=options[right], number=numbers[right])
    letter = "Answer with the letter alone."
    if kind in (0, 2):
        return plate, _NUMBER, str(plate.number), "Answer with the number alone."
    if kind == 1:
        return plate, _choice("Which colour does the plate have?", options), LETTERS[right], letter
    if kind == 3:
        return plate, _choice(_NUMBER, [str(number) for number in numbers]), LETTERS[right], letter
    return plate, "Which colour does the plate have?", plate.colour, "Answer with the colour alone."


_NUMBER = "Which number does the plate show?"


def _choice(question: str, options: list[str]) -> str:
    listed = " ".join(f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=True))
    return f"{question} {listed}"


def _at_depth(
    rng: Random, frames: int, step: int, depths: int, plates: list[Plate], asked: str
) -> tuple[list[int], list[Plate]]:
    """Places with the plate asked for at its depth and the others anywhere else, in order of time."""
    target = (frames - 1) * step // max(1, depths - 1)
    free = [frame for frame in range(frames) if frame != target]
    others = [plate for plate in plates if plate.colour != asked]
    placed = [(free[at], plate) for at, plate in zip(sample_indices(rng, len(free), len(others)), others, strict=True)]
    placed.append((target, next(plate for plate in plates if plate.colour == asked)))
    placed.sort(key=lambda pair: pair[0])
    return [at for at, _ in placed], [plate for _, plate in placed]


def _ruler_question(task: str, asked: str, other: str, rng: Random) -> tuple[str, str]:
    if task == "single":
        return _NUMBER, "Answer with the number alone."
    if task == "multi_key":
        return f"Which number does the {asked} plate show?", "Answer with the number alone."
    if task == "multi_value":
        line = "Answer with the numbers alone, in the order of the video and with commas between."
        return f"Which numbers do the {asked} plates show?", line
    if task == "count":
        return f"How many {asked} plates are shown?", "Answer with the number alone."
    first, second = rng.sample([asked, other], 2)
    return f"Which plate comes first, the {first} or the {second} one?", "Answer with the colour alone."


def _solved(question: str, plates: list[Plate]) -> list[str]:
    """The answers to a question, given the plates of a video in their order."""
    named = [colour for colour in COLOURS if re.search(rf"\b{colour}\b", question)]
    options = dict(re.findall(r"\b([A-D])\. (\w+)", question))
    if options:
        plate = plates[0]
        said = plate.colour if "colour" in question else str(plate.number)
        return [next((letter for letter, option in options.items() if option == said), "")]
    if question.startswith("How many"):
        return [str(sum(plate.colour in named for plate in plates))]
    fitting = [plate for plate in plates if not named or plate.colour in named]
    if question.startswith("Which plate comes first"):
        return [fitting[0].colour]
    if "colour" in question:
        return [fitting[0].colour]
    return [str(plate.number) for plate in fitting]
