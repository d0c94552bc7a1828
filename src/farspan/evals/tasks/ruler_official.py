"""The published texts of RULER, where the user has them: essays, question sets, and whole sample files.

Nothing is downloaded. Files keep the names of the published pipeline: `PaulGrahamEssays.json`, `squad.json`,
`hotpotqa.json` and `<task>/validation.jsonl`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

from farspan.evals.generate.haystack.base import CorpusHaystack, fingerprint_of
from farspan.evals.generate.haystack.text import split_text
from farspan.evals.rows import RowError, read_rows, required
from farspan.evals.schema import LongSample
from farspan.evals.tasks.ruler_tasks import TASKS

ESSAYS = "PaulGrahamEssays.json"
QUESTION_FILES = {"qa_1": "squad.json", "qa_2": "hotpotqa.json"}


class EssayHaystack(CorpusHaystack):
    """Sentences of one long text, read from its start for every seed."""

    joiner = " "
    starts = 1

    def __init__(self, text: str) -> None:
        self._sentences = split_text(text, "sentences")
        self._fingerprint = fingerprint_of("essay", text)

    def chunk(self, number: int) -> list[str]:
        start = number * self.CHUNK % len(self._sentences)
        turned = self._sentences[start:] + self._sentences[:start]
        return (turned * (self.CHUNK // len(turned) + 1))[: self.CHUNK]

    @property
    def fingerprint(self) -> str:
        return self._fingerprint


@lru_cache(maxsize=2)
def essay_haystack(data_dir: str) -> EssayHaystack:
    """The published essays as a haystack.

    Raises
    ------
    RowError : the file is missing, unreadable or empty.
    """
    path = Path(data_dir) / ESSAYS
    document = _load(path)
    text = document.get("text") if isinstance(document, dict) else None
    if not isinstance(text, str) or not text.strip():
        raise RowError(f"{path} must be a JSON object with the essays under 'text'")
    return EssayHaystack(" ".join(text.split()))


@dataclass(frozen=True)
class PublishedQuestion:
    """A question, its accepted answers, and the numbers of its gold and of its related documents."""

    question: str
    answers: tuple[str, ...]
    gold: tuple[int, ...]
    related: tuple[int, ...]


@dataclass(frozen=True)
class PublishedDocuments:
    """All documents of a question set, and its questions."""

    texts: tuple[str, ...]
    questions: tuple[PublishedQuestion, ...]

    @staticmethod
    @lru_cache(maxsize=2)
    def read(data_dir: str, task: str) -> PublishedDocuments:
        """Read the set of a task.

        Raises
        ------
        RowError : the file is missing or has another form.
        """
        path = Path(data_dir) / QUESTION_FILES[task]
        document = _load(path)
        try:
            found = _squad(document) if task == "qa_1" else _hotpot(document)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise RowError(f"{path} does not have the form of the published file: {error!r}") from error
        if not found.questions:
            raise RowError(f"{path} holds no answerable question")
        return found


def read_samples_of(data_dir: str, task: str) -> Iterator[LongSample]:
    """Samples of a whole published file, `<task>/validation.jsonl` or `<task>.jsonl`, exactly as they are.

    Raises
    ------
    RowError : there is no such file, or a row lacks a published field.
    """
    name = {"qa_1_gen": "qa_1", "qa_2_gen": "qa_2"}.get(task, task)
    candidates = [Path(data_dir) / name / "validation.jsonl", Path(data_dir) / f"{name}.jsonl"]
    path = next((candidate for candidate in candidates if candidate.is_file()), None)
    if path is None:
        raise RowError(f"no published samples of {name}: neither {candidates[0]} nor {candidates[1]} exists")
    for number, row in enumerate(read_rows(path)):
        get = partial(required, row, path=path, row_number=number)
        outputs = get("outputs")
        answers = [str(value) for value in outputs] if isinstance(outputs, list) else [str(outputs)]
        kind = "alternatives" if TASKS[name].metric == "part" else "all_required"
        yield LongSample(
            id=f"ruler/{name}/{get('index')}",
            benchmark="ruler",
            task=name,
            context=str(get("input")),
            question="",
            answers=answers,
            answer_kind="alternatives" if kind == "alternatives" else "all_required",
            answer_prefix=str(row.get("answer_prefix", "")),
            max_new_tokens=TASKS[name].tokens_to_generate,
            metadata={
                "length": int(str(get("length"))),
                "length_unit": "tokens",
                "depth": None,
                "task": name,
                "shared_context_key": "",
                "evidence_spans": [],
                "comparability": "official",
                "raw": {key: value for key, value in row.items() if key != "input"},
            },
        )


def _load(path: Path) -> object:
    try:
        document: object = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RowError(f"cannot read {path}: {error}") from error
    return document


def _squad(document: object) -> PublishedDocuments:
    assert isinstance(document, dict)
    articles = [[p["context"] for p in article["paragraphs"]] for article in document["data"]]
    number = {text: i for i, text in enumerate(dict.fromkeys(text for article in articles for text in article))}
    questions = []
    for article, texts in zip(document["data"], articles, strict=True):
        for paragraph in article["paragraphs"]:
            gold = number[paragraph["context"]]
            related = tuple(number[text] for text in dict.fromkeys(texts) if number[text] != gold)
            for asked in paragraph["qas"]:
                answers = tuple(dict.fromkeys(answer["text"] for answer in asked["answers"]))
                if answers and not asked.get("is_impossible", False):
                    questions.append(PublishedQuestion(asked["question"], answers, (gold,), related))
    return PublishedDocuments(tuple(number), tuple(questions))


def _hotpot(document: object) -> PublishedDocuments:
    assert isinstance(document, list)
    number: dict[str, int] = {}
    questions = []
    for row in document:
        needed = {title for title, _ in row["supporting_facts"]}
        gold: list[int] = []
        related: list[int] = []
        for title, sentences in row["context"]:
            text = f"{title}\n{''.join(sentences)}".strip()
            (gold if title in needed else related).append(number.setdefault(text, len(number)))
        questions.append(PublishedQuestion(row["question"], (row["answer"],), tuple(gold), tuple(related)))
    return PublishedDocuments(tuple(number), tuple(questions))
