"""Runs on the reference model, behind an address and by a script: cutting, sharing, going on, tables."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from farspan.engine import Engine
from farspan.errors import FarspanError
from farspan.evals.asking import Heard
from farspan.evals.documents import BenchmarkError, benchmark, sample_of
from farspan.evals.documents.asking import Asked, Fitter, LocalVoice, PromptFile, RemoteVoice, prompt_ids
from farspan.evals.documents.run import blocks, run_documents
from farspan.evals.endpoint import EndpointSettings
from farspan.evals.schema import LongSample
from farspan.models import load
from tests.evals.documents.stand_ins import EN, ScriptedVoice, gold, write_longbench, write_v2
from tests.evals.scripted_server import scripted

Loaded = tuple[PreTrainedModel, PreTrainedTokenizerBase]


@pytest.fixture(scope="module")
def reference() -> Loaded:
    return load("reference", device="cpu")


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def refused(*arguments: object) -> None:
        raise AssertionError("a socket was opened")

    with monkeypatch.context() as patch:
        patch.setattr(socket, "create_connection", refused)
        patch.setattr(socket.socket, "connect", refused)
        yield


def questions(document: str, count: int) -> list[LongSample]:
    dataset = benchmark("longbench").datasets["qasper"]
    return [
        sample_of(
            "longbench",
            dataset,
            f"q{index}",
            context=document,
            question=f"question number {index}, " + "really " * index + "?",
            answers=["x"],
            max_new_tokens=4,
        )
        for index in range(count)
    ]


@pytest.mark.parametrize("reading", ["official", "fixed"])
def test_gold_answers_are_right_everywhere(tmp_path: Path, offline: None, reading: str) -> None:
    write_longbench(tmp_path)
    write_v2(tmp_path)
    for name, sets in (("longbench", ["all"]), ("longbench_v2", ["all"])):
        made = benchmark(name)
        found = run_documents(
            Fitter(made, reading),  # type: ignore[arg-type]
            ScriptedVoice(gold),
            made.chosen(sets),
            data_dir=tmp_path,
        )
        assert all(row.value in (100.0, None) for row in found.table.rows), found.table.rows
        assert found.table.notes == []


def test_sets_have_names_for_several(tmp_path: Path) -> None:
    longbench = benchmark("longbench")
    assert len(longbench.chosen([])) == 21
    assert len(longbench.chosen(["e"])) == 13
    assert {one.name for one in longbench.chosen(["zh"])} == {
        "multifieldqa_zh", "dureader", "vcsum", "lsht", "passage_retrieval_zh",
    }  # fmt: skip
    assert [one.name for one in longbench.chosen(["code"])] == ["lcc", "repobench-p"]
    with pytest.raises(BenchmarkError, match="did you mean"):
        longbench.chosen(["hotpot"])


def test_few_shot_and_code_are_continued_as_raw_text(tmp_path: Path) -> None:
    write_longbench(tmp_path)
    made, voice = benchmark("longbench"), ScriptedVoice(gold)
    run_documents(Fitter(made, "official"), voice, made.chosen([]), data_dir=tmp_path, limit=1)
    raw = {asked.sample.task for asked in voice.heard if not asked.chat}
    assert raw == {"trec", "triviaqa", "samsum", "lsht", "lcc", "repobench-p"}
    assert all(asked.user.count(asked.sample.text) == 1 for asked in voice.heard)


def test_the_reference_model_end_to_end_from_a_folder(tmp_path: Path, reference: Loaded, offline: None) -> None:
    write_longbench(tmp_path, rows=1)
    model, tokenizer = reference
    made = benchmark("longbench")
    with Engine(model, tokenizer, enforce_context_length=False) as engine:
        found = run_documents(
            Fitter(made, "fixed", tokenizer, 480),
            LocalVoice(engine, tokenizer),
            made.chosen(["hotpotqa", "lcc", "passage_retrieval_zh"]),
            data_dir=tmp_path,
            out=tmp_path / "out",
            label="reference",
        )
    assert len(found.scored) == 3
    assert found.unanswered == found.skipped == 0
    assert all(one.n_full is not None for one in found.scored)
    found.save(tmp_path / "out" / "scores.json")
    record = json.loads((tmp_path / "out" / "scores.json").read_text(encoding="utf-8"))
    assert record["settings"]["model"] == "reference"
    assert record["files"][0]["sha256"]


def test_a_scripted_address_that_answers_says_nothing_and_refuses(tmp_path: Path) -> None:
    write_longbench(tmp_path)
    made = benchmark("longbench")
    script = {"number 0": "wrong", "number 1": "empty", "number 2": "bad"}
    with scripted(lambda turn, prompt: next(do for part, do in script.items() if part in prompt)) as server:
        voice = RemoteVoice(EndpointSettings(url=server.url, model="m"))
        found = run_documents(Fitter(made, "official"), voice, made.chosen(["hotpotqa"]), data_dir=tmp_path)
    assert [one.prediction for one in found.scored] == ["I do not know.", ""]
    assert (found.unanswered, found.record()["problems"]) == (1, {"empty": 1})
    assert any("got no answer" in note for note in found.table.notes)


def test_all_questions_on_a_document_get_it_cut_in_the_same_place(reference: Loaded) -> None:
    _, tokenizer = reference
    fitter = Fitter(benchmark("longbench"), "fixed", tokenizer, 300)
    samples = questions(EN * 60, 5)
    asked = fitter.block(samples)
    assert len({str(one.cut["cut_span"]) for one in asked}) == 1
    assert all(one.truncated for one in asked)
    assert all(len(prompt_ids(one, tokenizer)) + one.max_new_tokens <= 300 for one in asked)
    apart = fitter.asked(samples[0])
    assert apart.cut["cut_span"] != asked[0].cut["cut_span"]


def test_eighteen_questions_cost_little_more_than_their_document(tmp_path: Path, reference: Loaded) -> None:
    model, tokenizer = reference
    path = tmp_path / "prompts.json"
    path.write_text(json.dumps({"qasper": "{context}\n{input}"}))
    samples = [
        one.model_copy(update={"question": f"Who sails it, {index}?"})
        for index, one in enumerate(questions(EN * 40, 18))
    ]
    asked = Fitter(benchmark("longbench"), "fixed", tokenizer, 4096, prompts=PromptFile(path)).block(samples)
    with Engine(model, tokenizer, enforce_context_length=False) as engine:
        together = LocalVoice(engine, tokenizer).ask(asked)
        cost = engine.stats.prefill_tokens
    with Engine(model, tokenizer, enforce_context_length=False) as engine:
        voice = LocalVoice(engine, tokenizer)
        alone = [voice.ask([one])[0] for one in asked[::6]]
    assert [reply.text for reply in alone] == [reply.text for reply in together[::6]]
    assert cost <= 1.2 * len(prompt_ids(asked[0], tokenizer))


def test_what_does_not_fit_is_left_out_and_counted(tmp_path: Path, reference: Loaded) -> None:
    write_longbench(tmp_path, text=EN * 60, rows=2)
    _, tokenizer = reference
    made, voice = benchmark("longbench"), ScriptedVoice(gold)
    fitter = Fitter(made, "fixed", tokenizer, 400, truncate=False)
    found = run_documents(fitter, voice, made.chosen(["hotpotqa"]), data_dir=tmp_path)
    assert (found.skipped, len(found.scored), voice.heard) == (2, 0, [])
    assert any("do not fit" in note for note in found.table.notes)
    cut = run_documents(Fitter(made, "fixed", tokenizer, 400), voice, made.chosen(["hotpotqa"]), data_dir=tmp_path)
    assert all(one.truncated and one.cut_span is not None and one.n_kept < one.n_full for one in cut.scored)  # type: ignore[operator]
    assert cut.table.value("all", "documents not cut") is None


def test_the_official_rule_keeps_both_ends_of_the_raw_prompt(reference: Loaded) -> None:
    _, tokenizer = reference
    fitter = Fitter(benchmark("longbench"), "official", tokenizer, 800)
    (sample,) = questions("begin " + EN * 80, 1)
    asked = fitter.asked(sample)
    assert asked.cut["n_tokens_kept"] == 300
    assert asked.user.startswith("The text is a scientific article")
    assert asked.user.endswith("Answer:")


def test_a_run_goes_on_where_it_ended(tmp_path: Path) -> None:
    write_longbench(tmp_path)
    made = benchmark("longbench")
    first, second = ScriptedVoice(gold), ScriptedVoice(gold)
    datasets = made.chosen(["qasper"])
    run_documents(Fitter(made, "official"), first, datasets, data_dir=tmp_path, out=tmp_path / "o", limit=2)
    kept = tmp_path / "o" / "predictions.jsonl"
    kept.write_bytes(kept.read_bytes() + b'{"dataset": "qas')
    found = run_documents(Fitter(made, "official"), second, datasets, data_dir=tmp_path, out=tmp_path / "o")
    assert (len(first.heard), len(second.heard), len(found.scored)) == (2, 1, 3)
    with pytest.raises(FarspanError, match="another --out"):
        run_documents(Fitter(made, "fixed"), second, datasets, data_dir=tmp_path, out=tmp_path / "o")


def test_own_prompts_by_path(tmp_path: Path) -> None:
    path = tmp_path / "prompts.json"
    path.write_text(
        json.dumps({"qasper": "{{json}} {context} ## {input}", "trec": {"system": "S", "user": "{context}"}})
    )
    made = benchmark("longbench")
    (sample,) = questions("a document with {input} and {context}", 1)
    asked = Fitter(made, "fixed", prompts=PromptFile(path)).asked(sample)
    assert asked.user == f"{{json}} {sample.text} ## {sample.question}"
    for text, message in (("no document", "once"), ("{context} {nonsense}", "slots are"), ("{context", "slots are")):
        path.write_text(json.dumps({"qasper": text}))
        with pytest.raises(BenchmarkError, match=message):
            Fitter(made, "fixed", prompts=PromptFile(path)).asked(sample)
    path.write_text("[1]")
    with pytest.raises(BenchmarkError, match="no object"):
        PromptFile(path)


def test_a_question_that_names_the_place_of_the_document_is_no_second_document() -> None:
    (sample,) = questions("DOC", 1)
    odd = sample.model_copy(update={"question": "what does {context} mean?"})
    assert Fitter(benchmark("longbench"), "fixed").asked(odd).user.count("DOC") == 1


def test_blocks_end_where_a_document_ends() -> None:
    samples = [*questions("a", 20), *questions("b", 3), *questions("c", 70)]
    found = [[one.text for one in block] for block in blocks(iter(samples))]
    assert [len(block) for block in found] == [20, 64, 9]
    assert [text for block in found for text in block] == [one.text for one in samples]


def test_a_window_that_answers_alone_would_fill_is_refused_with_what_to_do(tmp_path: Path, reference: Loaded) -> None:
    write_longbench(tmp_path, rows=1)
    _, tokenizer = reference
    made, voice = benchmark("longbench"), ScriptedVoice(gold)
    fitter = Fitter(made, "fixed", tokenizer, 512)
    with pytest.raises(FarspanError) as caught:
        run_documents(fitter, voice, made.chosen(["hotpotqa", "gov_report", "qmsum"]), data_dir=tmp_path)
    message = str(caught.value)
    assert voice.heard == []
    assert "512 tokens in gov_report, qmsum" in message
    for part in ("--window", "yarn:factor=4", "leave these sets out"):
        assert part in message
    assert "\n" not in message
    run_documents(fitter, voice, made.chosen(["hotpotqa"]), data_dir=tmp_path)
    with pytest.raises(FarspanError, match=r"hotpotqa: .*--window"):
        run_documents(Fitter(made, "fixed", tokenizer, 40), voice, made.chosen(["hotpotqa"]), data_dir=tmp_path)
    left = Fitter(made, "fixed", tokenizer, 40, truncate=False)
    found = run_documents(left, voice, made.chosen(["hotpotqa", "gov_report"]), data_dir=tmp_path)
    assert (found.skipped, len(found.scored)) == (2, 0)


def test_replies_that_ended_at_the_limit_are_counted(tmp_path: Path) -> None:
    class Cut(ScriptedVoice):
        def ask(self, batch: Sequence[Asked]) -> list[Heard]:
            return [heard.model_copy(update={"truncated": True}) for heard in super().ask(batch)]

    write_longbench(tmp_path, rows=2)
    made = benchmark("longbench")
    for voice in (Cut(gold), ScriptedVoice(gold)):  # the second run reads what the first kept
        found = run_documents(
            Fitter(made, "fixed"), voice, made.chosen(["qasper"]), data_dir=tmp_path, out=tmp_path / "o"
        )
        assert found.record()["problems"] == {"hit_length_limit": 2}


def test_files_read_are_compared_with_the_published_ones(tmp_path: Path) -> None:
    write_longbench(tmp_path, rows=1)
    made = benchmark("longbench")
    found = run_documents(Fitter(made, "fixed"), ScriptedVoice(gold), made.chosen(["qasper"]), data_dir=tmp_path)
    (file,) = found.files
    assert file["published"] is False
    assert len(str(file["revision"])) == 40
    assert found.data_notes[0].startswith("data.zip is not the published file")
