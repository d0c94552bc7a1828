from __future__ import annotations

import time
from dataclasses import dataclass, replace
from random import Random

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from farspan.evals.generate import (
    BuiltContext,
    Frame,
    Haystack,
    KVHaystack,
    LengthTarget,
    LengthTargetError,
    LinesHaystack,
    ListHaystack,
    Needle,
    NoiseHaystack,
    ProseHaystack,
    RecordHaystack,
    TokenCounter,
    WordListHaystack,
    build_context,
)
from farspan.evals.generate.haystack import HaystackError
from farspan.evals.generate.placement import Depths, PlacementError


def make_document(rng: Random, i: int) -> str:
    return f"Document {i + 1}:\nThe {rng.choice(['red', 'blue'])} house has {rng.randrange(90)} rooms."


HAYSTACKS: dict[str, Haystack] = {
    "noise": NoiseHaystack(),
    "prose": ProseHaystack(),
    "kv": KVHaystack(),
    "lines": LinesHaystack(),
    "words": WordListHaystack(),
    "plain words": WordListHaystack(numbered=False),
    "records": RecordHaystack(make_document, "document"),
}
NEEDLES = (
    "The secret number of {} is {}.",
    "Remember {} = {}",
    '"{}": "{}"',
    "({} -> {})",
)
ROOMY = settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))


@dataclass(frozen=True)
class Spec:
    """Everything `build_context` takes, as hypothesis draws it."""

    haystack: str
    tokenizer: str
    needles: tuple[Needle, ...]
    target: LengthTarget
    depths: Depths
    seed: int
    frame: Frame
    mode: str
    in_order: bool

    def build(self, counters: dict[str, TokenCounter], **changes: object) -> BuiltContext:
        spec = replace(self, **changes)  # type: ignore[arg-type]
        return build_context(
            HAYSTACKS[spec.haystack],
            spec.needles,
            spec.target,
            counters[spec.tokenizer],
            depths=spec.depths,
            seed=spec.seed,
            frame=spec.frame,
            mode=spec.mode,  # type: ignore[arg-type]
            in_order=spec.in_order,
        )


@st.composite
def specs(draw: st.DrawFn) -> Spec:
    """Random specifications that can be met."""
    count = draw(st.integers(0, 5))
    forms = draw(st.lists(st.sampled_from(NEEDLES), min_size=count, max_size=count))
    needles = tuple(Needle(form.format(f"k{i}", 7000 + i), f"fact {i}") for i, form in enumerate(forms))
    depths = draw(
        st.one_of(
            st.sampled_from(["uniform", "random", "clustered"]),
            st.floats(0, 100),
            st.lists(st.floats(0, 100), min_size=count, max_size=count),
        )
    )
    tails = st.sampled_from(["", "Question: what is hidden?\nAnswer:", "And now?\n"])
    frame = Frame(
        preamble=draw(st.sampled_from(["", "Read this.\n", "Task:\n\n"])),
        closing=draw(st.sampled_from(["", "\n", "\n\nEnd.\n"])),
        tails=tuple(draw(st.lists(tails, min_size=1, max_size=3))),
        template_tokens=draw(st.integers(0, 20)),
    )
    target = LengthTarget(
        value=draw(st.integers(500, 1800)),
        semantics=draw(st.sampled_from(["total", "context"])),
        reserve=draw(st.integers(0, 30)),
        exact=draw(st.booleans()),
    )
    return Spec(
        haystack=draw(st.sampled_from(list(HAYSTACKS))),
        tokenizer=draw(st.sampled_from(["byte_level", "metaspace"])),
        needles=needles,
        target=target,
        depths=depths,
        seed=draw(st.integers(0, 2**63 - 1)),
        frame=frame,
        mode=draw(st.sampled_from(["insert", "replace"])),
        in_order=draw(st.booleans()),
    )


def true_counts(spec: Spec, built: BuiltContext, counter: TokenCounter) -> tuple[int, int]:
    """Tokens of the context, and of the whole, by tokenising the finished texts."""
    context = counter.count(built.text)
    tail = max(counter.count(built.text + tail) - context for tail in spec.frame.tails)
    return context, context + tail + spec.frame.template_tokens + spec.target.reserve


@pytest.mark.slow
@given(spec=specs())
@ROOMY
def test_lengths_hold(spec: Spec, counters: dict[str, TokenCounter]) -> None:
    counter, target = counters[spec.tokenizer], spec.target
    built = spec.build(counters)
    context, total = true_counts(spec, built, counter)
    size = total if target.semantics == "total" else context
    assert size <= target.value
    assert (built.n_context_tokens, built.n_total_tokens) == (context, total)
    if target.exact:
        assert size == target.value
    else:
        haystack = HAYSTACKS[spec.haystack]
        pieces = [haystack.joiner + unit for unit in haystack.units(spec.seed, built.units_kept + 1)]
        assert target.value - size <= max(counter.count_many(pieces))
        assert built.filler_tokens == 0


@given(spec=specs())
@ROOMY
def test_needles_are_where_the_spans_say(
    spec: Spec, counters: dict[str, TokenCounter], tokenizers_by_kind: dict[str, Tokenizer]
) -> None:
    built = spec.build(counters)
    expected = {needle.fact_id: needle.text for needle in spec.needles}
    assert sorted(span.fact_id for span in built.spans) == sorted(expected)
    tokenizer = tokenizers_by_kind[spec.tokenizer]
    ids = tokenizer.encode(built.text, add_special_tokens=False).ids
    previous_end = 0
    for span in built.spans:
        text = expected[span.fact_id]
        assert built.text[span.start_char : span.end_char] == text
        assert built.text.count(text) == 1
        assert span.start_char >= previous_end
        previous_end = span.end_char
        assert span.start_token is not None
        assert span.end_token is not None
        assert 0 <= span.start_token < span.end_token <= len(ids)
        if built.mode == "additive":
            assert text in tokenizer.decode(ids[span.start_token : span.end_token])
    if spec.in_order and not isinstance(spec.depths, list | float):
        assert [span.fact_id for span in built.spans] == [needle.fact_id for needle in spec.needles]


@given(spec=specs(), depth=st.floats(0, 100))
@ROOMY
def test_depths_are_met_within_half_a_unit(spec: Spec, depth: float, counters: dict[str, TokenCounter]) -> None:
    needle = Needle("The secret number of k is 7000.", "fact")
    built = spec.build(counters, needles=(needle,), depths=depth, mode="insert")
    haystack, counter = HAYSTACKS[spec.haystack], counters[spec.tokenizer]
    pieces = counter.count_many([haystack.joiner + unit for unit in haystack.units(spec.seed, built.units_kept)])
    slack = (max(pieces) / 2 + 1) / sum(pieces) * 100
    assert abs(built.depths[0] - depth) <= slack


@given(spec=specs(), shorter=st.integers(350, 499))
@ROOMY
def test_a_longer_context_goes_on_from_the_shorter_one(
    spec: Spec, shorter: int, counters: dict[str, TokenCounter]
) -> None:
    spec = replace(spec, needles=(), depths="random", target=spec.target.model_copy(update={"exact": False}))
    long = spec.build(counters)
    short = spec.build(counters, target=spec.target.model_copy(update={"value": shorter}))
    haystack = HAYSTACKS[spec.haystack]
    end = len(haystack.tail + spec.frame.closing)
    assert long.text.startswith(short.text[: len(short.text) - end])
    assert short.units_kept <= long.units_kept


@given(spec=specs())
@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
def test_equal_arguments_give_equal_contexts(
    spec: Spec, counters: dict[str, TokenCounter], tokenizers_by_kind: dict[str, Tokenizer]
) -> None:
    fresh = {spec.tokenizer: TokenCounter(tokenizers_by_kind[spec.tokenizer], cache=False)}
    assert spec.build(counters) == spec.build(fresh)


@given(value=st.integers(300, 6000), exact=st.booleans(), semantics=st.sampled_from(["total", "context"]))
@settings(max_examples=60, deadline=None)
def test_lengths_in_characters(value: int, exact: bool, semantics: str, counters: dict[str, TokenCounter]) -> None:
    tails = ("Question?", "A longer question than that?")
    target = LengthTarget.model_validate({"value": value, "unit": "chars", "exact": exact, "semantics": semantics})
    built = build_context(
        ProseHaystack(),
        [Needle("The number is 7.", "n")],
        target,
        counters["byte_level"],
        seed=value,
        frame=Frame("Read.\n", "\n", tails),
    )
    size = len(built.text) + (max(map(len, tails)) if semantics == "total" else 0)
    assert size <= value
    assert value - size < 120
    assert not exact or size == value
    assert built.n_context_tokens == counters["byte_level"].count(built.text)


def test_lengths_in_units(counter: TokenCounter) -> None:
    built = build_context(
        KVHaystack(),
        [Needle('"key": "value"', "pair")],
        LengthTarget(value=25, unit="units"),
        counter,
        seed=0,
        depths=50,
        mode="replace",
    )
    assert built.units_kept == 25
    assert built.spans[0].unit_index == 12
    assert built.text.count('": "') == 25
    assert built.n_context_tokens == counter.count(built.text)


def test_needles_can_depend_on_the_number_of_units(counter: TokenCounter) -> None:
    calls = []

    def place(n: int, rng: Random) -> list[tuple[int, Needle]]:
        calls.append(n)
        return [(n - 1, Needle(f"Of {n} lines this is the last.", "last")), (rng.randrange(n - 1), Needle("Other."))]

    built = build_context(LinesHaystack(), place, LengthTarget(value=900), counter, seed=3, mode="replace")
    assert built.text.endswith(f"Of {built.units_kept} lines this is the last.")
    assert calls[-1] == built.units_kept or built.units_kept in calls
    assert built.text.count("\n") == built.units_kept - 1
    assert built.n_context_tokens == counter.count(built.text) <= 900


def test_what_does_not_fit_says_what_would(counters: dict[str, TokenCounter]) -> None:
    counter = counters["byte_level"]
    needles = [Needle("The secret number of bold-cat is 1234567.", "n")]
    frame = Frame("Read this.\n", "\n", ("Question?\n",), template_tokens=9)
    started = time.monotonic()
    with pytest.raises(LengthTargetError, match="smallest feasible length is") as raised:
        build_context(
            ProseHaystack(), needles, LengthTarget(value=30, reserve=16), counter, seed=0, frame=frame, depths=0
        )
    assert time.monotonic() - started < 1
    smallest = int(str(raised.value).rsplit(" ", 1)[1])
    target = LengthTarget(value=smallest, reserve=16)
    built = build_context(ProseHaystack(), needles, target, counter, seed=0, frame=frame, depths=0)
    assert built.units_kept == 1
    with pytest.raises(LengthTargetError):
        build_context(
            ProseHaystack(),
            needles,
            LengthTarget(value=smallest - 1, reserve=16),
            counter,
            seed=0,
            frame=frame,
            depths=0,
        )


def test_a_tolerance_is_kept_or_refused(counters: dict[str, TokenCounter]) -> None:
    haystack = ListHaystack([f"Unit number {i} of a list." for i in range(20)])
    with pytest.raises(LengthTargetError, match="more than the tolerance of 5"):
        build_context(haystack, [], LengthTarget(value=5000, tolerance=5), counters["byte_level"], seed=0)
    full = build_context(haystack, [], LengthTarget(value=5000), counters["byte_level"], seed=0)
    assert full.units_kept == 20


def test_haystacks_that_glue_or_end_are_refused(counter: TokenCounter) -> None:
    with pytest.raises(HaystackError, match="free of whitespace"):
        build_context(ListHaystack(["fine", " not fine"]), [], LengthTarget(value=50), counter, seed=0)
    with pytest.raises(HaystackError, match="at least 1"):
        build_context(ListHaystack([]), [], LengthTarget(value=50), counter, seed=0)
    with pytest.raises(LengthTargetError, match="3 units, 4 were asked for"):
        build_context(ListHaystack(["a", "b", "c"]), [], LengthTarget(value=4, unit="units"), counter, seed=0)
    with pytest.raises(PlacementError, match="one each"):
        build_context(NoiseHaystack(), [Needle("n")], LengthTarget(value=90), counter, seed=0, depths=[1, 2])


def test_a_misjudged_tokenizer_is_corrected_by_verification(tokenizers_by_kind: dict[str, Tokenizer]) -> None:
    tokenizer = tokenizers_by_kind["byte_level"]

    def drifting(text: str) -> list[int]:
        """Long texts cost a twentieth more than the sum of their parts."""
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        return [*ids, *([0] * (len(ids) // 20))]

    counter = TokenCounter(drifting, cache=False)
    for exact in (False, True):
        built = build_context(
            ProseHaystack(),
            [Needle("The number is 1234567.", "n")],
            LengthTarget(value=2000, exact=exact),
            counter,
            seed=4,
            frame=Frame("Read.\n", "\n", ("Question?",)),
        )
        total = counter.count(built.text + "Question?")
        assert (built.mode, built.counted) == ("verify", "verified")
        assert built.n_total_tokens == total
        assert total == 2000 if exact else 1980 <= total <= 2000


def test_tokens_of_texts_measured_otherwise_are_verified_too(counters: dict[str, TokenCounter]) -> None:
    counter = counters["metaspace"]
    for target in (LengthTarget(value=3000, unit="chars", exact=True), LengthTarget(value=40, unit="units")):
        built = build_context(LinesHaystack(), [Needle("line x: <7>", "n")], target, counter, seed=1)
        assert (built.mode, built.counted) == ("verify", "verified")
        assert built.n_context_tokens == counter.count(built.text)


def test_verification_can_be_asked_for(counters: dict[str, TokenCounter]) -> None:
    arguments = (ProseHaystack(), [Needle("The number is 7.", "n")], LengthTarget(value=1500), counters["byte_level"])
    plain, verified = build_context(*arguments, seed=2), build_context(*arguments, seed=2, verify=True)
    assert verified.counted == "verified"
    assert replace(verified, counted="predicted") == plain


def test_depths_of_many_samples_are_uniform(counters: dict[str, TokenCounter]) -> None:
    needle = Needle("The number is 1234567.", "n")
    depths = [
        build_context(
            NoiseHaystack(), [needle], LengthTarget(value=4000), counters["byte_level"], depths="random", seed=seed
        ).depths[0]
        for seed in range(400)
    ]
    bins, _ = np.histogram(depths, bins=10, range=(0, 100))
    assert ((bins - 40) ** 2 / 40).sum() < 27.9, "chi-square, 9 degrees of freedom, 0.1 %"


@pytest.mark.timing
def test_counted_corpora_are_fast(counters: dict[str, TokenCounter]) -> None:
    counter = counters["byte_level"]
    haystack, needle = ProseHaystack(), [Needle("The number is 1234567.", "n")]

    def seconds(value: int, seeds: range) -> float:
        started = time.perf_counter()
        for seed in seeds:
            build_context(haystack, needle, LengthTarget(value=value), counter, seed=seed)
        return time.perf_counter() - started

    seconds(1_000_000, range(1))
    assert min(seconds(1_000_000, range(i, i + 1)) for i in range(5)) < 0.1
    assert seconds(32_768, range(200)) < 1
