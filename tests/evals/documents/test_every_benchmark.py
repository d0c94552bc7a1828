"""Every document benchmark end to end: on the bundled model without a socket, behind an address, under Inspect."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest
from inspect_ai import eval as inspect_eval
from inspect_ai.model import ModelOutput, ModelUsage, get_model

from farspan.cli import main
from farspan.evals.documents import benchmark
from farspan.evals.documents.asking import Fitter, RemoteVoice
from farspan.evals.documents.inspect_task import document_inspect_task
from farspan.evals.documents.run import run_documents
from farspan.evals.endpoint import EndpointSettings
from farspan.evals.tasks import DOCUMENTS
from tests.evals.documents.every_benchmark import STAND_INS
from tests.evals.documents.stand_ins import ScriptedVoice
from tests.evals.scripted_server import scripted

every = pytest.mark.parametrize("name", STAND_INS)


def test_no_benchmark_is_left_out() -> None:
    assert set(STAND_INS) == set(DOCUMENTS) - {"own_levels"}


@every
def test_the_command_runs_on_the_bundled_model_without_a_socket(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stand_in = STAND_INS[name]
    stand_in.write(tmp_path)

    def refused(*arguments: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "create_connection", refused)
    monkeypatch.setattr(socket.socket, "connect", refused)
    words = [
        "eval",
        *(f"{name}:{one}" for one in stand_in.sets),
        "--model",
        "reference",
        "--limit",
        "1",
        "--window",
        "2k",
    ]
    options = [part for key, value in stand_in.options.items() for part in ("--knob", f"{key}={value}")]
    with pytest.raises(SystemExit) as ended:
        main([*words, "--data-dir", str(tmp_path), "--out", str(tmp_path / "out"), *options])
    shown = capsys.readouterr()
    assert not ended.value.code, shown.err
    record = json.loads((tmp_path / "out" / name / "scores.json").read_text(encoding="utf-8"))
    assert record["settings"]["model"]
    assert record["files"]
    assert record["files"][0]["sha256"]
    lines = (tmp_path / "out" / name / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) >= 2  # what was asked, and an answer


@every
def test_an_address_that_says_nothing_of_use_loses_no_question(name: str, tmp_path: Path) -> None:
    stand_in = STAND_INS[name]
    stand_in.write(tmp_path)
    made = benchmark(name, **stand_in.options)
    voice = ScriptedVoice(lambda asked: "x")
    counted = run_documents(Fitter(made, "fixed"), voice, made.chosen(list(stand_in.sets)), data_dir=tmp_path)
    kinds = ("wrong", "empty", "bad", "length")
    with scripted(lambda turn, prompt: kinds[len(prompt) % len(kinds)]) as server:
        remote = RemoteVoice(EndpointSettings(url=server.url, model="m"))
        found = run_documents(Fitter(made, "fixed"), remote, made.chosen(list(stand_in.sets)), data_dir=tmp_path)
    assert len(found.scored) + found.unanswered == len(counted.scored) > 0


@every
def test_inspect_asks_every_question(name: str, tmp_path: Path) -> None:
    stand_in = STAND_INS[name]
    stand_in.write(tmp_path)
    reply = ModelOutput.from_content("mockllm/model", "Ada Winter")
    reply.usage = ModelUsage(input_tokens=1, output_tokens=1, total_tokens=2)
    task = document_inspect_task(
        name, data_dir=str(tmp_path), datasets=",".join(stand_in.sets), limit_per_set=1, **stand_in.options
    )
    model = get_model("mockllm/model", custom_outputs=[reply] * 40)
    (log,) = inspect_eval(task, model=model, log_dir=str(tmp_path / "logs"), display="none", max_samples=1)
    assert log.status == "success", log.error
    assert log.samples
    assert all(sample.metadata["prediction"] == "Ada Winter" for sample in log.samples)
    assert log.results is not None
    assert log.results.scores[0].metrics
