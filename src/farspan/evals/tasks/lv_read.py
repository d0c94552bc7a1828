"""Reading one's own questions, documents and sentences for levels of length."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from pydantic import ValidationError

from farspan.evals.sources import iter_jsonl
from farspan.evals.tasks.lv_build import Counter, LevelError, Question, count_chars, count_words

TEXT_ENDINGS = (".txt", ".md")


def read_questions(path: str | Path) -> list[Question]:
    """Questions from a file of JSON lines, whose keys are the fields of `Question`.

    Raises
    ------
    LevelError : no file, no question, or a row that is none.
    """
    if not Path(path).is_file():
        raise LevelError(f"there is no file {path}; questions are JSON lines of question, answers and documents")
    found = []
    for number, row in enumerate(iter_jsonl(Path(path)), 1):
        try:
            found.append(Question.model_validate(row))
        except ValidationError as error:
            problem = error.errors()[0]
            place = ".".join(map(str, problem["loc"]))
            raise LevelError(f"{path}, question {number}, '{place}': {problem['msg']}") from error
    if not found:
        raise LevelError(f"{path} holds no question")
    return found


def read_texts(path: str | Path) -> list[str]:
    """Documents: every text file of a folder and what is below it, or the `text` of every row of JSON lines.

    Raises
    ------
    LevelError : neither, or nothing in it.
    """
    place = Path(path)
    if place.is_dir():
        files = sorted(file for file in place.rglob("*") if file.suffix in TEXT_ENDINGS)
        found = [file.read_text(encoding="utf-8").strip() for file in files]
    elif place.suffix == ".jsonl" and place.is_file():
        found = [str(row.get("text", "")).strip() for row in iter_jsonl(place)]
    elif place.is_file():
        raise LevelError(f"{path} is one file; give a folder of {', '.join(TEXT_ENDINGS)} files, or JSON lines of text")
    else:
        raise LevelError(f"there is no folder or file {path}")
    texts = [text for text in found if text]
    if not texts:
        raise LevelError(f"{path} holds no text; give {', '.join(TEXT_ENDINGS)} files, or JSON lines with 'text'")
    return texts


def counter_of(unit: str) -> Counter:
    """What lengths are counted in: `words`, `chars`, or the tokens of a tokenizer by folder or name."""
    if unit in ("words", "chars"):
        return count_words if unit == "words" else count_chars
    from farspan.evals.generate.count import TokenCounter

    # the same documents are counted for every question and level
    return lru_cache(maxsize=None)(TokenCounter(unit).count)
