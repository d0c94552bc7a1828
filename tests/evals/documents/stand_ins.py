"""Small files in the forms of the published data, with texts of our own, and voices that answer by a script."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from farspan.evals.asking import Heard
from farspan.evals.documents import benchmark
from farspan.evals.documents.asking import Asked

EN = "The ferry left the harbour at seven. Its captain, Ida Brandt, had sailed it for twenty years. "
ZH = "渡轮七点离开港口。船长林海已经驾驶它二十年了。"
CODE = "def area(width, height):\n    return width * height\n\n"

ANSWERS = {
    "f1": "Ida Brandt",
    "f1_zh": "林海",
    "rouge": "the ferry left the harbour at seven",
    "rouge_zh": "渡轮七点离开港口",
    "classification": "Number",
    "count": "7",
    "retrieval": "Paragraph 4",
    "retrieval_zh": "段落4",
    "code_sim": "    return width + height",
}
CLASSES = ["Person", "Number", "Place"]


def longbench_rows(name: str, rows: int = 3, own: str = "") -> list[dict[str, object]]:
    """Rows of one set of LongBench; the lengths fall into its three buckets."""
    dataset = benchmark("longbench").datasets[name]
    text = {"zh": ZH, "code": CODE}.get(dataset.language, EN)
    summary = dataset.category == "summarization" and not name.startswith("qmsum")
    return [
        {
            "input": "" if summary or name.startswith("lcc") else f"who sails it, number {index}?",
            "context": own or text * (2 + index),
            "answers": [ANSWERS[dataset.metric]],
            "length": (1000, 5000, 9000)[index % 3],
            "dataset": name,
            "language": dataset.language,
            "all_classes": CLASSES if dataset.metric == "classification" else None,
            "_id": f"{name}-{index:04}",
        }
        for index in range(rows)
    ]


def write_longbench(folder: Path, rows: int = 3, text: str = "") -> Path:
    """`data.zip` with all sets of LongBench and LongBench-E."""
    path = folder / "zai-org__LongBench" / "data.zip"
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name in benchmark("longbench").datasets:
            lines = [json.dumps(row, ensure_ascii=False) for row in longbench_rows(name, rows, text)]
            archive.writestr(f"data/{name}.jsonl", "\n".join(lines) + "\n")
    return path


def v2_rows() -> list[dict[str, object]]:
    """Three questions with four choices."""
    return [
        {
            "_id": f"v2-{index}",
            "domain": ("Single-Document QA", "Code Repository Understanding")[index % 2],
            "sub_domain": "own",
            "difficulty": ("easy", "hard", "hard")[index],
            "length": ("short", "medium", "long")[index],
            "question": "Who sails the ferry?",
            **{f"choice_{letter}": name for letter, name in zip("ABCD", ("Ida", "Tom", "Ann", "Max"), strict=True)},
            "answer": "ABA"[index],
            "context": EN * 3,
        }
        for index in range(3)
    ]


def write_v2(folder: Path) -> Path:
    """`data.json` of LongBench v2."""
    path = folder / "zai-org__LongBench-v2" / "data.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(v2_rows()), encoding="utf-8")
    return path


class ScriptedVoice:
    """Answers by a function of what was asked, and remembers it."""

    def __init__(self, script: Callable[[Asked], str]) -> None:
        self.script = script
        self.heard: list[Asked] = []

    def ask(self, batch: Sequence[Asked]) -> list[Heard]:
        self.heard += [asked for asked in batch if not asked.too_long]
        return [
            Heard(error="too long", too_long=True) if asked.too_long else Heard(text=self.script(asked))
            for asked in batch
        ]


def gold(asked: Asked) -> str:
    """The first answer of a sample, in the form asked for."""
    answer = asked.sample.answers[0]
    return f"The correct answer is ({answer})" if asked.sample.benchmark == "longbench_v2" else answer


def write_predictions(folder: Path, by_set: Mapping[str, Sequence[Mapping[str, object]]]) -> Path:
    """Predictions as published scripts write them: a file a set, one object a line."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in by_set.items():
        lines = [json.dumps(row, ensure_ascii=False) for row in rows]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder
