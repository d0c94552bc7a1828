"""The video tasks under Inspect, with a tiny model loaded from a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from inspect_ai import eval as inspect_eval
from inspect_ai.log import EvalLog, read_eval_log

from farspan._registry import v_niah, v_ruler
from farspan.errors import FarspanError, RecipeError
from farspan.evals.video_model import VideoModel, load_vision
from farspan.evals.video_run import needle_samples, run_video
from farspan.positions import Hope
from tests.vision_models import character_tokenizer, vision_model

SMALL: dict[str, Any] = {"height": 28, "width": 28}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("vision")
    vision_model().save_pretrained(path)
    character_tokenizer().save_pretrained(path)
    return path


def run(task: Any, logs: Path) -> EvalLog:
    (log,) = inspect_eval(task, model="none", log_dir=str(logs), display="none")
    assert log.status == "success", log.error
    return read_eval_log(log.location)


@pytest.mark.slow
def test_forced_scores_are_those_of_the_harness(folder: Path, tmp_path: Path) -> None:
    recipe = "hope:inference_scale=0.75"
    kept = tmp_path / "kept"
    log = run(v_niah(str(folder), frames="6,9", depths=2, recipe=recipe, cache=str(kept), **SMALL), tmp_path)
    assert log.results is not None
    metrics = log.results.scores[0].metrics
    assert {"mean", "length 6", "length 9", "depth 0", "depth 100", "task needle"} <= set(metrics)
    asked = VideoModel(*load_vision(folder, device="cpu"))
    with Hope(inference_scale=0.75)(asked.model):
        expected = run_video(lambda sample: float(asked.forced(sample)), needle_samples([6, 9], 2, **SMALL))
    assert metrics["mean"].value == pytest.approx(expected.average)
    assert log.samples is not None
    assert len(log.samples) == 20
    assert len(list(kept.iterdir())) == 1


@pytest.mark.slow
def test_what_a_model_says_is_in_the_log(folder: Path, tmp_path: Path) -> None:
    log = run(v_ruler(str(folder), task="count,order", frames=[16], samples=2, **SMALL), tmp_path)
    assert log.samples is not None
    assert len(log.samples) == 4
    assert all(isinstance(sample.output.completion, str) for sample in log.samples)
    assert {sample.metadata["task"] for sample in log.samples} == {"count", "order"}


def test_bad_input_is_refused_before_anything_is_loaded() -> None:
    with pytest.raises(FarspanError, match="frames are whole numbers"):
        v_niah("nowhere", frames="many")
    with pytest.raises(FarspanError, match="at least 1 frame"):
        v_niah("nowhere", frames=0)
    with pytest.raises(FarspanError, match="choose forced or generate"):
        v_niah("nowhere", frames=1, scoring="guessed")  # type: ignore[arg-type]
    with pytest.raises(RecipeError, match="lever 'hope'"):
        v_niah("nowhere", frames=1, recipe="hope:gamma=2")
    with pytest.raises(FarspanError, match="has no task 'colour'"):
        v_ruler("nowhere", task="colour", frames=40)
