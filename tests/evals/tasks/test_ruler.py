"""RULER: each task holds exactly what it was designed to hold, at every length, at evenly spread depths."""

from __future__ import annotations

import re
from collections import Counter

import pytest
from scipy.stats import chisquare

from farspan.errors import FarspanError
from farspan.evals.generate import LengthTarget, LengthTargetError, TokenCounter
from farspan.evals.schema import LongSample
from farspan.evals.tasks.family import KnobError
from farspan.evals.tasks.ruler import THRESHOLDS, Ruler
from farspan.evals.tasks.ruler_niah import FOUND
from farspan.evals.tasks.ruler_tasks import PUBLISHED_TEXT_TASKS, TASKS, category_means, suite
from farspan.evals.tasks.ruler_vt import STATEMENT
from farspan.evals.tasks.ruler_words import NUMBERED

OWN_TEXT = suite()
NIAH = [task for task in OWN_TEXT if task.startswith("niah")]


@pytest.fixture(scope="module")
def ruler(byte_counter: TokenCounter) -> Ruler:
    return Ruler(byte_counter)


def test_thirteen_tasks_with_either_text() -> None:
    assert len(suite()) == len(suite("folder")) == 13
    assert set(suite()) ^ set(suite("folder")) == {"qa_1", "qa_2", "qa_1_gen", "qa_2_gen"}
    assert Ruler.default_tasks() == suite()
    assert THRESHOLDS["llama2-7b-chat@4k"] == 85.6


def test_wording(ruler: Ruler) -> None:
    single = ruler.sample("niah_single_1", 600, 0, 0)
    key, value = FOUND.findall(single.text)[0]
    assert single.text.startswith("Some secret numbers are hidden in the text below. Remember them all.\n")
    assert f"\nThe secret number of {key} is {value}.\n" in single.text
    assert single.question == f"Question: what is the secret number of {key}?\n"
    assert single.answer_prefix == f"Answer: The secret number of {key} is"
    several = ruler.sample("niah_multiquery", 1500, 0, 0, num_needle_q=3, num_needle_k=3)
    listed = re.findall(r"numbers of (.+)\?", several.question)[0]
    assert re.fullmatch(r"\S+, \S+ and \S+", listed)
    assert several.question == f"Question: what are the secret numbers of {listed}?\n"
    assert several.answer_prefix == f"Answer: The secret numbers of {listed} are"
    chain = ruler.sample("vt", 600, 0, 0)
    value = re.findall(r"value (\d+)", chain.question)[0]
    assert chain.text.startswith("Follow the assignments of variables in the text below.\n")
    assert f"\nVAR {chain.answers[0]} = {value}\n" in chain.text
    assert f"\nVAR {chain.answers[1]} = VAR {chain.answers[0]}\n" in chain.text
    assert chain.question == f"Question: which variables hold the value {value}?\n"
    assert chain.answer_prefix == f"Answer: The variables that hold {value} are"
    assert ruler.score(chain, f" {', '.join(chain.answers)}.") == 1.0


@pytest.mark.parametrize("task", NIAH)
@pytest.mark.parametrize("index", [0, 3])
def test_needles_stand_exactly_as_often_as_designed(ruler: Ruler, task: str, index: int) -> None:
    sample = ruler.sample(task, 4096, index, 0)
    needles = FOUND.findall(sample.text)
    knobs = ruler.knobs(task, {})
    hidden = max(knobs.num_needle_k, knobs.num_needle_q) * knobs.num_needle_v
    assert len(needles) == hidden if knobs.type_haystack != "needle" else len(needles) > 20
    assert len(sample.answers) == knobs.num_needle_q * knobs.num_needle_v
    for answer in sample.answers:
        assert sample.text.count(answer) == 1
    asked = re.findall(r"of (.+)\?", sample.question)[0]
    keys = [key for key, _ in needles]
    if knobs.num_needle_v == 1:
        assert len(set(keys)) == len(keys)
    for key in re.split(r", | and ", asked):
        assert keys.count(key) == knobs.num_needle_v
    if knobs.type_needle_v == "numbers":
        assert all(re.fullmatch(r"[1-9]\d{6}", value) for _, value in needles)
        runs = re.findall(r"\d+", sample.text)
        assert all(runs.count(answer) == 1 for answer in sample.answers)


def test_depth_is_where_it_was_asked(ruler: Ruler) -> None:
    for depth in (0, 30, 100):
        sample = ruler.sample("niah_single_2", 8192, 0, 0, depth=depth)
        (span,) = sample.evidence_spans
        assert abs(span.start_char / len(sample.text) * 100 - depth) < 3


def test_variables_occur_twice_but_the_last(ruler: Ruler) -> None:
    sample = ruler.sample("vt", 4096, 0, 0, num_chains=3, num_hops=6)
    counts = [len(re.findall(rf"\b{name}\b", sample.text)) for name in sample.answers]
    assert counts == [2] * 6 + [1]
    assert len(STATEMENT.findall(sample.text)) == 21
    positions = [sample.text.index(f"VAR {name} = ") for name in sample.answers]
    assert positions == sorted(positions)


def test_a_worked_example_comes_first_and_is_not_counted(ruler: Ruler) -> None:
    plain, taught = (ruler.sample("vt", 4096, 0, 0, worked_example=flag) for flag in (False, True))
    example = taught.text[: taught.text.rindex("Follow the assignments")]
    assert example.count("Question: ") == example.count("Answer: ") == 1
    assert ruler.counter.count(example) <= 500
    assert ruler.solve(taught) == taught.answers == plain.answers
    assert not any(name in example for name in taught.answers)


@pytest.mark.parametrize(("length", "frequent", "rare"), [(2000, 6, 1), (4096, 30, 3)])
def test_common_words_are_exactly_as_common_as_designed(ruler: Ruler, length: int, frequent: int, rare: int) -> None:
    sample = ruler.sample("cwe", length, 0, 0)
    listed = sample.text[sample.text.rindex("Below is a numbered list") :]
    counts = Counter(NUMBERED.findall(listed))
    assert {word for word, count in counts.items() if count == frequent} == set(sample.answers)
    assert {count for word, count in counts.items() if word not in sample.answers} == {rare}
    assert sum(counts.values()) == sample.metadata["total"]
    numbers = [int(number) for number in re.findall(r"^(\d+)\. ", listed, re.MULTILINE)]
    assert numbers == list(range(1, len(numbers) + 1))


@pytest.mark.parametrize("length", [600, 4096])
def test_coded_words_fall_strictly_over_the_first_ranks(ruler: Ruler, length: int) -> None:
    sample = ruler.sample("fwe", length, 0, 0)
    counts = Counter(sample.text.split("appear most often.\n")[1].split())
    (dots, first), *others = counts.most_common(5)
    assert dots == "..."
    assert [word for word, _ in others[:3]] == sample.answers
    ranks = [first, *(count for _, count in others)]
    assert ranks == sorted(set(ranks), reverse=True)


@pytest.mark.parametrize("task", ["qa_1_gen", "qa_2_gen"])
def test_documents_are_numbered_and_the_answer_stands_once(ruler: Ruler, task: str) -> None:
    sample = ruler.sample(task, 4096, 5, 0)
    numbers = [int(number) for number in re.findall(r"^Document (\d+):$", sample.text, re.MULTILINE)]
    assert numbers == list(range(1, len(numbers) + 1))
    assert sample.text.count(sample.answers[0]) == 1
    assert len(sample.evidence_spans) == (1 if task == "qa_1_gen" else 2)


@pytest.mark.parametrize("task", OWN_TEXT)
def test_silence_scores_nothing_and_listing_everything_scores_full(ruler: Ruler, task: str) -> None:
    sample = ruler.sample(task, 4096, 1, 0)
    everything = ruler.scores(sample, sample.text)
    assert ruler.scores(sample, "")["no_answer"] == 1.0
    assert ruler.score(sample, "") == 0.0
    assert everything["score"] == 1.0
    assert everything["answer_chars"] > 1000
    exact = ruler.scores(sample, ", ".join(sample.answers))
    assert exact["score"] == exact["precision"] == 1.0
    if task not in ("niah_single_1", "niah_single_2", "niah_single_3", "niah_multivalue", "niah_multiquery", "vt"):
        assert everything["precision"] < 1.0 or task.startswith("qa")


def places(task: str, sample: LongSample) -> list[float]:
    """Relative places of the answers in the haystack, in [0, 1)."""
    text = sample.text
    if task in ("cwe", "fwe"):
        listed = text[text.rindex("\n", 0, text.index("1. ") if task == "cwe" else text.index(" often.\n") + 8) :]
        words = NUMBERED.findall(text[text.rindex("Below is") :]) if task == "cwe" else listed.split()
        return [(i + 0.5) / len(words) for i, word in enumerate(words) if word in sample.answers]
    units = int(str(sample.metadata["n_units"]))
    if task.startswith("qa"):
        spans = [s for s in sample.evidence_spans if sample.answers[0] in text[s.start_char : s.end_char]]
        return [(span.unit_index + 0.5) / units for span in spans]
    spans = [span for span in sample.evidence_spans if span.role != "distractor"]
    return [(span.unit_index + 0.5) / (units + 1) for span in spans]


@pytest.mark.slow
@pytest.mark.parametrize("task", OWN_TEXT)
def test_depths_are_uniform(ruler: Ruler, task: str) -> None:
    bins = [0] * 10
    # Units are coarse: many draws a context need many units, else the bins themselves are uneven.
    length = 12_000 if task == "vt" else 2000
    for index in range(500):
        for place in places(task, ruler.sample(task, length, index, 0, depths=10)):
            bins[int(place * 10)] += 1
    assert sum(bins) >= 500
    assert chisquare(bins).pvalue > 1e-3, bins


def test_too_short_lengths_name_the_shortest(ruler: Ruler) -> None:
    for task in OWN_TEXT:
        with pytest.raises(LengthTargetError, match=r"smallest feasible length is \d+") as caught:
            ruler.sample(task, 60, 0, 0)
        shortest = int(re.findall(r"length is (\d+)", str(caught.value))[0])
        if task not in ("qa_1_gen", "qa_2_gen", "niah_multikey_3", "niah_multikey_2"):
            assert ruler.sample(task, shortest + 20, 0, 0).answers


def test_number_of_units_can_be_given(ruler: Ruler) -> None:
    sample = ruler.sample("qa_1_gen", LengthTarget(value=7, unit="units"), 0, 0)
    assert sample.text.count("Document ") == 7
    assert ruler.sample("cwe", LengthTarget(value=50, unit="units"), 0, 0).metadata["total"] == 10 * 30 + 40 * 3


def test_refusals(ruler: Ruler) -> None:
    for task in PUBLISHED_TEXT_TASKS:
        with pytest.raises(KnobError, match="data_dir"):
            ruler.sample(task, 4096, 0, 0)
    with pytest.raises(KnobError, match="more often"):
        ruler.sample("cwe", 4096, 0, 0, freq_cw=3, freq_ucw=3)
    with pytest.raises(KnobError, match="lower num_cw"):
        ruler.sample("cwe", 4096, 0, 0, num_cw=5000)
    with pytest.raises(KnobError, match="one question"):
        ruler.sample("fwe", 4096, 0, 0, questions_per_context=2)
    with pytest.raises(FarspanError, match="alpha"):
        ruler.sample("fwe", 4096, 0, 0, alpha=1.0)


def test_every_task_names_kind_and_category() -> None:
    assert {task.category for task in TASKS.values()} == {"retrieval", "tracing", "aggregation", "qa"}
    assert sum(task.category == "retrieval" for task in TASKS.values()) == 8


def test_categories_are_averaged_apart() -> None:
    scores = {"niah_single_1": 100.0, "niah_single_2": 50.0, "vt": 20.0}
    assert category_means(scores) == {"retrieval": 75.0, "tracing": 20.0, "min": 20.0}
    assert category_means({}) == {}
