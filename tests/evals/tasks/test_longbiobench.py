"""LongBioBench: what each task promises of its text, knobs, pairs of samples, and models that know, guess or refuse."""

from __future__ import annotations

import re
from math import comb
from random import Random

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from farspan.evals.generate import LengthTarget, LengthTargetError, TokenCounter
from farspan.evals.generate.count import TokenizerError
from farspan.evals.generate.languages import LanguageError
from farspan.evals.schema import LongSample
from farspan.evals.tasks.bio_people import everybody
from farspan.evals.tasks.bio_persons import ATTRIBUTES, load_bio_language
from farspan.evals.tasks.bio_questions import read_question
from farspan.evals.tasks.bio_text import AGE, read_attribute, read_entries, read_values
from farspan.evals.tasks.family import KnobError, score_sample
from farspan.evals.tasks.longbiobench import SUITE, TASKS, LongBioBench
from farspan.evals.tasks.longbiobench_tasks import AGE_KINDS

BIOS = LengthTarget(value=40, unit="units")
VALUE_TASKS = [name for name, task in TASKS.items() if task.kind == "value"]
TEN = range(10)


@pytest.fixture(scope="module")
def family(byte_counter: TokenCounter) -> LongBioBench:
    return LongBioBench(byte_counter)


def value_sentences(sample: LongSample) -> list[str]:
    """The whole sentences on the asked attribute of the persons asked for."""
    return list(sample.metadata["reference"])  # type: ignore[call-overload]


def test_fifteen_tasks_make_the_suite() -> None:
    assert len(SUITE) == 15
    assert set(TASKS) - set(SUITE) == {"rnidk", "icl"}
    assert LongBioBench.default_tasks() == LongBioBench.suite() == SUITE


def test_wording(family: LongBioBench) -> None:
    sample = family.sample("standard", BIOS, 0, 0, attribute="hobby")
    (name,) = sample.metadata["people"]  # type: ignore[misc]
    assert sample.text.startswith("Below are short biographies of people. A question about them follows.\nAbout ")
    assert f"\nAbout {name}: {name} was born on " in sample.text
    assert f" The hobby of {name} is {sample.answers[0]}." in sample.text
    assert sample.question == f"Question: what is the hobby of {name}?\n"
    assert sample.answer_prefix == f"Answer: The hobby of {name} is"
    several = family.sample("multi_standard_2", BIOS, 0, 0, attribute="major")
    one, other = several.metadata["people"]  # type: ignore[misc]
    assert several.question.endswith(f"in this order: 1. {one}, 2. {other}?\n")
    assert several.answer_prefix == "Answer: In this order:"


@pytest.mark.parametrize("task", VALUE_TASKS)
@pytest.mark.parametrize("attribute", ATTRIBUTES)
def test_what_is_asked_is_said_once(family: LongBioBench, task: str, attribute: str) -> None:
    sample = family.sample(task, BIOS, 1, 0, attribute=attribute)
    for answer, sentence in zip(sample.answers, value_sentences(sample), strict=True):
        assert answer in sentence
        if attribute == "birthdate":
            assert sample.text.count(sentence) == 1 or task == "pronoun"
        else:
            assert sample.text.lower().count(answer.lower()) == 1


@pytest.mark.parametrize("task", list(TASKS))
def test_without_a_biography_the_solver_refuses(family: LongBioBench, task: str) -> None:
    if TASKS[task].kind in ("twodiff", "idk"):
        pytest.skip("other pairs may do, or there is no answer to begin with")
    sample = family.sample(task, BIOS, 2, 0)
    (refusal, *_) = load_bio_language("en").refusals
    name = next(iter(sample.metadata["people"]))  # type: ignore[call-overload]
    span = next(span for span in sample.evidence_spans if span.fact_id == name)
    without = sample.text[: span.start_char] + sample.text[span.end_char + 1 :]
    assert family.solve(sample) == sample.answers
    assert family.solve(sample.model_copy(update={"context": without})) == [refusal]


@pytest.mark.parametrize("task", list(TASKS))
def test_positions_say_where_sentences_stand(family: LongBioBench, task: str) -> None:
    sample = family.sample(task, BIOS, 3, 0)
    entries = read_entries(sample.text)
    numbers, spans = sample.metadata["position_in_list"], sample.metadata["position_in_bios"]
    evidence = {span.fact_id: sample.text[span.start_char : span.end_char] for span in sample.evidence_spans}
    assert isinstance(numbers, list)
    assert isinstance(spans, list)
    assert sample.metadata["n_bios"] == len(entries)
    for name, number, span, reference in zip(
        sample.metadata["people"],
        numbers,
        spans,
        value_sentences(sample),
        strict=True,  # type: ignore[call-overload]
    ):
        assert entries[number].name == name
        written = evidence[name].removeprefix(f"[{number}] ")
        if span is not None:
            assert written[span[0] : span[1]] == reference
            assert reference[-1] == "."


@pytest.mark.parametrize("task", ["idk", "rnidk"])
@pytest.mark.parametrize("style", ["standard", "paraphrase", "pronoun"])
@pytest.mark.parametrize("attribute", ["birthdate", "hobby", "work_city"])
def test_a_question_without_answer_lacks_one_sentence(
    family: LongBioBench, task: str, style: str, attribute: str
) -> None:
    sample = family.sample(task, 6000, 4, 0, style=style, attribute=attribute)
    (intact,) = family.companions(sample)
    removed = sample.metadata["removed"]
    assert isinstance(removed, dict)
    start, text = removed["start"], removed["text"]
    assert intact.text[start : start + len(text)] == text
    assert intact.text[:start] + intact.text[start + len(text) :] == sample.text
    assert family.solve(intact) == intact.answers
    assert family.solve(sample) == sample.answers == ["not stated"]
    assert intact.question == sample.question
    assert intact.shared_context_key != sample.shared_context_key
    assert not family.companions(intact)
    assert (
        family.counter.count(intact.text + intact.question + intact.answer_prefix) + (intact.max_new_tokens or 0)
        <= 6000
    )
    if task == "idk":
        assert "  " not in sample.text


def test_in_the_first_person_a_name_stands_once(family: LongBioBench) -> None:
    text = family.sample("pronoun", BIOS, 0, 0).text
    entries = read_entries(text)
    assert len(entries) == 41
    assert all(text.count(entry.name) == 1 and entry.first_person for entry in entries)


@pytest.mark.parametrize("attribute", ["hobby", "birthplace"])
def test_density_thins_the_crowd(family: LongBioBench, attribute: str) -> None:
    target = LengthTarget(value=400, unit="units")
    found = []
    for density in (0.0, 0.5, 1.0):
        sample = family.sample("standard", target, 0, 0, attribute=attribute, density=density)
        names = {name for name, _ in read_values(sample.text, attribute)}
        found.append(names - set(sample.metadata["people"]))  # type: ignore[call-overload]
        assert family.solve(sample) == sample.answers
        assert all(len(list(read_values(sample.text, other))) == 401 for other in ATTRIBUTES if other != attribute)
    assert len(found[0]) == 0
    assert len(found[2]) == 400
    low, high = binom.interval(0.999, 400, 0.5)
    assert low <= len(found[1]) <= high


def test_density_is_about_ages_where_ages_are_asked(family: LongBioBench) -> None:
    sample = family.sample("twodiff", BIOS, 0, 0, density=0.5)
    stated = dict(read_values(sample.text, AGE))
    assert 6 <= len(stated) < 46
    assert everybody(sample.metadata["crowd"]) == [(name, int(age.value)) for name, age in stated.items()]
    assert family.solve(sample) == sample.answers


def test_attributes_are_left_out_at_random(family: LongBioBench) -> None:
    sample = family.sample("rnidk", LengthTarget(value=300, unit="units"), 0, 0)
    said = sum(len(list(read_values(sample.text, attribute))) for attribute in ATTRIBUTES)
    low, high = binom.interval(0.999, 301 * 6, 0.8)
    assert low - 1 <= said <= high + 1


@pytest.mark.parametrize("task", ["multihop_2", "multihop_5"])
@pytest.mark.parametrize("style", ["standard", "pronoun"])
def test_a_chain_is_followed_back_in_hops(family: LongBioBench, task: str, style: str) -> None:
    n = int(task[-1])
    for index in TEN:
        sample = family.sample(task, BIOS, index, 0, style=style)
        by_name = {entry.name: entry for entry in read_entries(sample.text)}
        asked = read_question(sample.question)
        (name,) = asked.names
        hops, places = 0, [list(by_name).index(name)]
        while True:
            stated = read_attribute(by_name[name], asked.attribute)
            assert stated is not None
            if stated.value:
                break
            name, hops = stated.same_as, hops + 1
            places.append(list(by_name).index(name))
        assert hops == n - 1
        assert [stated.value] == sample.answers
        # Everybody in a chain refers to somebody who stands before.
        assert places == sorted(places, reverse=True)


@pytest.mark.parametrize("task", ["rank_2", "rank_5"])
def test_ranks_are_strict(family: LongBioBench, task: str) -> None:
    for index in TEN:
        sample = family.sample(task, BIOS, index, 0)
        ages = {name: int(age.value) for name, age in read_values(sample.text, AGE)}
        ordered = [ages[name] for name in sample.answers]
        assert ordered == sorted(set(ordered))
        assert len(ordered) == int(task[-1])


def test_differences_are_never_zero(family: LongBioBench) -> None:
    assert all(int(family.sample("calculation", BIOS, index, 0).answers[0]) > 0 for index in TEN)


def test_all_valid_pairs_are_counted(family: LongBioBench) -> None:
    for index in TEN:
        sample = family.sample("twodiff", BIOS, index, 0)
        people = [(name, int(age.value)) for name, age in read_values(sample.text, AGE)]
        asked = read_question(sample.question).difference
        pairs = [
            (one, other)
            for place, (one, age) in enumerate(people)
            for other, second in people[place + 1 :]
            if abs(age - second) == asked
        ]
        assert len(pairs) == sample.metadata["n_valid_pairs"] >= 1
        assert everybody(sample.metadata["crowd"]) == people
        assert all(family.score(sample, f"{one} and {other}") == 1.0 for one, other in pairs)
        wrong = next((one, other) for one, a in people for other, b in people if one != other and abs(a - b) != asked)
        assert family.score(sample, " and ".join(wrong)) == 0.0
        assert sample.metadata["chance"] == len(pairs) / comb(46, 2)


@pytest.mark.parametrize("task", [name for name, task in TASKS.items() if task.preset.get("fewshot")])
def test_examples_are_about_others_and_right(family: LongBioBench, task: str) -> None:
    sample = family.sample(task, BIOS, 5, 0)
    shown = sample.question.split("\n\n")
    assert len(shown) == 3
    asked = set(sample.metadata["people"])  # type: ignore[call-overload]
    for example in shown[:2]:
        question, answer = example.split("\n")
        assert not any(name in example for name in asked)
        solved = family.solve(sample.model_copy(update={"question": question + "\n"}))
        if TASKS[task].kind == "twodiff":
            persons = [name for name, _ in everybody(sample.metadata["crowd"]) if name in answer]
            assert len(persons) == 2
        else:
            assert all(value in answer for value in solved)
    plain = family.sample(task, BIOS, 5, 0, fewshot=0)
    assert plain.question.count("Question: ") == 1


def test_roles_are_spread_unless_the_official_order_is_wanted(family: LongBioBench) -> None:
    def mean_place(**knobs: object) -> float:
        places: list[int] = []
        for index in range(30):
            sample = family.sample("calculation", BIOS, index, 0, **knobs)
            places += sample.metadata["position_in_list"]  # type: ignore[arg-type]
        return sum(places) / len(places) / 46

    assert 0.4 < mean_place() < 0.6
    assert mean_place(official_order=True) < 0.3


def test_persons_asked_for_stand_inside_their_window(family: LongBioBench) -> None:
    for index in TEN:
        sample = family.sample("multi_standard_5", 24_000, index, 0, position=(0.4, 0.6))
        for span in sample.evidence_spans:
            assert 0.3 < span.start_char / len(sample.text) < 0.7
    single = family.sample("standard", 12_000, 0, 0, position=(0.9, 1.0), depth=100)
    assert single.metadata["position_in_list"] == [single.metadata["n_bios"] - 1]  # type: ignore[operator]
    with pytest.raises(KnobError, match=r"smallest window that has one is \(0\.\d+, 0\.\d+\)"):
        family.sample("standard", LengthTarget(value=5, unit="units"), 0, 0, position=(0.501, 0.502))


def test_depth_is_walked_and_one_crowd_serves_all_tasks(family: LongBioBench) -> None:
    places = [family.sample("standard", BIOS, index, 0).metadata["position_in_list"] for index in range(11)]
    numbers = [place[0] for place in places]  # type: ignore[index]
    assert numbers == sorted(numbers)
    assert (numbers[0], numbers[-1]) == (0, 40)
    crowds = [
        {entry.name for entry in read_entries(family.sample(task, BIOS, 1, 0).text)}
        for task in ("standard", "multi_standard_5", "paraphrase", "calculation")
    ]
    assert [len(one & crowds[0]) for one in crowds] == [41, 40, 40, 40]
    other = {entry.name for entry in read_entries(family.sample("standard", BIOS, 1, 1).text)}
    assert len(other & crowds[0]) < 40


def test_nobody_stands_twice_and_longer_contexts_extend_shorter_ones(family: LongBioBench) -> None:
    short, long = (family.sample("standard", length, 1, 0) for length in (6000, 12_000))
    names = [[entry.name for entry in read_entries(sample.text)] for sample in (short, long)]
    assert all(len(set(found)) == len(found) for found in names)
    asked = set(short.metadata["people"])  # type: ignore[call-overload]
    assert asked == set(long.metadata["people"])  # type: ignore[call-overload]
    assert short.answers == long.answers
    crowd = [[name for name in found if name not in asked] for found in names]
    assert crowd[1][: len(crowd[0])] == crowd[0]


def test_near_names_differ_in_the_middle(family: LongBioBench) -> None:
    sample = family.sample("standard", BIOS, 0, 0, near_names=3)
    (name,) = sample.metadata["people"]  # type: ignore[misc]
    first, _, last = name.split()
    alike = [entry.name for entry in read_entries(sample.text) if entry.name.split()[::2] == [first, last]]
    assert len(set(alike)) == len(alike) == 4
    assert family.solve(sample) == sample.answers


def test_a_foreign_haystack_holds_only_what_is_needed(family: LongBioBench) -> None:
    for task in TASKS:
        sample = family.sample(task, 12_000, 1, 0, haystack="prose")
        needed = {"icl": 3}.get(task)
        if needed is None:
            knobs = family.knobs(task, {})
            needed = knobs.n_retrieval * (1 + knobs.fewshot)
        assert len(read_entries(sample.text)) == needed == sample.metadata["n_bios"]
        assert family.solve(sample) == sample.answers
        assert family.score(sample, ", ".join(sample.answers)) == 1.0


@pytest.mark.parametrize("language", ["de", "es", "zh"])
def test_other_languages(family: LongBioBench, language: str) -> None:
    target = LengthTarget(value=25, unit="units")
    for task in TASKS:
        sample = family.sample(task, target, 1, 0, language=language)
        assert sample.language == language
        assert family.solve(sample) == sample.answers, task
        assert family.score(sample, ", ".join(sample.answers)) == 1.0
        for other in family.companions(sample):
            assert family.solve(other) == other.answers
        if language == "zh":
            assert not re.search("[A-Za-z]", sample.text + sample.question)


def test_groups_follow_the_first_letter_of_the_university(family: LongBioBench) -> None:
    for index in TEN:
        sample = family.sample("icl", BIOS, index, 0)
        groups: dict[str, set[str]] = {}
        for entry in read_entries(sample.text):
            stated = read_attribute(entry, "university")
            match = re.search(r"Group (\w+)\.$", entry.body)
            assert stated is not None
            if match:
                groups.setdefault(stated.value[0], set()).add(match[1])
            else:
                assert entry.name in sample.metadata["people"]  # type: ignore[operator]
        assert all(len(found) == 1 for found in groups.values())
        assert len(set.union(*groups.values())) > 5


# -- models ------------------------------------------------------------------------------------------------------


def test_the_first_value_of_a_context_is_rarely_right(family: LongBioBench) -> None:
    hits = 0
    for index in range(120):
        sample = family.sample("standard", LengthTarget(value=9, unit="units"), index, 0, attribute="hobby", depths=10)
        hits += family.score(sample, next(iter(read_values(sample.text, "hobby")))[1].value) == 1.0
    low, high = binom.interval(0.999, 120, 1 / 10)
    assert low <= hits <= high


def guess(sample: LongSample, rng: Random) -> str:
    """An answer of the right form, drawn from the text."""
    kind, attribute = TASKS[sample.task].kind, str(sample.metadata["attribute"])
    n = int(str(sample.metadata["n_retrieval"]))
    if kind == "rank":
        names = list(sample.metadata["people"])  # type: ignore[call-overload]
        rng.shuffle(names)
        return ", ".join(names)
    if kind == "calculation":
        return str(rng.randint(1, 51))
    if kind == "twodiff":
        return " and ".join(rng.sample([name for name, _ in everybody(sample.metadata["crowd"])], 2))
    if kind == "icl":
        return rng.choice(load_bio_language("en").groups)
    values = [stated.value for _, stated in read_values(sample.text, attribute) if stated.value]
    numbers = rng.choices(range(int(str(sample.metadata["n_bios"]))), k=n)
    drawn = rng.choices(values, k=n)
    if kind == "citation":
        return ", ".join(f"{value} [{number}]" for value, number in zip(drawn, numbers, strict=True))
    return drawn[0] if kind == "multihop" else ", ".join(drawn)


@pytest.mark.slow
@pytest.mark.parametrize("task", list(TASKS))
def test_guessing_scores_at_chance(family: LongBioBench, task: str) -> None:
    rng, n = Random(0), 300
    hits, chances = 0.0, 0.0
    for index in range(n):
        size = LengthTarget(value=15 if TASKS[task].kind == "citation" else 8, unit="units")
        sample = family.sample(task, size, index, 0)
        others = [guess(other, rng) for other in family.companions(sample)]
        hits += score_sample(sample, guess(sample, rng), others)["score"]
        chances += float(str(sample.metadata["chance"]))
    low, high = binom.interval(0.9999, n, min(chances / n, 1.0))
    assert low - 1 <= hits <= high + 1, (hits, chances)


def test_scores_are_also_corrected_for_chance(family: LongBioBench) -> None:
    sample = family.sample("rank_2", BIOS, 0, 0)
    right, wrong = ", ".join(sample.answers), ", ".join(reversed(sample.answers))
    assert family.scores(sample, right)["corrected"] == 1.0
    assert family.scores(sample, wrong)["corrected"] == -1.0
    reasoned = f"{sample.answers[0]} comes before {sample.answers[1]}. From the youngest to the oldest: {wrong}"
    assert family.scores(sample, reasoned)["anywhere"] == 1.0
    assert family.score(sample, reasoned) == 0.0


def test_refusing_always_scores_nothing(family: LongBioBench) -> None:
    for task in TASKS:
        sample = family.sample(task, BIOS, 0, 0)
        companions = family.companions(sample)
        assert score_sample(sample, "It is not stated.", ["It is not stated."] * len(companions))["score"] == 0.0
    figures = score_sample(family.sample("idk", BIOS, 0, 0), "not stated", ["not stated"])
    assert (figures["refused"], figures["intact"], figures["refused_intact"]) == (1.0, 0.0, 1.0)


def test_knowing_scores_full_only_with_both_versions(family: LongBioBench) -> None:
    sample = family.sample("idk", BIOS, 0, 0)
    (intact,) = family.companions(sample)
    assert score_sample(sample, "not stated", intact.answers)["score"] == 1.0
    assert score_sample(sample, intact.answers[0], intact.answers)["score"] == 0.0
    assert score_sample(sample, "not stated", ["something else"])["score"] == 0.0
    assert family.score(intact, intact.answers[0]) == 1.0


def test_citations_without_numbers_score_nothing(family: LongBioBench) -> None:
    for task in ("citation_1", "citation_2"):
        sample = family.sample(task, BIOS, 0, 0)
        figures = family.scores(sample, ", ".join(re.sub(r" \[\d+\]", "", answer) for answer in sample.answers))
        assert (figures["score"], figures["answer"]) == (0.0, 1.0)


# -- limits ------------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(
    task=st.sampled_from(list(TASKS)),
    length=st.integers(9000, 20_000),
    index=st.integers(0, 30),
    seed=st.integers(0, 2),
    style=st.sampled_from(["standard", "paraphrase", "pronoun"]),
    extra=st.sampled_from([{}, {"near_names": 1}, {"official_order": True}, {"questions_per_context": 2}]),
    which=st.sampled_from(["byte", "prefix"]),
)
def test_any_sample_is_solvable_and_within_its_length(
    byte_counter: TokenCounter,
    prefix_counter: TokenCounter,
    task: str,
    length: int,
    index: int,
    seed: int,
    style: str,
    extra: dict[str, object],
    which: str,
) -> None:
    counter = byte_counter if which == "byte" else prefix_counter
    family = LongBioBench(counter)
    try:
        sample = family.sample(task, length, index, seed, style=style, **extra)
    except LengthTargetError:
        assume(False)
    assert family.solve(sample) == sample.answers
    total = counter.count(sample.text + sample.question + sample.answer_prefix) + (sample.max_new_tokens or 0)
    counted = int(str(sample.metadata["n_total_tokens"])) - counter.template_tokens()
    # Of several questions on a context the longest is counted.
    assert total == counted if "questions_per_context" not in extra else total <= counted
    assert counted <= length
    for span in sample.evidence_spans:
        assert span.fact_id in sample.text[span.start_char : span.end_char]
    again = LongBioBench(counter).sample(task, length, index, seed, style=style, **extra)
    assert again.model_dump_json() == sample.model_dump_json()


def test_refusals_name_what_is_wrong(family: LongBioBench) -> None:
    for task in ("twodiff", "calculation"):
        with pytest.raises(KnobError, match="n_retrieval=2, not 3"):
            family.sample(task, BIOS, 0, 0, n_retrieval=3)
    for task in ("rank_2", "multihop_2"):
        with pytest.raises(KnobError, match="n_retrieval of 2 or more"):
            family.sample(task, BIOS, 0, 0, n_retrieval=1)
    with pytest.raises(KnobError, match="density"):
        family.sample("standard", BIOS, 0, 0, density=1.5)
    with pytest.raises(KnobError, match="ascending"):
        family.sample("standard", BIOS, 0, 0, position=(0.7, 0.2))
    with pytest.raises(KnobError, match="language is one of de, en, es, zh"):
        family.sample("standard", BIOS, 0, 0, language="xx")
    with pytest.raises(KnobError, match="about ages"):
        family.sample("rank_2", BIOS, 0, 0, attribute="hobby")
    with pytest.raises(KnobError, match="official_order"):
        family.sample("standard", BIOS, 0, 0, official_order=True, depth=50)
    with pytest.raises(LengthTargetError, match="smallest feasible length"):
        family.sample("standard", 200, 0, 0)
    with pytest.raises(LanguageError, match="there are: de, en, es, zh"):
        load_bio_language("xx")
    with pytest.raises(TokenizerError):
        LongBioBench("/no/such/tokenizer")


@pytest.mark.slow
def test_the_oracle_scores_full_at_any_length() -> None:
    family = LongBioBench(TokenCounter("reference", cache=False))
    for length in (32_768, 1_048_576):
        for task in ("standard", "multi_standard_10", "twodiff", "multihop_5", "citation_2", "idk"):
            sample = family.sample(task, length, 1, 0)
            assert family.solve(sample) == sample.answers
            assert family.score(sample, ", ".join(sample.answers)) == 1.0
            assert 0.98 * length < int(str(sample.metadata["n_total_tokens"])) <= length


def test_age_kinds_say_ages_and_no_dates(family: LongBioBench) -> None:
    for name, task in TASKS.items():
        text = family.sample(name, BIOS, 0, 0).text
        assert bool(list(read_values(text, AGE))) == (task.kind in AGE_KINDS)
        assert bool(list(read_values(text, "birthdate"))) == (task.kind not in AGE_KINDS)
