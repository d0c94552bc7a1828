"""The engine of masked-diffusion models: limits, stops, company, and a whole `inspect eval`."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import torch
from inspect_ai import Task, eval
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import GenerateConfig, get_model, get_model_info
from inspect_ai.scorer import includes
from inspect_ai.solver import generate
from transformers import PreTrainedTokenizerFast

import farspan._registry  # noqa: F401
from farspan.engine import DiffusionConfig, DiffusionEngine, Request, RequestError, inspect_api
from farspan.engine.batching import EngineClosed
from farspan.engine.inspect_api import ProviderError
from farspan.engine.shared import EngineRegistry
from tests.diffusion_models import model_of
from tests.engine.conftest import END, PAD, VOCABULARY, make_tokenizer

MASK = VOCABULARY
SETTINGS = {"vocab_size": VOCABULARY + 1, "mask_token_id": MASK, "eos_token_id": END, "pad_token_id": PAD}
BLOCKS = DiffusionConfig(steps=8, gen_length=8, block_length=4)


def engine_of(tokenizer: PreTrainedTokenizerFast, end_bias: float = 0.0, **settings: object) -> DiffusionEngine:
    model = model_of(**SETTINGS)
    if end_bias:
        model.lm_head.bias = torch.nn.Parameter(torch.zeros(VOCABULARY + 1))
        with torch.no_grad():
            model.lm_head.bias[END] = end_bias
    return DiffusionEngine(model, tokenizer, BLOCKS, **settings)  # type: ignore[arg-type]


def prompt(text: str) -> list[int]:
    return [int(token) for token in make_tokenizer()(text)["input_ids"]]


def test_answers_have_the_length_that_was_asked_for_and_no_company(tokenizer: PreTrainedTokenizerFast) -> None:
    requests = [Request(prompt(text), length) for text, length in (("hello", 6), ("a longer prompt", 6), ("hi", 9))]
    with engine_of(tokenizer) as engine:
        together = engine.generate_batch(requests)
        alone = [engine.generate_batch([request])[0] for request in requests]
    for request, one, other in zip(requests, together, alone, strict=True):
        assert one.ids == other.ids
        assert len(one.ids) == request.max_new_tokens or one.ids[-1] == END
        assert one.usage.input_tokens == len(request.ids)
        assert one.usage.output_tokens == len(one.ids)
    with engine_of(tokenizer, max_batch_tokens=1) as engine:
        assert [result.ids for result in engine.generate_batch(requests)] == [result.ids for result in together]


def test_the_end_token_the_limit_and_the_window_end_an_answer(tokenizer: PreTrainedTokenizerFast) -> None:
    with engine_of(tokenizer, end_bias=100.0) as engine:
        (ended,) = engine.generate_batch([Request(prompt("hello"), 8)])
    assert ended.ids == [END]
    assert (ended.text, ended.stop_reason) == ("", "stop")
    with engine_of(tokenizer, end_bias=-100.0) as engine:
        assert engine.context_length == 64
        limited, cramped, refused = engine.generate_batch(
            [Request(prompt("hello"), 5), Request(prompt("x" * 61), 8), Request(prompt("x" * 64), 8)]
        )
    assert (len(limited.ids), limited.stop_reason) == (5, "max_tokens")
    assert (len(cramped.ids), cramped.stop_reason) == (3, "model_length")
    assert (refused.ids, refused.stop_reason) == ([], "model_length")


def test_stop_texts_are_cut_from_the_answer(tokenizer: PreTrainedTokenizerFast) -> None:
    request = Request(prompt("hello"), 8)
    with engine_of(tokenizer, end_bias=-100.0) as engine:
        (whole,) = engine.generate_batch([request])
        stop = whole.text[2:4]
        (cut,) = engine.generate_batch([Request(request.ids, 8, stop=(stop,))])
    assert cut.text == whole.text[: whole.text.find(stop)]
    assert cut.stop_reason == "stop"


def test_noise_belongs_to_a_request(tokenizer: PreTrainedTokenizerFast) -> None:
    def request(seed: int) -> Request:
        return Request(prompt("hello"), 8, temperature=1.0, seed=seed)

    with engine_of(tokenizer, end_bias=-100.0) as engine:
        first, second, again = engine.generate_batch([request(1), request(2), request(1)])
        alone = asyncio.run(engine.generate(request(2)))
    assert first.ids == again.ids != second.ids == alone.ids


def test_what_has_no_meaning_here_is_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    engine = engine_of(tokenizer)
    for settings in ({"top_p": 0.5, "temperature": 1.0}, {"logprobs": 2}, {"repetition_penalty": 1.2}):
        with pytest.raises(RequestError, match="by temperature and seed"):
            engine.generate_batch([Request([5], 4, **settings)])  # type: ignore[arg-type]
    engine.close()
    with pytest.raises(EngineClosed):
        engine.generate_batch([Request([5], 4)])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(inspect_api, "_ENGINES", EngineRegistry())
    monkeypatch.setenv("INSPECT_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("INSPECT_LOG_DIR", str(tmp_path / "logs"))
    place = tmp_path / "tiny"
    model_of(**SETTINGS).save_pretrained(place)
    make_tokenizer().save_pretrained(place)
    return place


def test_an_inspect_evaluation_runs_on_it(folder: Path) -> None:
    arguments = {"path": str(folder), "block_length": 4, "levers": "ntk-critical:factor=4"}
    model = get_model("farspan-diffusion/tiny", memoize=False, **arguments)
    samples = [Sample(input=f"the number is {index}", target=str(index)) for index in range(3)]
    task = Task(dataset=MemoryDataset(samples), solver=generate(max_tokens=6), scorer=includes())
    (log,) = eval(task, model=model, display="none")
    assert log.status == "success"
    assert log.samples is not None
    with DiffusionEngine(model_of(**SETTINGS), make_tokenizer(), DiffusionConfig(block_length=4)) as engine:
        plain = engine.generate_batch([Request(prompt("the number is 0"), 6)])[0]
    usage = log.samples[0].output.usage
    assert usage is not None
    assert usage.output_tokens <= 6
    assert plain.usage.input_tokens == usage.input_tokens
    found = get_model_info("farspan-diffusion/tiny")
    assert found is not None
    assert found.context_length == 256


def test_settings_are_part_of_the_fingerprint_and_checked(folder: Path) -> None:
    prints = {
        get_model("farspan-diffusion/tiny", memoize=False, path=str(folder), **settings).api.connection_key()
        for settings in ({}, {"block_length": 4}, {"cache_prefix": True}, {"levers": "ntk:factor=2"})
    }
    assert len(prints) == 4
    with pytest.raises(RequestError, match="block_length is 0"):
        get_model("farspan-diffusion/tiny", memoize=False, path=str(folder), block_length=0)
    with pytest.raises(ProviderError, match="model argument 'colour'"):
        get_model("farspan-diffusion/tiny", memoize=False, path=str(folder), colour=1)


def test_a_request_that_cannot_be_served_fails_alone(folder: Path) -> None:
    model = get_model("farspan-diffusion/tiny", memoize=False, path=str(folder))
    with pytest.raises(RequestError, match="by temperature and seed"):
        asyncio.run(model.generate("hello", config=GenerateConfig(max_tokens=4, temperature=1.0, top_k=5)))
