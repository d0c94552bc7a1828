"""Evaluating a model in this process: names, pairs, shared contexts, figures."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from farspan.evals import evaluate
from farspan.evals.core import resolve
from farspan.evals.evaluation import Answer, TaskResult, loss_bins
from farspan.evals.generate.count import TokenCounter
from farspan.evals.generate.generators import UnknownTaskError
from farspan.evals.inspect_log import write_inspect_log
from farspan.evals.run import position_edges, requests_of
from farspan.evals.tasks.family import family_class


@pytest.fixture
def tokenizer(byte_file):
    return PreTrainedTokenizerFast(tokenizer_file=str(byte_file))


@pytest.fixture
def model(tokenizer):
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=256,
        )
    ).eval()


def test_names_of_tasks():
    probes, loss = resolve("core")
    assert [probe.name for probe in probes] == ["single_lines", "multi_key", "variable_tracking", "two_hop_threads"]
    assert loss
    assert resolve(["ruler:vt"])[0][0].task == "vt"
    with pytest.raises(UnknownTaskError, match="did you mean single_lines"):
        resolve("single_line")


def test_equal_seeds_ask_equal_questions(model, tokenizer, tmp_path):
    first = evaluate(model, tokenizer, "single_lines", [600, 1200], n=8, seed=3)
    again = evaluate(model, tokenizer, "single_lines", [600, 1200], n=8, seed=3)
    assert [a.expected for a in first.headline.answers] == [a.expected for a in again.headline.answers]
    assert [a.output for a in first.headline.answers] == [a.output for a in again.headline.answers]
    shorter = [a.expected for a in first.headline.answers if a.length == 600]
    assert shorter == [a.expected for a in first.headline.answers if a.length == 1200]
    assert first.effective_length.censoring == "left"
    assert any("1 context a length" in problem for problem in first.problems())
    from inspect_ai.log import read_eval_log

    log = read_eval_log(str(write_inspect_log(first, tmp_path, "x")[0]))
    assert log.status == "success"
    assert len(log.samples) == 16


def test_questions_on_one_context_share_their_beginning(tokenizer):
    family = family_class("lines")(TokenCounter(tokenizer))
    samples = [family.sample("single", 900, index, 0, questions_per_context=4) for index in range(8)]
    requests = requests_of(samples, tokenizer)
    for group in (requests[:4], requests[4:]):
        shared = group[0].prefix_length
        assert shared > 500
        assert len({tuple(request.ids[:shared]) for request in group}) == 1


def test_a_perfect_and_a_failing_length():
    answers = tuple(
        Answer(
            id=str(index), length=length, depth=50.0, cluster=f"{length}/{index // 4}", score=score, output="1",
            expected=("1",), question="q",
        )
        for length, score in ((512, 1.0), (1024, 0.0))
        for index in range(40)
    )  # fmt: skip
    result = TaskResult(name="t", title="T", threshold=0.5, answers=answers)
    assert result.effective.value == pytest.approx(512 * 2**0.5)
    assert [cell.mean for cell in result.by_length()] == [1.0, 0.0]


def test_loss_bins_average_positions_inside_each_text():
    assert position_edges(200) == [0, 64, 96, 128, 192, 200]
    bins = loss_bins([[-1.0] * 63 + [-3.0] * 64, [-2.0] * 63 + [-4.0] * 64], [0, 64, 128])
    assert [(b.loss, b.n) for b in bins] == [(1.5, 2), (3.5, 2)]
