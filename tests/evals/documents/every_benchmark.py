"""Each document benchmark by a few rows in its published layout: a writer, and the sets that the rows fill."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from tests.evals.documents.stand_ins import write_longbench, write_v2
from tests.evals.tasks import test_cnnsum, test_l_eval, test_longbench_pro, test_loogle, test_lv_eval
from tests.evals.tasks.document_rows import write_jsonl


class StandIn(NamedTuple):
    """write : puts the files into a folder; sets : that they fill; options : of the benchmark"""

    write: Callable[[Path], object]
    sets: tuple[str, ...]
    options: Mapping[str, object] = {}


def _pro(folder: Path) -> None:
    rows = [
        test_longbench_pro.row(0, "T3.2 Single-Hop Fact QA"),
        test_longbench_pro.row(1, "T4.2 Query-Focused Summary"),
    ]
    (folder / "longbench_pro.json").write_text(json.dumps(rows), encoding="utf-8")


def _l_eval(folder: Path) -> None:
    for name in ("tpo", "financial_qa"):
        write_jsonl(folder / f"{name}.jsonl", [test_l_eval.document(name)])


def _loogle(folder: Path) -> None:
    write_jsonl(folder / "longdep_qa.jsonl", [test_loogle.old(test_loogle.LONG)])
    write_jsonl(
        folder / "shortdep_cloze.jsonl", [test_loogle.old([{"Q": "<mask-0> went", "A": test_loogle.MASKS, "S": "x"}])]
    )


def _cnnsum(folder: Path) -> None:
    write_jsonl(folder / "cnnsum_L_16k.jsonl", test_cnnsum.rows()[:1])


STAND_INS: dict[str, StandIn] = {
    "longbench": StandIn(write_longbench, ("hotpotqa", "lcc")),
    "longbench_v2": StandIn(write_v2, ("all",)),
    "longbench_pro": StandIn(_pro, ("8k-en",), {"checked": False}),
    "l_eval": StandIn(_l_eval, ("tpo", "financial_qa")),
    "lv_eval": StandIn(test_lv_eval.folder, ("cmrc_mixup_16k", "hotpotwikiqa_mixup_16k")),
    "loogle": StandIn(_loogle, ("longdep_qa", "shortdep_cloze")),
    "cnnsum": StandIn(_cnnsum, ("L",), {"checked": False}),
}
