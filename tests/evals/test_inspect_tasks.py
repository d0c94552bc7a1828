"""Every family end to end under Inspect, with a model that knows all answers and one that knows none."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from inspect_ai import Task
from inspect_ai import eval as inspect_eval
from inspect_ai.event import ModelEvent
from inspect_ai.log import EvalLog, read_eval_log
from inspect_ai.model import GenerateConfig, ModelOutput, ModelUsage, get_model
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from farspan._registry import tasks as registered
from farspan.errors import FarspanError
from farspan.evals.generate import TokenCounter
from farspan.evals.inspect_tasks import SampleSource, continued, digest, fours, inspect_task, listed, target_of
from farspan.evals.prompt import render_prompt
from farspan.evals.schema import LongSample
from farspan.evals.tasks import TASKS
from farspan.evals.tasks.family import family_class
from tests.evals.replies import said

CASES: dict[str, dict[str, Any]] = {
    "needle_threading": {"task": "single,thread", "lengths": "2k,4k", "samples": 3},
    "wikiqa": {"task": "ffqa,altered", "lengths": "2k", "samples": 2},
    "lines": {"task": "single,update", "lengths": [1024, "2k"], "samples": 4, "questions_per_context": 2},
    "ruler": {"task": "niah_multikey_1,vt,fwe,qa_2_gen", "lengths": 4096, "samples": 2},
    "longbiobench": {"task": "standard,rank_2,twodiff,multihop_2,citation_1", "lengths": 6000, "samples": 2},
    "holobench": {"task": "comparison_easy,aggregation_medium,ranking_easy", "lengths": 6000, "samples": 2},
}
Outputs = Callable[[Any, Any, Any, GenerateConfig], ModelOutput]


def case(family: str) -> dict[str, Any]:
    """What is asked of a family; the first of its usual tasks where nothing is said."""
    return CASES.get(family, {"task": family_class(family).default_tasks()[0], "lengths": "4k", "samples": 2})


def reply(text: str) -> ModelOutput:
    output = ModelOutput.from_content("mockllm/model", text)
    output.usage = ModelUsage(input_tokens=1, output_tokens=1, total_tokens=2)
    return output


def run(task: Task, outputs: Outputs, folder: Path) -> EvalLog:
    model = get_model("mockllm/model", custom_outputs=outputs)
    (log,) = inspect_eval(task, model=model, log_dir=str(folder), display="none")
    assert log.status == "success", log.error
    return read_eval_log(log.location)


def knowing(task: Task, family: str, tokenizer: str = "") -> tuple[Outputs, list[tuple[Any, GenerateConfig]]]:
    """A model that finds its prompt among those of the task; and what it was sent."""
    source = SampleSource(family, tokenizer)
    known = {}
    for row in task.dataset:
        assert row.metadata is not None
        sample = source.sample(row.metadata["spec"])
        known[sample.text + sample.question] = (sample, said(sample, source.family.solve(sample)))
    sent: list[tuple[Any, GenerateConfig]] = []

    def answer(messages: Any, tools: Any, choice: Any, config: GenerateConfig) -> ModelOutput:
        sent.append((list(messages), config))
        return reply(known[messages[0].text][1])

    return answer, sent


@pytest.mark.parametrize("family", list(TASKS))
def test_a_model_that_knows_scores_full_and_one_that_does_not_scores_nothing(family: str, tmp_path: Path) -> None:
    task = registered[family](**case(family), seed=1)
    outputs, sent = knowing(task, family)
    log = run(task, outputs, tmp_path / "knows")
    assert log.results is not None
    metrics = log.results.scores[0].metrics
    assert metrics["mean"].value == 1.0
    names = set(metrics)
    lengths = {target_of(length) for length in listed(case(family)["lengths"])}
    assert {f"length {length}" for length in lengths} <= names
    assert {f"task {name}" for name in case(family)["task"].split(",")} <= names
    messages, config = sent[0]
    prefixes = {str(row.metadata["sample"]["answer_prefix"]) for row in task.dataset if row.metadata}
    assert ([message.text for message in messages[1:]] or [""])[0] in prefixes
    assert [message.role for message in messages] == ["user", "assistant"][: len(messages)]
    assert config.stop_seqs == list(family_class(family).stop)
    assert config.temperature == 0.0
    assert config.max_tokens is not None
    silent = run(registered[family](**case(family)), lambda *_: reply("nothing"), tmp_path / "silent")
    assert silent.results is not None
    assert silent.results.scores[0].metrics["mean"].value == 0.0


def test_contexts_are_not_in_the_log(tmp_path: Path) -> None:
    task = inspect_task("lines", lengths=8192, samples=3)
    outputs, sent = knowing(task, "lines")
    log = run(task, outputs, tmp_path)
    assert log.samples is not None
    for sample in log.samples:
        assert all(len(message.text) < 1000 for message in sample.messages)
        assert "sha256" in sample.messages[0].text
        assert isinstance(sample.input, str)
        assert len(sample.input) < 200
        assert {"length", "depth", "task", "shared_context_key"} <= set(sample.metadata)
        events = [event for event in sample.events if isinstance(event, ModelEvent)]
        assert events
        assert all(len(message.text) < 1000 for event in events for message in event.input)
        assert max((len(value) for value in sample.attachments.values()), default=0) < 5000
    assert len(sent[0][0][0].text) > 20_000
    assert (tmp_path / Path(log.location).name).stat().st_size < 60_000


def test_scores_hold_the_other_figures(tmp_path: Path) -> None:
    task = inspect_task("needle_threading", task="multi", lengths="3k", samples=1, n_needles=2)
    outputs, _ = knowing(task, "needle_threading")
    log = run(task, outputs, tmp_path)
    assert log.samples is not None
    assert log.samples[0].scores is not None
    score = log.samples[0].scores["long_context_score"]
    assert score.metadata is not None
    assert score.metadata["exact_order"] == score.metadata["precision"] == 1.0
    assert log.eval.metadata is not None
    assert log.eval.metadata["knobs"] == {"n_needles": 2}


@pytest.mark.parametrize("mode", ["user_tail", "none"])
def test_modes_without_continuation_send_one_turn(mode: Any, tmp_path: Path) -> None:
    task = inspect_task("lines", lengths=1024, samples=1, prefix_mode=mode)
    sent: list[Any] = []

    def answer(messages: Any, tools: Any, choice: Any, config: GenerateConfig) -> ModelOutput:
        sent.append((messages, config))
        return reply("nothing")

    log = run(task, answer, tmp_path)
    messages, config = sent[0]
    assert [message.role for message in messages] == ["user"]
    assert "Answer with the number alone." in messages[0].text
    assert messages[0].text.endswith("REGISTER_CONTENT is <") == (mode == "user_tail")
    assert not config.stop_seqs
    assert log.samples is not None
    assert log.samples[0].metadata["prefix_mode"] == mode


def test_published_data_take_the_place_of_generated_samples(tmp_path: Path) -> None:
    path = tmp_path / "3_lines.jsonl"
    rows = [
        {"prompt": f"line {i} holds <{i + 10}>. Which?" * 40, "expected_number": i + 10, "num_lines": 3}
        for i in range(4)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    task = inspect_task("lines", data=str(path), samples=3)
    assert len(task.dataset) == 3
    log = run(task, lambda messages, *_: reply(messages[0].text[-12:]), tmp_path / "log")
    assert log.results is not None
    metrics = log.results.scores[0].metrics
    assert metrics["mean"].value == metrics["length 3"].value == 1.0
    assert log.eval.metadata is not None
    assert log.eval.metadata["text"] == "official"


def test_a_tokenizer_counts_the_lengths(byte_file: Path, byte_counter: TokenCounter) -> None:
    task = inspect_task("lines", lengths=1000, samples=2, tokenizer=str(byte_file))
    source = SampleSource("lines", str(byte_file))
    for row in task.dataset:
        assert row.metadata is not None
        sample = source.sample(row.metadata["spec"])
        total = byte_counter.count(render_prompt(sample).text) + (sample.max_new_tokens or 0)
        assert 980 < total <= 1000


@pytest.mark.slow
def test_the_command_finds_tasks_and_a_local_model(byte_file: Path, tmp_path: Path) -> None:
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(byte_file))
    tokenizer.save_pretrained(tmp_path / "model")
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=512,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(tmp_path / "model")
    command = [str(Path(sys.executable).parent / "inspect"), "eval"]
    options = ["--model", f"farspan/{tmp_path / 'model'}", "--log-dir", str(tmp_path / "logs"), "--display", "none"]
    settings = ["-T", "lengths=300,500", "-T", "samples=4", "-T", "questions_per_context=2"]
    done = subprocess.run(
        [*command, "farspan/lines", *options, *settings], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    (path,) = (tmp_path / "logs").glob("*.eval")
    log = read_eval_log(str(path))
    assert log.status == "success"
    assert log.samples is not None
    assert len(log.samples) == 8
    for sample in log.samples:
        assert 0 < sample.output.usage.output_tokens <= 20  # type: ignore[union-attr]
        assert sample.metadata["prefix_mode"] == "continue"
    assert log.eval.metadata is not None
    assert log.eval.metadata["lengths_counted_by"] == str(tmp_path / "model")


def test_small_things() -> None:
    assert listed("4k, 8k") == ["4k", "8k"]
    assert listed(4096) == [4096]
    assert target_of("4k") == 4096
    found = target_of("2k chars")
    assert not isinstance(found, int)
    assert (found.value, found.unit, found.semantics) == (2000, "chars", "context")
    assert continued("farspan") == "continue"
    assert continued("openai") == "user_tail"
    assert digest("short") == "short"
    assert len(digest("x" * 10_000)) < 700
    assert len(fours("x" * 9)) == 3


def test_bad_requests_have_one_line() -> None:
    with pytest.raises(FarspanError, match="has no task 'singel'; did you mean single"):
        inspect_task("lines", task="singel", lengths=1024)
    with pytest.raises(FarspanError, match="no knob 'colour'"):
        inspect_task("lines", lengths=1024, samples=1, colour="red")
    with pytest.raises(FarspanError, match="unknown task family"):
        inspect_task("line", lengths=1024)
    with pytest.raises(FarspanError, match="prefix_mode is one of"):
        render_prompt(LongSample(id="a", benchmark="lines", task="single", context="", question="", answers=[]), "tail")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("said", "reason", "score", "truncated", "empty"),
    [
        ("<think>It may be 7.</think>{answer}", "stop", 1.0, False, False),
        ("<think>It may be {answer}, or", "max_tokens", 0.0, True, True),
        ("It is not", "max_tokens", 0.0, True, False),
        ("none", "stop", 0.0, False, False),
    ],
)
def test_reasoning_and_cut_off_replies_are_told_from_wrong_ones(
    said: str, reason: str, score: float, truncated: bool, empty: bool, byte_file: Path, tmp_path: Path
) -> None:
    task = inspect_task("lines", lengths=[400], samples=1, tokenizer=str(byte_file), thinking_tokens=90)
    answer = task.dataset[0].target[0]
    output = reply(said.format(answer=answer))
    output.choices[0].stop_reason = reason  # type: ignore[assignment]
    log = run(task, lambda *arguments: output, tmp_path)
    assert log.samples is not None
    (sample,) = log.samples
    assert sample.scores is not None
    (found,) = sample.scores.values()
    assert found.value == score
    assert found.metadata is not None
    assert (found.metadata["truncated"], found.metadata["empty"]) == (truncated, empty)
    assert sample.metadata["prefix_mode"] == "none"
