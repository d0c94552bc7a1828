"""Models asked about videos: the harness against whole passes of transformers, caches, both ways of scoring, grids."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from farspan.errors import ModelNotFound
from farspan.evals.tasks.video_needles import VideoRuler, VideoSample, VisualNeedle, family_of
from farspan.evals.video_model import MEAN, STD, VideoModel, VideoModelError, load_vision, patches_of
from farspan.evals.video_run import needle_samples, ruler_samples, run_video
from farspan.positions import Hope
from tests.vision_models import KINDS, VIDEO, character_tokenizer, vision_model

SMALL = {"height": 28, "width": 28}
every_kind = pytest.mark.parametrize("kind", KINDS)


def needle(frames: int = 12, index: int = 6, seed: int = 0, **knobs: object) -> VideoSample:
    return VisualNeedle().sample("needle", frames, index, seed, **{**SMALL, **knobs})


def whole_pass(model: torch.nn.Module, asked: VideoModel, sample: VideoSample, text: str) -> torch.Tensor:
    """Logits behind the video by one pass of transformers over pixels and tokens."""
    before, after = asked.prompt(sample)
    after = after + asked.tokenizer.encode(text, add_special_tokens=False)
    ids = torch.tensor([[*before, *[VIDEO] * sample.tokens(), *after]])
    with torch.no_grad():
        return model(
            input_ids=ids,
            mm_token_type_ids=2 * (ids == VIDEO).int(),
            pixel_values_videos=torch.from_numpy(patches_of(list(sample.video()))),
            video_grid_thw=torch.tensor([sample.grid()]),
            use_cache=False,
        ).logits[0, -len(after) :]


def test_patches_are_those_of_a_walk_over_the_frame() -> None:
    frame = np.random.default_rng(0).integers(0, 255, (56, 84, 3), dtype=np.uint8)
    found = patches_of([frame, frame])
    assert found.shape == (2 * 4 * 6, 3 * 2 * 14 * 14)
    expected = []
    for top in range(0, 56, 28):
        for left in range(0, 84, 28):
            for y in (top, top + 14):
                for x in (left, left + 14):
                    patch = (frame[y : y + 14, x : x + 14] / 255 - np.array(MEAN)) / np.array(STD)
                    expected.append([patch[..., channel] for channel in range(3) for _ in range(2)])
    np.testing.assert_allclose(found[:24], np.array(expected).reshape(24, -1), rtol=1e-5, atol=1e-5)
    assert np.array_equal(found[24:], found[:24])
    with pytest.raises(VideoModelError, match="use multiples of 28"):
        patches_of([frame[:30]])


@every_kind
@pytest.mark.parametrize("knobs", [SMALL, {"height": 56, "width": 84}])
def test_pieces_give_what_one_pass_over_pixels_gives(kind: str, knobs: dict[str, int]) -> None:
    model, sample = vision_model(kind), needle(9, **knobs)
    for lever in (Hope(inference_scale=0.75), Hope(layout="mrope")):
        with lever(model):
            for chunk, group in ((7, 4), (4096, 32)):
                asked = VideoModel(model, character_tokenizer(), chunk=chunk, group=group)
                before, after = asked.prompt(sample)
                hidden, _, following = asked._read(sample, before, after)
                logits = model.lm_head(hidden)[0, -len(after) :]
                torch.testing.assert_close(logits, whole_pass(model, asked, sample, ""), rtol=0, atol=2e-4)
                assert (
                    following
                    == float(
                        model.model.get_rope_index(
                            torch.tensor([[*before, *[VIDEO] * sample.tokens(), *after]]),
                            video_grid_thw=torch.tensor([sample.grid()]),
                        )[0][0, 0, -1]
                    )
                    + 1
                )


@every_kind
def test_forced_scoring_is_greedy_generation_where_the_answer_is_one_token(kind: str) -> None:
    outcomes = set()
    for seed in range(12):
        model = vision_model(kind, seed)
        with Hope(inference_scale=0.75)(model):
            asked = VideoModel(model, character_tokenizer(), chunk=64)
            plain = needle(8, index=6, seed=seed)
            said = asked.generate(plain, max_new_tokens=1)
            # A random model never knows the answer: what it says is made the answer of a second sample.
            for sample in (plain, plain.model_copy(update={"answers": (said or "A",)})):
                assert len(sample.answer) == 1
                assert asked.forced(sample) == (said == sample.answer)
                outcomes.add(asked.forced(sample))
    assert outcomes == {True, False}


@every_kind
def test_generation_goes_on_as_whole_passes_do(kind: str) -> None:
    model, sample = vision_model(kind, 3), needle(8)
    with Hope(inference_scale=0.75)(model):
        asked = VideoModel(model, character_tokenizer(), chunk=16)
        said = asked.generate(sample, max_new_tokens=6)
        text = ""
        while len(text) < 6 and "\n" not in text.lstrip():
            text += asked.tokenizer.decode([int(whole_pass(model, asked, sample, text)[-1].argmax())])
        assert said == text
        assert asked.forced(sample.model_copy(update={"answers": (said,)}))
        assert not asked.forced(sample.model_copy(update={"answers": (said[:-1] + ("a" if said[-1] != "a" else "b"),)}))


def test_embedded_frames_are_kept_and_grown(tmp_path: Path) -> None:
    model = vision_model()
    drawn = []

    class Counting(VideoModel):
        def _embedded(self, frames):  # type: ignore[no-untyped-def]
            found = super()._embedded(frames)
            drawn.append(len(found))
            return found

    asked = Counting(model, character_tokenizer(), cache=tmp_path)
    first = asked.embed(needle(12))
    assert drawn == [12, 1]
    assert first.shape == (13, 1, 64)
    asked.embed(needle(20))
    assert drawn == [12, 1, 8, 1]
    again = Counting(model, character_tokenizer(), cache=tmp_path)
    assert torch.equal(again.embed(needle(12)), first)
    assert drawn == [12, 1, 8, 1, 1]
    assert len(list(tmp_path.iterdir())) == 1
    other = Counting(vision_model(seed=1), character_tokenizer(), cache=tmp_path)
    assert not torch.equal(other.embed(needle(12)), first)
    assert drawn[-2:] == [12, 1]
    plain = VideoModel(model, character_tokenizer(), group=3)
    torch.testing.assert_close(plain.embed(needle(12)), first, rtol=0, atol=1e-5)


def test_chat_templates_hold_the_video_and_the_instruction() -> None:
    tokenizer = character_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}user: {{ m.content }}\n{% endfor %}assistant: "
    asked = VideoModel(vision_model(), tokenizer)
    before, after = asked.prompt(needle())
    assert tokenizer.decode(before[:-1]) == "user: "
    assert tokenizer.decode(after[1:]).endswith(f"{needle().instruction}\nassistant: ")
    tokenizer.chat_template = "nothing"
    with pytest.raises(VideoModelError, match="does not repeat"):
        asked.prompt(needle())


def oracle(sample: VideoSample) -> float:
    family = family_of(sample.benchmark)
    return family.score(sample, ", ".join(family.solve(sample)))


def test_an_oracle_scores_one_in_every_cell_and_a_silent_model_nothing() -> None:
    result = run_video(oracle, needle_samples([10, 30], **SMALL))
    assert result.average == 1.0
    assert len(result.records) == 2 * 6 * 5
    lengths, depths, rows = result.heat()
    assert lengths == [10, 30]
    assert depths == [0, 20, 40, 60, 80, 100]
    assert np.array(rows).shape == (6, 2)
    assert run_video(lambda sample: 0.0, needle_samples([10], **SMALL)).average == 0.0
    ruler = run_video(oracle, ruler_samples(frames=[20], n=6, **SMALL))
    assert ruler.average == 1.0
    assert {task for task, _, _ in ruler.cells()} == set(VideoRuler.tasks)
    assert len(ruler.heat("single")[1]) == 6


def test_a_random_model_runs_through_the_grid_both_ways() -> None:
    asked = VideoModel(vision_model(), character_tokenizer())
    with Hope()(asked.model):
        result = run_video(lambda sample: float(asked.forced(sample)), needle_samples([6], depths=2, **SMALL))
        assert 0 <= result.average <= 0.5
        said = run_video(
            lambda sample: VideoRuler.score(sample, asked.generate(sample)),
            ruler_samples(["count"], frames=[16], n=2, **SMALL),
        )
    assert len(said.records) == 2
    assert said.benchmark == "v_ruler"


def test_models_are_loaded_from_folders(tmp_path: Path) -> None:
    model = vision_model()
    model.save_pretrained(tmp_path)
    character_tokenizer().save_pretrained(tmp_path)
    loaded, tokenizer = load_vision(tmp_path, device="cpu")
    sample = needle()
    assert VideoModel(loaded, tokenizer).generate(sample) == VideoModel(model, character_tokenizer()).generate(sample)
    with pytest.raises(ModelNotFound, match="as a vision-language model"):
        load_vision("reference")
    llama = LlamaConfig(hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, vocab_size=9)
    with pytest.raises(VideoModelError, match="give a model of type qwen2_vl"):
        VideoModel(AutoModelForCausalLM.from_config(llama), character_tokenizer())
