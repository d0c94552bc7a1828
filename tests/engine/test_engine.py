"""The engine gives what the model gives, alone and in company, and counts it truly."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from farspan.engine import Engine, ModelSpec, Request, Result
from farspan.engine.batching import EngineClosed
from farspan.errors import FarspanError
from farspan.positions import DynamicNTK
from farspan.recipe import Lever
from tests.engine.conftest import CHAT_TEMPLATE, CONFIGS, END, PAD, make_model

LENGTHS = (3, 10, 40, 41, 300, 301, 300, 17)


def prompts(count: int = 16, seed: int = 0, lengths: tuple[int, ...] = LENGTHS) -> list[list[int]]:
    rng = random.Random(seed)
    return [[rng.randrange(256) for _ in range(lengths[index % len(lengths)])] for index in range(count)]


def ids(results: list[Result]) -> list[list[int]]:
    return [result.ids for result in results]


@pytest.fixture
def engine(llama: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> Iterator[Engine]:
    with Engine(llama, tokenizer) as engine:
        yield engine


@pytest.mark.parametrize("name", CONFIGS)
def test_sixteen_prompts_alone_and_batched_and_by_transformers(name: str, tokenizer: PreTrainedTokenizerFast) -> None:
    model = make_model(CONFIGS[name]())
    asked = prompts()
    with Engine(model, tokenizer) as engine:
        alone = [engine.generate_batch([Request(prompt, 10)])[0] for prompt in asked]
        batched = engine.generate_batch([Request(prompt, 10) for prompt in asked])
        assert engine.stats.largest_batch > 1
    assert ids(alone) == ids(batched)
    assert len({tuple(result.ids) for result in batched}) > 8
    for prompt, result in zip(asked, batched, strict=True):
        expected = model.generate(torch.tensor([prompt]), max_new_tokens=10, do_sample=False, pad_token_id=PAD)
        assert result.ids == expected[0, len(prompt) :].tolist()


@pytest.mark.parametrize("name", CONFIGS)
def test_questions_on_one_context_give_what_whole_prompts_give(name: str, tokenizer: PreTrainedTokenizerFast) -> None:
    model = make_model(CONFIGS[name]())
    contexts = prompts(2, seed=3, lengths=(200, 190))
    questions = prompts(8, seed=4, lengths=(7, 9, 7, 8))
    whole = [contexts[index % 2] + question for index, question in enumerate(questions)]
    with Engine(model, tokenizer) as engine:
        plain = engine.generate_batch([Request(prompt, 8, logprobs=1) for prompt in whole])
        before = engine.stats.prefill_tokens
        shared = engine.generate_batch(
            [Request(prompt, 8, logprobs=1, prefix_length=len(contexts[i % 2])) for i, prompt in enumerate(whole)]
        )
        computed = engine.stats.prefill_tokens - before
        assert computed == sum(map(len, contexts)) + sum(map(len, questions))
        assert computed == sum(result.usage.input_tokens for result in shared)
    assert ids(plain) == ids(shared)
    for one, other in zip(plain, shared, strict=True):
        assert one.logprobs is not None
        assert other.logprobs is not None
        for left, right in zip(one.logprobs, other.logprobs, strict=True):
            assert left.logprob == pytest.approx(right.logprob, abs=1e-4)


def test_branches_of_one_prompt_are_prefilled_once(engine: Engine) -> None:
    prompt = prompts(1, lengths=(500,))[0]
    results = engine.generate_batch(
        [Request(prompt, 6, temperature=1.0, seed=branch, prefix_length=len(prompt) - 1) for branch in range(8)]
    )
    assert engine.stats.prefill_tokens == 499 + 8
    assert engine.stats.batches == 1
    assert sorted(result.usage.input_tokens for result in results) == [1] * 7 + [500]
    assert all(result.usage.input_tokens + result.usage.cached_tokens == 500 for result in results)
    again = engine.generate_batch([Request(prompt, 6, prefix_length=len(prompt) - 1)])[0]
    assert again.usage.cached_tokens == 499
    assert len({tuple(result.ids) for result in results}) > 4


def test_a_named_context_gives_equal_logits_to_the_last_digit_in_any_company(engine: Engine) -> None:
    context = prompts(1, seed=5, lengths=(300,))[0]
    asked = [Request(context + question, 6, logprobs=2, prefix_length=300) for question in prompts(6, seed=6)]
    together = engine.generate_batch(asked)
    apart = [engine.generate_batch([request])[0] for request in asked]
    assert ids(together) == ids(apart)


def test_usage_counts_tokens_and_never_padding(engine: Engine) -> None:
    asked = prompts(3, lengths=(10, 400, 2000))
    results = engine.generate_batch([Request(prompt, 5) for prompt in asked])
    assert [result.usage.input_tokens for result in results] == [10, 400, 2000]
    assert [result.usage.output_tokens for result in results] == [len(result.ids) for result in results]
    assert engine.stats.prefill_tokens == 2410


def test_five_calls_in_turn_take_no_time(engine: Engine) -> None:
    async def turns() -> float:
        start = time.perf_counter()
        for _ in range(5):
            await engine.generate(Request(list(range(50)), 8))
        return time.perf_counter() - start

    assert asyncio.run(turns()) < 1.0


def test_concurrent_calls_share_batches(engine: Engine) -> None:
    async def together() -> list[Result]:
        return await asyncio.gather(*(engine.generate(Request(prompt, 6)) for prompt in prompts(16, lengths=(40, 41))))

    results = asyncio.run(together())
    assert engine.stats.largest_batch > 1
    assert ids(results) == ids(engine.generate_batch([Request(prompt, 6) for prompt in prompts(16, lengths=(40, 41))]))


class TestEnds:
    """Why and where generation ends."""

    def test_limits_differ_within_a_batch(self, engine: Engine) -> None:
        asked = prompts(6, lengths=(40,))
        limits = [1, 2, 3, 9, 5, 7]
        results = engine.generate_batch([Request(p, limit) for p, limit in zip(asked, limits, strict=True)])
        full = engine.generate_batch([Request(prompt, 9) for prompt in asked])
        for limit, result, longest in zip(limits, results, full, strict=True):
            assert result.ids == longest.ids[:limit]
            assert result.stop_reason == "max_tokens"
        assert engine.stats.batches == 2

    def test_the_end_token_ends(self, llama: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
        model = make_model(CONFIGS["llama"]())
        prompt = prompts(1)[0]
        with Engine(model, tokenizer) as engine:
            free = engine.generate_batch([Request(prompt, 8)])[0].ids
        assert model.generation_config is not None
        model.generation_config.eos_token_id = [END, free[4]]
        with Engine(model, tokenizer) as engine:
            ended = engine.generate_batch([Request(prompt, 8)])[0]
        assert ended.ids == free[: free.index(free[4]) + 1]
        assert ended.stop_reason == "stop"
        assert ended.usage.output_tokens == len(ended.ids)

    def test_stop_texts_end_and_are_cut(self, engine: Engine, tokenizer: PreTrainedTokenizerFast) -> None:
        asked = prompts(8, lengths=(30,))
        free = engine.generate_batch([Request(prompt, 40) for prompt in asked])
        checked = 0
        for prompt, result in zip(asked, free, strict=True):
            pieces = [tokenizer.decode([token]) for token in result.ids]
            place = next(
                (i for i in range(5, 39) if all(len(p) == 1 and p.isprintable() for p in pieces[i : i + 2])), 0
            )
            if not place:
                continue
            stop = "".join(pieces[place : place + 2])
            stopped = engine.generate_batch([Request(prompt, 40, stop=("never there", stop))])[0]
            assert stopped.stop_reason == "stop"
            assert stopped.text == result.text[: result.text.index(stop)]
            assert stopped.ids == result.ids[: len(stopped.ids)]
            assert len(stopped.ids) < 40
            checked += 1
        assert checked >= 2

    def test_the_window_ends(self, llama: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
        asked = [list(range(length)) for length in (55, 63, 64, 70, 20)]
        with Engine(llama, tokenizer, context_length=64) as engine:
            assert engine.context_length == 64
            results = engine.generate_batch([Request(prompt, 20) for prompt in asked])
            assert engine.stats.prefill_tokens == 55 + 63 + 20
        assert [result.stop_reason for result in results] == ["model_length"] * 4 + ["max_tokens"]
        assert [len(result.ids) for result in results] == [9, 1, 0, 0, 20]
        assert results[2].usage.total_tokens == 0

    def test_measuring_goes_beyond_the_window(self, llama: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
        with Engine(llama, tokenizer, context_length=64, enforce_context_length=False) as engine:
            result = engine.generate_batch([Request(list(range(100)), 5)])[0]
        assert (len(result.ids), result.stop_reason) == (5, "max_tokens")

    def test_a_learned_position_table_is_never_overrun(self, tokenizer: PreTrainedTokenizerFast) -> None:
        config = CONFIGS["gpt2"]()
        config.n_positions = 32
        with Engine(make_model(config), tokenizer) as engine:
            results = engine.generate_batch([Request(list(range(length)), 20) for length in (30, 28, 24, 25)])
        assert [len(result.ids) for result in results] == [2, 4, 8, 7]


class TestSampling:
    """Random answers belong to their seed and to nothing else."""

    def test_seeds_decide_whatever_the_company(self, engine: Engine) -> None:
        asked = [
            Request(prompt, 10, temperature=1.3, top_p=0.9, top_k=50, min_p=0.01, seed=index)
            for index, prompt in enumerate(prompts(8))
        ]
        together = engine.generate_batch(asked)
        assert ids(together) == ids(engine.generate_batch(asked[::-1]))[::-1]
        assert ids(together) == [engine.generate_batch([request])[0].ids for request in asked]
        other = [Request(request.ids, 10, temperature=1.3, seed=index + 50) for index, request in enumerate(asked)]
        assert ids(engine.generate_batch(other)) != ids(together)

    def test_without_a_seed_answers_differ(self, engine: Engine) -> None:
        asked = [Request(list(range(40)), 12, temperature=2.0) for _ in range(4)]
        assert len({tuple(result.ids) for result in engine.generate_batch(asked)}) > 1

    def test_one_candidate_is_greedy(self, engine: Engine) -> None:
        greedy = engine.generate_batch([Request(prompt, 8) for prompt in prompts(6)])
        for narrow in ({"top_k": 1}, {"min_p": 1.0}, {"top_p": 1e-6}):
            asked = [Request(prompt, 8, temperature=0.7, seed=1, **narrow) for prompt in prompts(6)]  # type: ignore[arg-type]
            assert ids(engine.generate_batch(asked)) == ids(greedy)

    def test_repetition_penalty_is_that_of_transformers(self, engine: Engine, llama: PreTrainedModel) -> None:
        asked = prompts(5, lengths=(30, 31))
        results = engine.generate_batch([Request(prompt, 10, repetition_penalty=1.7) for prompt in asked])
        for prompt, result in zip(asked, results, strict=True):
            expected = llama.generate(
                torch.tensor([prompt]), max_new_tokens=10, do_sample=False, repetition_penalty=1.7, pad_token_id=PAD
            )
            assert result.ids == expected[0, len(prompt) :].tolist()

    def test_logprobs_are_those_of_the_model(self, engine: Engine, llama: PreTrainedModel) -> None:
        for prompt, result in zip(
            prompts(5), engine.generate_batch([Request(p, 6, logprobs=3) for p in prompts(5)]), strict=True
        ):
            assert result.logprobs is not None
            assert [entry.id for entry in result.logprobs] == result.ids
            with torch.no_grad():
                logits = llama(input_ids=torch.tensor([prompt + result.ids])).logits[0, len(prompt) - 1 : -1]
            expected = logits.log_softmax(-1)
            for step, entry in enumerate(result.logprobs):
                assert entry.logprob == pytest.approx(expected[step, entry.id].item(), abs=1e-4)
                assert [token for token, _ in entry.top] == expected[step].topk(3).indices.tolist()
                assert entry.top[0][1] == pytest.approx(entry.logprob, abs=1e-5)
        assert engine.generate_batch([Request([1, 2], 2)])[0].logprobs is None


class TestScore:
    """Log-probabilities of given texts."""

    @pytest.mark.parametrize("name", CONFIGS)
    def test_scores_are_those_of_the_model(self, name: str, tokenizer: PreTrainedTokenizerFast) -> None:
        model = make_model(CONFIGS[name]())
        texts = [*prompts(6), [5], [6, 7]]
        with Engine(model, tokenizer) as engine:
            engine._scorer.block_logits = 2000
            scores = engine.score(texts)
        for text, score in zip(texts, scores, strict=True):
            with torch.no_grad():
                logprobs = model(input_ids=torch.tensor([text])).logits[0, :-1].log_softmax(-1)
            expected = logprobs.gather(-1, torch.tensor(text)[1:, None])[:, 0]
            assert score == pytest.approx(expected.tolist(), abs=1e-4)

    def test_caps_behind_the_head_are_noticed(self, tokenizer: PreTrainedTokenizerFast) -> None:
        with Engine(make_model(CONFIGS["gemma2-softcap"]()), tokenizer) as engine:
            engine.score([[1, 2, 3]])
            assert engine._scorer._plain_head is False
        with Engine(make_model(CONFIGS["llama"]()), tokenizer) as engine:
            engine.score([[1, 2, 3]])
            assert engine._scorer._plain_head is True


class TurnValues(Lever):
    """A lever for tests: it negates the values of the first layer."""

    name: ClassVar[str] = "turn-values"
    slot: ClassVar[str] = "attention"

    @contextmanager
    def switch_on(self, model: PreTrainedModel) -> Iterator[None]:
        weight = model.model.layers[0].self_attn.v_proj.weight
        with torch.no_grad():
            weight.neg_()
        yield
        with torch.no_grad():
            weight.neg_()


def test_contexts_of_another_recipe_are_not_used(tokenizer: PreTrainedTokenizerFast) -> None:
    model = make_model(CONFIGS["llama"]())
    asked = [Request(prompts(1, lengths=(300,))[0], 8, prefix_length=280)]
    with Engine(model, tokenizer) as engine:
        plain = engine.generate_batch(asked)
        with TurnValues()(model):
            turned = engine.generate_batch(asked)
            with Engine(model, tokenizer) as fresh:
                assert ids(fresh.generate_batch(asked)) == ids(turned)
        assert ids(turned) != ids(plain)
        assert ids(engine.generate_batch(asked)) == ids(plain)


def test_shared_beginnings_that_no_request_names(llama: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
    document = prompts(1, lengths=(1500,))[0]
    asked = [Request(document + question, 6) for question in prompts(6, seed=8, lengths=(9, 11))]
    with Engine(llama, tokenizer) as engine:
        expected = engine.generate_batch(asked)
    with Engine(llama, tokenizer, share_prefixes=True) as engine:
        assert ids(engine.generate_batch(asked)) == ids(expected)
        assert engine.stats.prefill_tokens == 1280 + sum(len(request.ids) - 1280 for request in asked)
        longer = [Request([*request.ids, *(index % 250 for index in range(600))], 6) for request in asked[:2]]
        for request in (*longer, *longer, *longer):
            result = engine.generate_batch([request])[0]
        assert result.usage.cached_tokens == 2048
    with Engine(llama, tokenizer) as engine:
        assert result.ids == engine.generate_batch([longer[1]])[0].ids


def test_frequencies_that_follow_the_length(tokenizer: PreTrainedTokenizerFast) -> None:
    config = CONFIGS["llama"]()
    config.max_position_embeddings = 256
    model = make_model(config)
    asked = prompts(8, lengths=(250, 300, 510, 700))
    with DynamicNTK(factor=4)(model), Engine(model, tokenizer, share_prefixes=True) as engine:
        alone = [engine.generate_batch([Request(prompt, 12)])[0] for prompt in asked]
        assert ids(engine.generate_batch([Request(prompt, 12) for prompt in asked])) == ids(alone)
        for prompt, result in zip(asked, alone, strict=True):
            expected = model.generate(torch.tensor([prompt]), max_new_tokens=12, do_sample=False, pad_token_id=PAD)
            assert result.ids == expected[0, len(prompt) :].tolist()
        # Within one step of the frequencies a context read apart is the same context.
        named = [Request(prompt, 12, prefix_length=len(prompt) - 20) for prompt in asked if len(prompt) == 700]
        assert ids(engine.generate_batch(named)) == [r.ids for p, r in zip(asked, alone, strict=True) if len(p) == 700]
    with Engine(model, tokenizer) as engine:
        assert ids(engine.generate_batch([Request(asked[0], 6)])) == [alone[0].ids[:6]]


def test_frequencies_that_transformers_changes_share_nothing(tokenizer: PreTrainedTokenizerFast) -> None:
    config = CONFIGS["llama"]()
    config.rope_parameters = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0}
    config.max_position_embeddings = 256
    # Ascending, since transformers goes on with the frequencies of the longest request seen.
    asked = [Request(prompt, 6, prefix_length=200) for prompt in prompts(4, lengths=(300, 310, 400, 410))]
    with Engine(make_model(config), tokenizer, enforce_context_length=False) as engine:
        together = engine.generate_batch(asked)
        assert all(result.usage.cached_tokens == 0 for result in together)
    with Engine(make_model(config), tokenizer, enforce_context_length=False) as engine:
        assert ids(together) == [engine.generate_batch([request])[0].ids for request in asked]


def test_recurrent_models_work_without_sharing(mamba: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
    asked = prompts(6, lengths=(30, 33, 30))
    with Engine(mamba, tokenizer) as engine:
        alone = [engine.generate_batch([Request(prompt, 6)])[0] for prompt in asked]
        batched = engine.generate_batch([Request(prompt, 6, prefix_length=20) for prompt in asked])
        assert ids(alone) == ids(batched)
        assert all(result.usage.cached_tokens == 0 for result in batched)
        scores = engine.score(asked)
    with torch.no_grad():
        logprobs = mamba(input_ids=torch.tensor(asked[:1])).logits[0, :-1].log_softmax(-1)
    expected = logprobs.gather(-1, torch.tensor(asked[0])[1:, None])[:, 0]
    assert scores[0] == pytest.approx(expected.tolist(), abs=1e-4)


def test_the_model_is_left_as_found(tokenizer: PreTrainedTokenizerFast) -> None:
    model = make_model(CONFIGS["llama"]()).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with Engine(model, tokenizer) as engine:
        engine.generate_batch([Request([1, 2, 3], 4)])
        engine.score([[1, 2, 3]])
    assert model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())


def test_a_closed_engine_says_so(llama: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
    engine = Engine(llama, tokenizer)
    assert engine.generate_batch([]) == []
    engine.close()
    engine.close()
    with pytest.raises(EngineClosed, match="closed"):
        engine.generate_batch([Request([1], 1)])


class TestFromSpec:
    """Engines that load their model themselves."""

    def test_the_recipe_is_on_for_the_engines_life(self, model_folder: Path) -> None:
        asked = [Request(prompt, 8) for prompt in prompts(6, lengths=(200,))]
        with Engine.from_spec(ModelSpec(path=str(model_folder))) as plain:
            expected = ids(plain.generate_batch(asked))
            assert plain.context_length == 4096
            assert plain.share_prefixes
        with Engine.from_spec(ModelSpec(path=str(model_folder), levers="linear:factor=4")) as stretched:
            assert stretched.context_length == 4 * 4096
            assert ids(stretched.generate_batch(asked)) != expected
            model = stretched.model
        assert model.config.max_position_embeddings == 4096
        with Engine(model, stretched.tokenizer) as again:
            assert ids(again.generate_batch(asked)) == expected

    def test_window_and_template_can_be_replaced(self, model_folder: Path, tmp_path: Path) -> None:
        template = tmp_path / "chat.jinja"
        template.write_text(CHAT_TEMPLATE)
        spec = ModelSpec(path=str(model_folder), max_model_len=100, chat_template=str(template))
        with Engine.from_spec(spec) as engine:
            assert engine.context_length == 100
            assert engine.tokenizer.chat_template == CHAT_TEMPLATE

    def test_what_cannot_be_loaded_is_one_line(self) -> None:
        with pytest.raises(FarspanError, match="/no/such/model") as error:
            Engine.from_spec(ModelSpec(path="/no/such/model"))
        assert "\n" not in str(error.value)
