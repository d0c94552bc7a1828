"""The perception map: a reader with a known window gets that window, and both kinds of model can be asked."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from farspan.engine import DiffusionConfig, Engine, ModelDenoiser, generate_masked_diffusion
from farspan.errors import FarspanError
from farspan.evals import local_perception
from farspan.evals.perception import Perception, fill_by_denoiser, fill_by_engine
from farspan.models import reference_path
from tests.diffusion_models import ids_of, model_of


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    loaded: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(reference_path())
    return loaded


class NearReader:
    """Answers from the last so many tokens of the prompt."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, window: int) -> None:
        self.tokenizer = tokenizer
        self.window = window

    def __call__(self, prompts: Sequence[Sequence[int]], lengths: Sequence[int]) -> list[list[int]]:
        answers = []
        for prompt, length in zip(prompts, lengths, strict=True):
            text = str(self.tokenizer.decode(list(prompt[-self.window :])))
            asked = text.rpartition("line ")[2].partition(":")[0]
            found = re.search(rf"line {re.escape(asked)}: REGISTER_CONTENT is <(\d+)>", text)
            ids = self.tokenizer(found[1] if found else "0", add_special_tokens=False)["input_ids"]
            answers.append((list(ids) + [0] * length)[:length])
        return answers


@pytest.mark.parametrize("window", [150, 300])
def test_a_reader_of_the_nearest_tokens_has_their_window(window: int, tokenizer: PreTrainedTokenizerBase) -> None:
    found = local_perception(NearReader(tokenizer, window), tokenizer, [256, 512], depths=range(0, 101, 20), n=1)
    assert len(found.accuracy) == len(found.distances) == 2
    for accuracy, distances in zip(found.accuracy, found.distances, strict=True):
        assert list(distances) == sorted(distances, reverse=True)
        for share, distance in zip(accuracy, distances, strict=True):
            if distance < window - 40:
                assert share == 1
            if distance > window + 40:
                assert share == 0
    assert window - 140 < found.window() < window + 40
    assert found.window(threshold=2.0) == 0


def test_a_map_is_data_and_nonsense_is_refused(tokenizer: PreTrainedTokenizerBase) -> None:
    found = local_perception(NearReader(tokenizer, 100), tokenizer, [200], depths=[0, 100], n=1)
    assert Perception.model_validate_json(found.model_dump_json()) == found
    with pytest.raises(FarspanError, match="at least one length"):
        local_perception(NearReader(tokenizer, 100), tokenizer, [], n=1)
    with pytest.raises(FarspanError, match="no single needle"):
        local_perception(NearReader(tokenizer, 100), tokenizer, [400], task="multi", n=1)


def test_a_denoiser_fills_in_batches_what_it_fills_in_alone() -> None:
    denoiser = ModelDenoiser(model_of())
    prompts = [ids_of(length, seed=length)[0].tolist() for length in (9, 4, 7, 6)]
    lengths = [3, 2, 3, 3]
    alone = [
        generate_masked_diffusion(
            denoiser, torch.tensor([prompt]), DiffusionConfig(length, length, length, early_stop=False)
        )[0, len(prompt) :].tolist()
        for prompt, length in zip(prompts, lengths, strict=True)
    ]
    for batch_tokens in (1, 25, 1000):
        assert fill_by_denoiser(denoiser, batch_tokens=batch_tokens)(prompts, lengths) == alone


def test_an_engine_fills_in_its_greedy_continuation(tokenizer: PreTrainedTokenizerBase) -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=2,
        eos_token_id=None,
        pad_token_id=1,
    )
    model = LlamaForCausalLM(config).eval()
    prompt = list(range(100, 110))
    with Engine(model, tokenizer) as engine:
        found = fill_by_engine(engine)([prompt, prompt[:5]], [4, 2])
    expected = model.generate(torch.tensor([prompt]), max_new_tokens=4, do_sample=False, pad_token_id=1)[0, 10:]
    assert found[0] == expected.tolist()
    assert len(found[1]) == 2
