"""Lines: as many as asked, keys distinct, updates, decoys, published files."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from farspan.errors import FarspanError
from farspan.evals.generate import LengthTargetError, TokenCounter
from farspan.evals.tasks.family import KnobError
from farspan.evals.tasks.line_keys import KEY_OPTIONS
from farspan.evals.tasks.lines import HEADER, LINE, Lines, read_longeval


@pytest.fixture(scope="module")
def lines(byte_counter: TokenCounter) -> Lines:
    return Lines(byte_counter)


def test_wording(lines: Lines) -> None:
    sample = lines.sample("single", 1000, 0, 0, depth=0)
    key = re.findall(r"line (\S+) hold", sample.question)[0]
    assert sample.text.startswith(
        "Below is a record of lines. Each line has a key and a register that holds a number. Remember them all.\n"
        f"line {key}: REGISTER_CONTENT is <{sample.answers[0]}>\n"
    )
    assert sample.question == f"Question: which number does line {key} hold?\n"
    assert sample.answer_prefix == f"Answer: line {key}: REGISTER_CONTENT is <"
    assert re.fullmatch(r"[a-z]+-[a-z]+", key)
    assert sample.metadata["stop"] == ["\n"]


@pytest.mark.parametrize("key", KEY_OPTIONS)
@pytest.mark.parametrize("index", [0, 5, 10])
def test_a_record_has_the_lines_asked_for(lines: Lines, key: str, index: int) -> None:
    sample = lines.sample("single", 0, index, 0, n_lines=200, key=key)
    entries = LINE.findall(sample.text)
    keys, values = [key for key, _ in entries], [int(value) for _, value in entries]
    assert len(entries) == sample.text.removeprefix(HEADER).count("\n") == 200
    assert len(set(keys)) == len(set(values)) == 200
    assert all(1 <= value <= 50_000 for value in values)
    target = re.findall(r"line (\S+) hold", sample.question)[0]
    whole = re.compile(rf"line {target}\b")
    assert len(whole.findall(sample.text + sample.question)) == 2
    assert keys.index(target) == sample.metadata["line_numbers"][0] == round(199 * index / 10)  # type: ignore[index]
    assert lines.solve(sample) == sample.answers
    if key == "lrt":
        assert keys == [str(number) for number in range(1, 201)]


def test_a_longer_record_starts_with_the_shorter_one(lines: Lines) -> None:
    short, long = (lines.sample("single", length, 10, 0).text for length in (1500, 3000))
    assert long.startswith(short[: short.rindex("line ")])


def test_values_may_repeat_when_asked(lines: Lines) -> None:
    sample = lines.sample("single", 0, 0, 0, n_lines=3000, distinct_values=False)
    values = [value for _, value in LINE.findall(sample.text)]
    assert len(set(values)) < len(values)


@pytest.mark.parametrize("depth", [0, 50, 100])
def test_the_last_of_equal_keys_counts(lines: Lines, depth: float) -> None:
    sample = lines.sample("update", 2000, 0, 0, depth=depth, questions_per_context=1)
    key = re.findall(r"line (\S+) hold", sample.question)[0]
    held = [value for name, value in LINE.findall(sample.text) if name == key]
    assert len(held) == 2
    assert held[1] == sample.answers[0] != held[0]
    assert lines.score(sample, f"{held[0]}>") == 0.0


def test_decoys_differ_in_one_character(lines: Lines) -> None:
    sample = lines.sample("decoy", 2000, 3, 0)
    key = re.findall(r"line (\S+) hold", sample.question)[0]
    near = [
        name
        for name, _ in LINE.findall(sample.text)
        if len(name) == len(key) and sum(a != b for a, b in zip(name, key, strict=True)) == 1
    ]
    assert len(near) >= 2
    assert len([span for span in sample.evidence_spans if span.role == "distractor"]) == 2


def test_several_lines_are_scored_by_share(lines: Lines) -> None:
    sample = lines.sample("multi", 2000, 0, 0)
    assert len(sample.answers) == 4
    assert sample.depth is None
    assert lines.score(sample, " ".join(sample.answers[:3])) == 0.75
    assert lines.scores(sample, ", ".join(sample.answers))["all_correct"] == 1.0


def test_first_and_last_number_rules(lines: Lines) -> None:
    sample = lines.sample("single", 1000, 0, 0)
    answer = sample.answers[0]
    assert lines.scores(sample, f"line 7: {answer}") == {"score": 1.0, "first": 0.0, "no_answer": 0.0}
    assert lines.scores(sample, f"{answer}, line 7") == {"score": 0.0, "first": 1.0, "no_answer": 0.0}
    assert lines.scores(sample, "none")["no_answer"] == 1.0


def test_refusals(lines: Lines) -> None:
    with pytest.raises(KnobError, match="only count"):
        lines.sample("update", 2000, 0, 0, key="lrt")
    with pytest.raises(FarspanError, match="46656"):
        lines.sample("single", 0, 0, 0, key="abc", n_lines=50_000)
    with pytest.raises(LengthTargetError, match="need 8"):
        lines.sample("multi", 0, 0, 0, n_lines=7, questions_per_context=2)


def test_always_the_first_line_is_right_once_in_n(lines: Lines) -> None:
    hits = 0.0
    for index in range(60):
        sample = lines.sample("single", 0, index, 0, n_lines=6, depths=6)
        hits += lines.score(sample, LINE.findall(sample.text)[0][1])
    assert hits == 10


def test_published_cases_are_read(tmp_path: Path, lines: Lines) -> None:
    row = {
        "random_idx": ["bright-lake", 1],
        "expected_number": 40231,
        "num_lines": 2,
        "token_size": 40,
        "correct_line": "line bright-lake: REGISTER_CONTENT is <40231>",
        "prompt": "line a-b: REGISTER_CONTENT is <5>\nline bright-lake: ... <40231>\nWhich number?",
    }
    path = tmp_path / "2_lines.jsonl"
    path.write_text(json.dumps(row) + "\n", encoding="utf-8")
    (sample,) = read_longeval(path)
    assert sample.text == row["prompt"]
    assert sample.answers == ["40231"]
    assert lines.score(sample, "The number is <40231>.") == 1.0
    path.write_text(json.dumps({"prompt": "x"}) + "\n", encoding="utf-8")
    with pytest.raises(FarspanError, match="expected_number"):
        read_longeval(path)
