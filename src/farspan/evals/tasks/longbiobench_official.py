"""The published LongBioBench: its budget rule, and its data files read as samples.

Nothing is downloaded. A file is a JSON array of records, each with its biographies and, under `questions.NLG`, the
question to be asked followed by those of the examples.

Source: arXiv 2506.02921, section 3.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from farspan.evals.rows import RowError, read_rows, required
from farspan.evals.schema import LongSample
from farspan.evals.tasks.bio_haystacks import numbered
from farspan.evals.tasks.bio_persons import load_bio_language
from farspan.evals.tasks.longbiobench_tasks import REASONING_KINDS, TASKS

PROMPT_TOKENS, TOKENS_PER_NEEDLE = 150, 200
OFFICIAL_TOKENS = 50
SKILLS = {"idk": "standard", "rnidk": "rnidk"}
"""Files that hold a task's records, where they are not called by its name."""

_AGE = re.compile(r"\b(\d{2}) years? old|\bage of (\d{2})|\baged? (\d{2})|\bis (\d{2})\b")


def haystack_budget(length_k: int, num_retrieval: int, fewshot: bool, k: int = 1024) -> dict[str, int]:
    """The published rule: needles in all, and tokens for the biographies around them.

    Parameters
    ----------
    length_k : length in thousands of `k` tokens
    num_retrieval : persons a question is about
    fewshot : whether two examples need persons of their own
    """
    needles = num_retrieval * (3 if fewshot else 1)
    return {"total_needles": needles, "haystack_tokens": length_k * k - PROMPT_TOKENS - TOKENS_PER_NEEDLE * needles}


def read_bios(data: str | Path, task: str) -> Iterator[LongSample]:
    """Samples of a task out of a published file, or out of the folder of its length (`data_<skill>.json`).

    Questions keep their published wording, as it stands in the file. Those without an answer are cut out of intact
    records, as published.

    Raises
    ------
    RowError : there is no such file, or a record lacks a published field.
    """
    path = _file(Path(data), task)
    kind = TASKS[task].kind
    for number, row in enumerate(read_rows(path)):
        get = partial(required, row, path=path, row_number=number)
        bios, questions = get("context"), get("questions")
        asked = questions.get("NLG") if isinstance(questions, Mapping) else None
        if not isinstance(bios, Sequence) or isinstance(bios, str) or not isinstance(asked, Sequence) or not asked:
            raise RowError(f"{path}, row {number}: 'context' is a list of texts and 'questions.NLG' one of questions")
        first = partial(required, asked[0], path=path, row_number=number)
        answer, reference = first("Answer"), asked[0].get("reference", "")
        metadata: dict[str, object] = {
            "length": int(str(row.get("token_length", 0))),
            "length_unit": "tokens",
            "depth": None,
            "task": task,
            "language": "en",
            "shared_context_key": "",
            "evidence_spans": [],
            "n_bios": len(bios),
            "comparability": "official",
            "raw": {"questions": questions},
        }
        texts = [str(bio) for bio in bios]
        if kind == "idk":
            metadata |= _cut(texts, asked[0], path, number)
        if kind == "twodiff":
            metadata |= {"crowd": {"people": _people(texts)}, "difference": _difference(answer)}
        many = len(answer) if isinstance(answer, list) else 1
        yield LongSample(
            id=f"longbiobench/{task}/{path.parent.name}/{number}",
            benchmark="longbiobench",
            task=task,
            context="\n".join(numbered(i, text) if kind == "citation" else text for i, text in enumerate(texts)) + "\n",
            question=_examples(asked[1:]) + f"Question: {first('Question')}\n",
            answers=_answers(task, answer, asked[0], reference),
            answer_kind="set" if kind == "twodiff" else "ordered" if many > 1 else "alternatives",
            answer_prefix="Answer: " + str(asked[0].get("Question_prefix") or asked[0].get("Standard_Question") or ""),
            max_new_tokens=OFFICIAL_TOKENS * many * (5 if kind in REASONING_KINDS else 1),
            metadata=metadata,
        )


def _file(data: Path, task: str) -> Path:
    if data.is_file():
        return data
    skill = SKILLS.get(task, task)
    names = [f"data_{name}.json" for name in dict.fromkeys((skill, re.sub(r"_\d+$", "", skill)))]
    found = next((data / name for name in names if (data / name).is_file()), None)
    if found is None:
        raise RowError(f"no published file of '{task}' in {data}: neither {' nor '.join(names)}")
    return found


def _examples(asked: Sequence[Mapping[str, object]]) -> str:
    shown = []
    for item in asked:
        rationale = str(item.get("Rationale") or "")
        answer = item.get("Answer", "")
        listed = ", ".join(str(part) for part in answer) if isinstance(answer, list) else str(answer)
        shown.append(f"Question: {item.get('Question', '')}\nAnswer: {rationale or listed}\n\n")
    return "".join(shown)


def _answers(task: str, answer: object, item: Mapping[str, object], reference: object) -> list[str]:
    kind = TASKS[task].kind
    if kind == "idk":
        return [load_bio_language("en").refusals[0]]
    if kind == "twodiff":
        return [str(name) for name in answer["ref_names"]] if isinstance(answer, Mapping) else []
    values = [str(part) for part in answer] if isinstance(answer, list) else [str(answer)]
    if kind == "citation":
        places = item.get("position_in_list", [])
        numbers = places if isinstance(places, list) else [places]
        return [f"{value} [{place}]" for value, place in zip(values, numbers, strict=False)]
    return values


def _cut(texts: list[str], item: Mapping[str, object], path: Path, number: int) -> dict[str, object]:
    """Cut the answer's sentence out of the biographies, in place; what was cut and where in the whole context."""
    places, spans = item.get("position_in_list"), item.get("position_in_bios")
    if not isinstance(places, list) or not isinstance(spans, list) or not places or not spans:
        raise RowError(f"{path}, row {number}: 'position_in_list' and 'position_in_bios' say what is cut out")
    place, (start, end) = int(places[0]), (int(spans[0][0]), int(spans[0][1]))
    offset = sum(len(text) + 1 for text in texts[:place])
    removed = texts[place][start:end]
    texts[place] = texts[place][:start] + texts[place][end:]
    return {"removed": {"text": removed, "start": offset + start}, "value": str(item["Answer"])}


def _people(texts: Sequence[str]) -> list[list[object]]:
    """Full names and ages: a name is the three capitalised words that a biography repeats most."""
    people: list[list[object]] = []
    for text in texts:
        names = re.findall(r"\b(?:[A-Z][\w'-]+ ){1,2}[A-Z][\w'-]+", text)
        age = _AGE.search(text)
        if names and age:
            people.append([max(names, key=names.count), int(next(group for group in age.groups() if group))])
    return people


def _difference(answer: object) -> int:
    return int(answer["age_difference"]) if isinstance(answer, Mapping) else 0
