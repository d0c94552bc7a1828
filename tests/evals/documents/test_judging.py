"""Judges: by address and by name, verdicts kept, failures counted, and nothing scored in silence."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from farspan.evals.documents import BenchmarkError, benchmark
from farspan.evals.documents.base import Ask, JudgeSilent
from farspan.evals.documents.judging import EndpointJudge, InspectJudge, JudgeError, judge_of, judged_run
from farspan.evals.documents.run import DocumentRun
from farspan.evals.documents.score import score_files
from farspan.evals.endpoint import EndpointSettings
from tests.evals.documents.stand_ins import write_predictions
from tests.evals.scripted_server import scripted

PAIRS = [{"Q": f"Who is number {i}?", "A": "Ada Winter", "S": "x"} for i in range(4)]


class ScriptedJudge:
    """Replies by a function of the prompt; None is no reply."""

    def __init__(self, script: Callable[[str], str | None], name: str = "scripted") -> None:
        self.script, self.name = script, name
        self.prompts: list[str] = []

    @asynccontextmanager
    async def asked(self) -> AsyncIterator[Ask]:
        async def ask(prompt: str) -> str:
            self.prompts.append(prompt)
            reply = self.script(prompt)
            if reply is None:
                raise JudgeSilent("no reply")
            return reply

        yield ask


def by_number(prompt: str) -> str | None:
    """True for the first question, no reply to the second, nonsense on the third, False for the last."""
    return {"0": "True.", "1": None, "2": "perhaps", "3": "False"}[prompt.split("number ")[1][0]]


def answered(folder: Path, reading: str = "fixed") -> DocumentRun:
    row = {"qa_pairs": PAIRS, "llm_output": ["Ada"] * 4, "output": ["Ada Winter"] * 4}
    path = write_predictions(folder, {"longdep_qa": [row]})
    return score_files(benchmark("loogle"), path, reading)  # type: ignore[arg-type]


@pytest.mark.parametrize(("reading", "value", "n"), [("fixed", 33.33, 3), ("official", 50.0, 2)])
def test_failures_are_counted_and_never_scored(tmp_path: Path, reading: str, value: float, n: int) -> None:
    found = judged_run(answered(tmp_path, reading), ScriptedJudge(by_number))
    (row,) = [row for row in found.table.rows if row.group == "judge"]
    assert (row.name, row.value, row.n) == ("longdep_qa", value, n)
    notes = "\n".join(found.table.notes)
    assert "judge: 1 of 4 answers got no reply" in notes
    assert "judge: 1 of 4 answers got a reply without a readable verdict" in notes
    assert f"{4 - n} of 4 answers have no verdict and are in no average of the judge" in notes
    record = found.record()["judge"]
    assert record == {"name": "scripted", "n": 4, "verdicts": n, "judge_unreadable": 1, "judge_silent": 1}
    assert found.table.value("longdep_qa", "f1") == answered(tmp_path, reading).table.value("longdep_qa", "f1")


def test_a_judge_that_never_replies_gives_no_score(tmp_path: Path) -> None:
    found = judged_run(answered(tmp_path), ScriptedJudge(lambda prompt: None))
    (row,) = [row for row in found.table.rows if row.group == "judge"]
    assert (row.value, row.n) == (None, 0)
    assert any("4 of 4 answers have no verdict" in note for note in found.table.notes)
    assert "judge: 4 of 4 answers got no reply: no reply" in found.table.notes


def test_verdicts_are_kept_and_only_what_failed_is_asked_again(tmp_path: Path) -> None:
    keep = tmp_path / "judgements.jsonl"
    first, second = ScriptedJudge(by_number), ScriptedJudge(lambda prompt: "True")
    judged_run(answered(tmp_path / "p"), first, keep=keep)
    keep.write_bytes(keep.read_bytes() + b'{"key": ["half')
    found = judged_run(answered(tmp_path / "p"), second, keep=keep)
    assert (len(first.prompts), len(second.prompts)) == (4, 1)
    assert found.record()["judge"]["judge_silent"] == 0  # type: ignore[index]
    third = judged_run(answered(tmp_path / "p"), ScriptedJudge(by_number), keep=keep)
    assert third.table.value("judge", "longdep_qa") == 50.0
    with pytest.raises(JudgeError, match="verdicts of scripted"):
        judged_run(answered(tmp_path / "p"), ScriptedJudge(by_number, "another"), keep=keep)
    keep.write_text("[1]\n{}\n", encoding="utf-8")
    with pytest.raises(JudgeError, match="no file of verdicts"):
        judged_run(answered(tmp_path / "p"), ScriptedJudge(by_number), keep=keep)


def test_win_rates_are_over_verdicts_and_a_baseline_is_asked_for_first(tmp_path: Path) -> None:
    rows = [{"query": f"Say {i}.", "gt": "right", "mine_pred": "mine", "evaluation": "f1"} for i in range(2)]
    path = write_predictions(tmp_path / "pred", {"financial_qa": rows, "multidoc_qa": rows[:1]})
    with pytest.raises(BenchmarkError, match="baseline=FILE"):
        judged_run(score_files(benchmark("l_eval"), path), ScriptedJudge(lambda prompt: "[[A]]"))
    other = (
        write_predictions(
            tmp_path, {"base": [{"query": row["query"], "gt": "right", "base_pred": "base"} for row in rows]}
        )
        / "base.jsonl"
    )
    made = benchmark("l_eval", baseline=str(other))

    def reply(prompt: str) -> str | None:
        # the first question is won in the one order that gets a reply, the second drawn by liking the first place
        if "Say 0." in prompt:
            return "[[A]]" if "Answer A: mine" in prompt else None
        return "[[A]]"

    found = judged_run(score_files(made, path), ScriptedJudge(reply))
    values = {row.name: row.value for row in found.table.rows if row.group == "judge"}
    # verdicts: won | won, lost || won; the mean is over the three of a set, not over its two answers
    assert values == {"financial_qa": 66.67, "multidoc_qa": 100.0, "all sets": 75.0}


def test_an_address_is_asked_and_its_silence_counted(tmp_path: Path) -> None:
    def behaviour(turn: int, prompt: str) -> str:
        return "bad" if "number 1" in prompt else "wrong"

    with scripted(behaviour) as server:
        judge = EndpointJudge(EndpointSettings(url=server.url, model="m", pause=0, attempts=2))
        found = judged_run(answered(tmp_path), judge)
        asked = {str(request["temperature"]) for request in server.requests}
    assert asked == {"0.0"}
    assert found.judge == f"m@{server.url}"
    # the server says 'I do not know.' to all but one
    assert found.record()["judge"] == {
        "name": found.judge,
        "n": 4,
        "verdicts": 3,
        "judge_unreadable": 3,
        "judge_silent": 1,
    }


def test_a_model_of_inspect_is_asked(tmp_path: Path) -> None:
    found = judged_run(answered(tmp_path), InspectJudge("mockllm/model"))
    # it says one fixed sentence, which is no verdict, or cannot count its tokens without a network
    record = found.record()["judge"]
    assert isinstance(record, dict)
    assert record["judge_unreadable"] + record["judge_silent"] == 4


def test_names_of_judges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", "secret")
    judge = judge_of("org/name@http://host:1/v1", key_env="JUDGE_KEY")
    assert isinstance(judge, EndpointJudge)
    assert (judge.settings.model, judge.settings.key.get_secret_value()) == ("org/name", "secret")
    assert "secret" not in judge.name
    assert judge_of("mockllm/model").name == "mockllm/model"
    assert judge_of("reference").name == "farspan/reference"
    for text, message in (
        ("http://host/v1", "NAME@http://host/v1"),
        ("nobody/nothing", "provider/model"),
        ("x@http:///v1", "no address"),
    ):
        with pytest.raises(JudgeError, match=message):
            judge_of(text)


def test_a_benchmark_of_rules_has_nothing_for_a_judge(tmp_path: Path) -> None:
    row = {"pred": "Ida", "answers": ["Ida Brandt"], "all_classes": None, "length": 10}
    run = score_files(benchmark("longbench"), write_predictions(tmp_path, {"hotpotqa": [row]}))
    with pytest.raises(BenchmarkError, match="scored by rules"):
        judged_run(run, ScriptedJudge(by_number))


def test_records_are_json(tmp_path: Path) -> None:
    found = judged_run(answered(tmp_path / "p"), ScriptedJudge(by_number))
    found.save(tmp_path / "scores.json")
    assert json.loads((tmp_path / "scores.json").read_text(encoding="utf-8"))["judge"]["n"] == 4
