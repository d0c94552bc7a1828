"""The main job end to end on a model that knows nothing, killed and resumed, and what it refuses."""

import signal
import subprocess
import sys
import time

import optuna
import pytest
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig

from farspan.errors import FarspanError
from farspan.report import RunRecord
from farspan.tuning import tune
from farspan.tuning.outcome import best_trial, length_grid
from farspan.tuning.space import Proposal, Space


def test_length_grid_doubles_up_to_the_target():
    assert length_grid(512, 2048) == [256, 512, 1024, 2048]
    assert length_grid(512, 3000) == [256, 512, 1024, 2048, 3000]
    assert best_trial([]) is None


def test_a_target_below_twice_the_window_can_be_proposed(tmp_path):
    space = Space(LlamaConfig(max_position_embeddings=1024), 1024, 1536)
    study = optuna.create_study(directions=["maximize"])
    for proposal in space.opening_stretches():
        study.enqueue_trial(proposal.params())
        assert space.suggest(study.ask()) == proposal


@pytest.mark.slow
def test_says_truthfully_that_nothing_helps_and_goes_on_where_it_was(random_checkpoint, tmp_path):
    said = []
    record = tune(str(random_checkpoint), out=tmp_path, target_length=2048, budget_seconds=45, say=said.append)
    assert record.winner is None
    assert record.verdict.startswith("Nothing helps")
    assert RunRecord.load(tmp_path) == record
    assert (tmp_path / "report.html").stat().st_size > 100_000
    assert sorted((tmp_path / "logs").glob("baseline-*.eval"))
    tried = {trial.number: trial.recipe for trial in record.trials if trial.state != "baseline"}
    assert tried
    again = tune(str(random_checkpoint), out=tmp_path, target_length=2048, budget_seconds=45, say=said.append)
    kept = {trial.number: trial.recipe for trial in again.trials if trial.state != "baseline"}
    assert tried.items() <= kept.items()
    with pytest.raises(FarspanError, match="other seed"):
        tune(str(random_checkpoint), out=tmp_path, target_length=2048, seed=1, say=said.append)
    with pytest.raises(FarspanError, match="other levers"):
        tune(str(random_checkpoint), out=tmp_path, target_length=2048, levers=("yarn",), say=said.append)


@pytest.mark.slow
def test_a_killed_run_keeps_its_trials(random_checkpoint, tmp_path):
    command = [sys.executable, "-m", "farspan.cli", "tune", str(random_checkpoint), "--target-length", "2048"]
    command += ["--budget", "60s", "--levers", "yarn,ntk,linear", "--out", str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list((tmp_path / "trials").glob("*.json")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = {path.name: path.read_bytes() for path in (tmp_path / "trials").glob("*.json")}
    assert before
    assert not (tmp_path / "run.json").exists()
    # A kill between queueing a trial and taking it leaves it in the queue.
    study = optuna.load_study(study_name="tune", storage=f"sqlite:///{tmp_path / 'study.db'}")
    study.enqueue_trial(Proposal("linear", 2.0).params())
    subprocess.run(command, check=True, capture_output=True)
    after = {path.name: path.read_bytes() for path in (tmp_path / "trials").glob("*.json")}
    assert before.items() <= after.items()
    recipes = [trial.recipe for trial in RunRecord.load(tmp_path).trials]
    assert len(set(recipes)) == len(recipes)
    for trial in RunRecord.load(tmp_path).trials:
        stored = [t.params for t in study.get_trials() if t.number == trial.number]
        if trial.levers:
            assert stored[0]["positions"] == trial.levers[0]


def test_refusals_are_one_line(random_checkpoint, tmp_path):
    with pytest.raises(FarspanError, match="not above the native window"):
        tune(str(random_checkpoint), out=tmp_path / "a", target_length=1024)
    GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=64)).save_pretrained(tmp_path / "gpt2")
    from transformers import AutoTokenizer

    AutoTokenizer.from_pretrained(random_checkpoint).save_pretrained(tmp_path / "gpt2")
    with pytest.raises(FarspanError, match="cannot be stretched"):
        tune(str(tmp_path / "gpt2"), out=tmp_path / "b", target_length=4096)
