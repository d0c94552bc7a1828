"""The page of evaluations: what is on it, what is refused, and the same bytes for the same runs."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest

from farspan.evals.trust import UntrustworthyError
from farspan.report import EvaluationRun, RecordError, build_evaluation_report, load_evaluation
from farspan.report.evaluation_figures import heat_panels, score_panels
from farspan.report.evaluation_tables import all_tables
from farspan.report.heat import INK_ON_DARK, INK_ON_LIGHT
from farspan.report.theme import HEAT, LIGHT, MOST_RUNS
from tests.evals.results import evaluation, task


def two() -> list[EvaluationRun]:
    """A plain model and the same with a recipe."""
    threads = task((0.4, 0.3, 0.1), name="needle_threading:thread")
    return [
        EvaluationRun("plain", evaluation(task((1.0, 0.6, 0.1)), threads)),
        EvaluationRun("yarn", evaluation(task((1.0, 0.95, 0.8)), threads, recipe="yarn:factor=4")),
    ]


def test_a_page_of_two_runs(tmp_path: Path) -> None:
    page = build_evaluation_report(two(), tmp_path)
    text = page.read_text(encoding="utf-8")
    for said in (
        "2 runs on 2 tasks",
        "How far each skill reaches",
        "yarn against plain",
        "Score against length",
        "Where it reads",
        "What became of the questions",
        "yarn:factor=4",
    ):
        assert said in text, said
    assert not re.search(r'(?:src|href)="https?:', text)
    with (tmp_path / "tables" / "comparison.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    clear = {(row["task"], row["length_tokens"]) for row in rows if row["clear"] == "True"}
    assert ("lines:single", "16384") in clear
    assert not any(name.startswith("needle") for name, _ in clear)
    again = build_evaluation_report(two(), tmp_path / "again")
    assert again.read_bytes() == page.read_bytes()


def test_one_run_says_how_far_it_reads_and_compares_nothing(tmp_path: Path) -> None:
    text = build_evaluation_report(two()[:1], tmp_path).read_text(encoding="utf-8")
    assert re.search(r"some-model reads [\d,]+ tokens of lines:single", text)
    assert "What one is to the other" not in text


def test_runs_that_cannot_be_paired_say_why(tmp_path: Path) -> None:
    first, second = two()
    other = EvaluationRun("other", second.evaluation.model_copy(update={"tokenizer": "def"}))
    text = build_evaluation_report([first, other], tmp_path).read_text(encoding="utf-8")
    assert "Not compared question by question: their lengths are counted with different tokenizers" in text


def test_published_scores_stand_beside(tmp_path: Path) -> None:
    found = task((0.9, 0.8, 0.7))
    lengths = dict(zip((1024, 4096, 16384), (4915, 9625, 16281), strict=True))
    answers = tuple(one.model_copy(update={"length": lengths[one.length]}) for one in found.answers)
    run = EvaluationRun("mine", evaluation(found.model_copy(update={"answers": answers})))
    text = build_evaluation_report([run], tmp_path).read_text(encoding="utf-8")
    assert "Beside published models" in text
    assert "longchat-13b-16k 96" in text
    panel = score_panels([run])[0]
    assert "longchat-13b-16k" in json.dumps(panel.plot.to_plotly_json())


def test_a_run_whose_scores_mean_nothing_is_refused(tmp_path: Path) -> None:
    found = task()
    silent = found.model_copy(
        update={"answers": tuple(one.model_copy(update={"output": " "}) for one in found.answers)}
    )
    with pytest.raises(UntrustworthyError, match="all 120 answers are empty"):
        build_evaluation_report([EvaluationRun("a", evaluation(silent))], tmp_path)
    assert not list(tmp_path.iterdir())
    with pytest.raises(RecordError, match=f"1 to {MOST_RUNS} runs"):
        build_evaluation_report([], tmp_path)


def test_every_color_comes_from_the_palette() -> None:
    runs = [EvaluationRun(str(i), two()[0].evaluation) for i in range(MOST_RUNS)]
    allowed = {*LIGHT.values(), *HEAT, INK_ON_DARK, INK_ON_LIGHT}
    for panel in [*score_panels(runs), *(panel for _, panels in heat_panels(runs) for panel in panels)]:
        text = json.dumps(panel.plot.to_plotly_json())
        assert set(re.findall(r"#[0-9a-fA-F]{6}\b|rgba?\([^)]*\)", text)) <= allowed


def test_tables_have_names_of_their_own_and_whole_rows() -> None:
    tables = all_tables(two())
    assert len({table.name for table in tables}) == len(tables)
    assert all(len(row) == len(table.columns) for table in tables for row in table.rows)


def test_stored_evaluations_are_read_back(tmp_path: Path) -> None:
    made = two()[0].evaluation
    (tmp_path / "scores.json").write_text(made.model_dump_json(), encoding="utf-8")
    assert load_evaluation(tmp_path) == load_evaluation(tmp_path / "scores.json") == made
    with pytest.raises(RecordError, match="give the --out folder of a finished `farspan eval`"):
        load_evaluation(tmp_path / "none")
    (tmp_path / "scores.json").write_text("{}", encoding="utf-8")
    with pytest.raises(RecordError, match="is not an evaluation"):
        load_evaluation(tmp_path)
