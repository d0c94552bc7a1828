"""V-NIAH and V-RULER: answered by their pixels, placed and counted exactly, equal for equal seeds."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from farspan.evals.generate.generators import UnknownTaskError
from farspan.evals.tasks.family import KnobError
from farspan.evals.tasks.video_frames import read_plate
from farspan.evals.tasks.video_needles import NEEDLES, VideoRuler, VideoSample, VisualNeedle, family_of

SMALL = {"height": 28, "width": 28}
CASES = [("v_niah", "needle"), *[("v_ruler", task) for task in VideoRuler.tasks]]
every_task = pytest.mark.parametrize(("family", "task"), CASES)


@every_task
def test_pixels_alone_give_the_answers(family: str, task: str) -> None:
    generator = family_of(family)
    for index in range(12):
        sample = generator.sample(task, 40, index, 1, **SMALL)
        assert generator.solve(sample) == list(sample.answers)
        assert generator.score(sample, sample.answer) == 1.0
        assert generator.score(sample, f" {sample.answer_prefix}{sample.answer.upper()}.\nmore") == 1.0
        assert generator.score(sample, "") == 0.0
        assert generator.score(sample, sample.answer + " 3") == 0.0
        frames = list(sample.video())
        assert len(frames) == sample.frames == 40 + (family == "v_niah")
        shown = {at: plate for at, frame in enumerate(frames) if (plate := read_plate(frame))}
        assert shown == {event.frame: event.plate for event in sample.events}
        assert sample == generator.sample(task, 40, index, 1, **SMALL)
        assert VideoSample.model_validate_json(sample.model_dump_json()) == sample


@every_task
def test_samples_differ_with_the_seed(family: str, task: str) -> None:
    generator = family_of(family)
    samples = [generator.sample(task, 40, 0, seed, **SMALL) for seed in range(4)]
    assert len({sample.events for sample in samples}) > 2
    first, second = (next(sample.video()) for sample in samples[:2])
    assert not np.array_equal(first, second)


def test_tokens_follow_from_the_grid() -> None:
    sample = VisualNeedle().sample("needle", 3000, 0, 0)
    assert sample.grid() == (3001, 18, 32)
    assert sample.tokens() == 3001 * 144
    assert VisualNeedle().sample("needle", 100, 0, 0, **SMALL).tokens() == 101


def test_needles_stand_where_the_depth_says_from_the_first_frame_to_the_last() -> None:
    family = VisualNeedle()
    for frames in (100, 101, 2900):
        samples = [family.sample("needle", frames, index, 0, **SMALL) for index in range(6 * NEEDLES)]
        places = [sample.events[0].frame for sample in samples[::NEEDLES]]
        assert places == [frames * step // 5 for step in range(6)]
        assert places[0] == 0
        assert places[-1] == frames == samples[-1].frames - 1
        assert [sample.depth for sample in samples[::NEEDLES]] == [0, 20, 40, 60, 80, 100]
    assert samples[NEEDLES].depth == 20


def test_needles_are_the_same_at_all_lengths_and_depths() -> None:
    family = VisualNeedle()
    for index in range(NEEDLES):
        one, other = family.sample("needle", 100, index, 3), family.sample("needle", 2900, index + 3 * NEEDLES, 3)
        assert (one.question, one.answers, one.events[0].plate) == (
            other.question,
            other.answers,
            other.events[0].plate,
        )
    kinds = Counter(family.sample("needle", 100, index, 3).answer in "ABCD" for index in range(NEEDLES))
    assert kinds == {True: 2, False: 3}


def test_the_haystack_goes_on_behind_an_event() -> None:
    sample = VisualNeedle().sample("needle", 4, 2 * NEEDLES, 0, depths=5, **SMALL)
    assert [part if isinstance(part, int) else "plate" for part in sample.order()] == [0, 1, "plate", 2, 3]


def test_the_ruler_shows_what_each_task_says() -> None:
    family = VideoRuler()
    counts = Counter()
    firsts = Counter()
    for index in range(60):
        sample = family.sample("multi_key", 50, index, 0)
        assert len({event.plate.colour for event in sample.events}) == 4
        (asked,) = [event for event in sample.events if event.plate.colour in sample.question]
        assert asked.frame == 49 * (index % 6) // 5
        values = family.sample("multi_value", 50, index, 0, values=4)
        assert len(values.answers) == 4
        assert len(values.events) == 7
        counts[family.sample("count", 50, index, 0).answers[0]] += 1
        order = family.sample("order", 50, index, 0)
        assert len(order.events) == 2
        firsts[order.question.index(order.answers[0]) < 40] += 1
        assert len({event.plate.number for event in order.events}) == 2
    assert set(counts) == {str(number) for number in range(1, 10)}
    assert min(firsts.values()) > 10


def test_several_values_count_in_their_order_only() -> None:
    sample = VideoRuler().sample("multi_value", 50, 0, 0)
    assert VideoRuler.score(sample, " and ".join(sample.answers)) == 1.0
    assert VideoRuler.score(sample, ", ".join(reversed(sample.answers))) == 0.0
    assert VideoRuler.score(sample, ", ".join(sample.answers[:2])) == 0.0


def test_bad_input_is_one_line() -> None:
    with pytest.raises(UnknownTaskError, match="did you mean multi_key"):
        VideoRuler().sample("multikey", 50, 0, 0)
    with pytest.raises(UnknownTaskError, match="did you mean v_ruler"):
        family_of("ruler")
    with pytest.raises(KnobError, match="has no knob 'speed'; it has: height"):
        VideoRuler().sample("single", 50, 0, 0, speed=3)
    with pytest.raises(KnobError, match="knob 'depths'"):
        VideoRuler().sample("single", 50, 0, 0, depths=0)
    with pytest.raises(KnobError, match="shows 6 plates, the video has 5 frames"):
        VideoRuler().sample("multi_value", 5, 0, 0)
