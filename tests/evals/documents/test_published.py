"""Published scores belong to rows that the tables have, and agree with their own averages."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean

import pytest

from farspan.evals.documents import benchmark
from farspan.evals.documents.asking import Fitter
from farspan.evals.documents.published import published_scores
from farspan.evals.documents.run import run_documents
from farspan.evals.tasks.l_eval import CLOSED
from tests.evals.documents.every_benchmark import STAND_INS
from tests.evals.documents.stand_ins import ScriptedVoice, gold


@pytest.mark.parametrize("name", ["longbench", "longbench_v2", "longbench_pro", "l_eval", "lv_eval", "loogle"])
def test_a_table_finds_its_published_rows(name: str, tmp_path: Path) -> None:
    stand_in, known = STAND_INS[name], published_scores(name)
    assert known is not None
    stand_in.write(tmp_path)
    made = benchmark(name, **stand_in.options)
    found = run_documents(
        Fitter(made, "official"), ScriptedVoice(gold), made.chosen(list(stand_in.sets)), data_dir=tmp_path
    )
    shown = [row for row in found.table.rows if known.of(row.group, row.name)]
    assert shown
    assert all(0 <= score <= 100 for row in shown for score in known.of(row.group, row.name).values())


def test_averages_are_those_of_their_parts() -> None:
    l_eval, pro = published_scores("l_eval"), published_scores("longbench_pro")
    assert l_eval is not None
    assert pro is not None
    for groups in l_eval.scores.values():
        if "overall" in groups:
            closed = [groups["dataset"][name] for name in ("coursera", "gsm100", "quality", "tpo", "codeU", "sci_fi")]
            assert fmean(closed) == pytest.approx(groups["overall"]["closed"], abs=0.05)
    assert {"coursera", "gsm100", "quality", "tpo", "codeU", "sci_fi"} < set(CLOSED)
    for model, groups in pro.scores.items():
        assert fmean(groups["language"].values()) == pytest.approx(groups["overall"]["mean"], abs=0.02), model
        assert fmean(groups["token_length"].values()) == pytest.approx(groups["overall"]["mean"], abs=0.06), model
