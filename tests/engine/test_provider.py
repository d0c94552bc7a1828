"""The engine behind Inspect: registration, sharing, usage, caching, and a whole `inspect eval`."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from inspect_ai import Task, eval
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.log import read_eval_log
from inspect_ai.model import (
    ChatMessageAssistant,
    ChatMessageUser,
    ContentReasoning,
    GenerateConfig,
    Model,
    get_model,
    get_model_info,
)
from inspect_ai.scorer import includes
from inspect_ai.solver import generate
from inspect_ai.tool import tool

import farspan._registry  # noqa: F401
from farspan.engine import inspect_api
from farspan.engine.inspect_api import FarspanAPI, ProviderError
from farspan.engine.shared import EngineRegistry
from tests.engine.conftest import CHAT_TEMPLATE, make_tokenizer

TASK_FILE = """
from inspect_ai import Task, task
from inspect_ai.dataset import Sample
from inspect_ai.scorer import includes
from inspect_ai.solver import generate

@task
def tiny() -> Task:
    samples = [Sample(input="the number is " + str(i), target=str(i)) for i in range(4)]
    return Task(dataset=samples, solver=generate(max_tokens=6), scorer=includes())
"""


@pytest.fixture(autouse=True)
def engines(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[EngineRegistry]:
    """A registry of this test's own, and Inspect's cache and logs in its folder."""
    registry = EngineRegistry()
    monkeypatch.setattr(inspect_api, "_ENGINES", registry)
    monkeypatch.setenv("INSPECT_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("INSPECT_LOG_DIR", str(tmp_path / "logs"))
    yield registry
    registry.close()


def model(folder: Path, **model_args: object) -> Model:
    return get_model("farspan/tiny", path=str(folder), memoize=False, **model_args)


def api(built: Model) -> FarspanAPI:
    assert isinstance(built.api, FarspanAPI)
    return built.api


def tiny_task(count: int = 4) -> Task:
    samples = [Sample(input=f"the number is {index}", target=str(index)) for index in range(count)]
    return Task(dataset=MemoryDataset(samples), solver=generate(max_tokens=6), scorer=includes())


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def test_registration_loads_neither_torch_nor_transformers() -> None:
    code = (
        "import sys, time; start = time.perf_counter(); import farspan._registry; "
        "print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env=environment(), check=True
    )
    assert done.stdout.strip() == "[]"


def test_building_a_model_loads_nothing(engines: EngineRegistry, model_folder: Path) -> None:
    first, second = model(model_folder), model(model_folder, levers="linear:factor=2")
    assert engines.loads == 0
    assert api(first).base_url != api(second).base_url
    assert str(api(first).base_url).startswith("farspan://")
    info = get_model_info("farspan/tiny")
    assert info is not None
    assert info.context_length == 4096


def test_usage_stop_reason_and_text(model_folder: Path) -> None:
    built = model(model_folder)
    for words in ("0123456789", "x" * 400, "y" * 2000):
        output = asyncio.run(built.generate(words, config=GenerateConfig(max_tokens=5)))
        assert output.usage is not None
        assert output.usage.input_tokens == len(words)
        assert output.usage.output_tokens == 5
        assert output.usage.total_tokens == len(words) + 5
        assert output.stop_reason == "max_tokens"
    full = asyncio.run(built.generate("z" * 5000, config=GenerateConfig(max_tokens=5)))
    assert full.stop_reason == "model_length"


def test_branches_share_a_prefill_and_differ(model_folder: Path) -> None:
    config = GenerateConfig(max_tokens=8, temperature=1.5, seed=3, num_choices=4)
    first = asyncio.run(model(model_folder).generate("a" * 300, config=config))
    again = asyncio.run(model(model_folder).generate("a" * 300, config=config))
    texts = [choice.message.text for choice in first.choices]
    assert len(set(texts)) > 1
    assert texts == [choice.message.text for choice in again.choices]
    assert first.usage is not None
    assert (first.usage.input_tokens, first.usage.input_tokens_cache_read) == (303, 3 * 299)


def test_a_final_assistant_message_is_continued(model_folder: Path) -> None:
    built = model(model_folder)
    split = [ChatMessageUser(content="the number "), ChatMessageAssistant(content="is 7")]
    config = GenerateConfig(max_tokens=6)
    continued = asyncio.run(built.generate(split, config=config))
    whole = asyncio.run(built.generate("the number is 7", config=config))
    assert continued.completion == whole.completion
    assert continued.usage == whole.usage


def test_logprobs_arrive(model_folder: Path) -> None:
    output = asyncio.run(
        model(model_folder).generate("hello", config=GenerateConfig(max_tokens=3, logprobs=True, top_logprobs=2))
    )
    logprobs = output.choices[0].logprobs
    assert logprobs is not None
    assert len(logprobs.content) == 3
    assert all(len(entry.top_logprobs or []) == 2 and entry.logprob < 0 for entry in logprobs.content)


def test_tokens_are_counted_by_the_models_tokenizer(model_folder: Path) -> None:
    assert asyncio.run(api(model(model_folder)).count_text_tokens("héllo")) == 6


def test_one_load_for_two_evals_and_one_more_for_another_recipe(
    engines: EngineRegistry, model_folder: Path, tmp_path: Path
) -> None:
    for expected, levers in ((1, ""), (1, ""), (2, "linear:factor=2")):
        (log,) = eval(
            tiny_task(),
            model="farspan/tiny",
            model_args={"path": str(model_folder), "levers": levers},
            display="none",
            log_dir=str(tmp_path / "logs"),
        )
        assert log.status == "success"
        assert engines.loads == expected
        (usage,) = log.stats.model_usage.values()
        assert (usage.input_tokens, usage.output_tokens) == (4 * len("the number is 0"), 4 * 6)


def test_recipes_do_not_share_cached_answers(engines: EngineRegistry, model_folder: Path) -> None:
    config = GenerateConfig(max_tokens=6, cache=True)
    plain, stretched = model(model_folder), model(model_folder, levers="linear:factor=8")
    prompt = "".join(chr(33 + 7 * index % 90) for index in range(120))
    first = asyncio.run(plain.generate(prompt, config=config))
    assert asyncio.run(plain.generate(prompt, config=config)).completion == first.completion
    engine = engines.get(api(plain).fingerprint, api(plain).spec)
    assert engine.stats.batches == 1
    other = asyncio.run(stretched.generate(prompt, config=config))
    assert engines.get(api(stretched).fingerprint, api(stretched).spec).stats.batches == 1
    assert other.completion != first.completion


@tool
def look():  # type: ignore[no-untyped-def]
    async def execute(at: int) -> str:
        """Look somewhere.

        Args:
            at: where
        """
        return str(at)

    return execute


def test_reasoning_and_tool_calls_are_taken_apart(
    monkeypatch: pytest.MonkeyPatch, engines: EngineRegistry, model_folder: Path
) -> None:
    built = model(model_folder, chat_template=CHAT_TEMPLATE)
    engine = api(built).engine()
    tokenizer = make_tokenizer()
    wanted = '<think>far</think>I look.<tool_call>{"name": "look", "arguments": {"at": 3}}</tool_call>'
    answer = [*tokenizer(wanted)["input_ids"], tokenizer.eos_token_id]

    def scripted(generation: object, row: object, queue_seconds: float) -> object:
        from farspan.engine import Result, Usage

        return Result(answer, wanted, "stop", Usage(1, 0, len(answer)))

    monkeypatch.setattr(type(engine._generation), "result", scripted)
    output = asyncio.run(built.generate("where?", tools=[look()], config=GenerateConfig(max_tokens=2)))
    assert output.stop_reason == "tool_calls"
    message = output.message
    assert message.text == "I look."
    assert isinstance(message.content, list)
    assert isinstance(message.content[0], ContentReasoning)
    assert message.content[0].reasoning == "far"
    assert message.tool_calls is not None
    assert (message.tool_calls[0].function, message.tool_calls[0].arguments) == ("look", {"at": 3})


@pytest.mark.parametrize(
    ("model_args", "named"),
    [({"lever": "pbs"}, "'lever'"), ({"max_model_len": 0}, "'max_model_len'"), ({"levers": "nonsense"}, "nonsense")],
)
def test_wrong_model_arguments_are_one_line(model_args: dict[str, object], named: str) -> None:
    from farspan.errors import FarspanError

    with pytest.raises(FarspanError, match=named) as error:
        FarspanAPI("tiny", **model_args)  # type: ignore[arg-type]
    assert "\n" not in str(error.value)
    assert isinstance(error.value, ProviderError) or "lever" in str(error.value)


@pytest.mark.slow
def test_inspect_eval_from_the_command_line(model_folder: Path, tmp_path: Path) -> None:
    task = tmp_path / "tiny_task.py"
    task.write_text(TASK_FILE)
    logs = tmp_path / "logs"
    command = [
        *(sys.executable, "-m", "inspect_ai", "eval", task.name, "--model", f"farspan/{model_folder}"),
        *("-M", "levers=yarn:factor=4,beta_fast=16", "--display", "none", "--log-dir", str(logs)),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment(), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (file,) = logs.glob("*.eval")
    log = read_eval_log(str(file))
    assert log.status == "success"
    assert log.samples is not None
    assert len(log.samples) == 4
    assert log.eval.model_args["levers"] == ["yarn:factor=4", "beta_fast=16"]
