"""HoloBench: questions that need many rows of a database at once, asked on rows written as sentences.

The answer is whatever the query finds among the rows that stand in the context, so the length, the amount of
information, its place and the kind of question are set apart from each other. Databases are invented, and answers are
compared row by row without a judge; published data are read where the user has them, and a judge can be asked beside.

Source: arXiv 2410.11996.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from random import Random
from typing import ClassVar

from farspan.evals.generate.build import build_context
from farspan.evals.generate.length import LengthTarget, LengthTargetError, parse_size
from farspan.evals.generate.needle import Needle
from farspan.evals.generate.rng import derive_seed
from farspan.evals.metrics.rows import score_labels, score_rows
from farspan.evals.schema import EvidenceSpan, LongSample
from farspan.evals.tasks.family import Ask, Family, KnobError, Made
from farspan.evals.tasks.holo_context import HoloContext, char_token_estimate, load_context, merge_contexts, merge_order
from farspan.evals.tasks.holo_instance import Instance, draw_instances, tables_of
from farspan.evals.tasks.holo_judge import judge_rows
from farspan.evals.tasks.holo_official import read_holobench
from farspan.evals.tasks.holo_queries import QUERIES, Query
from farspan.evals.tasks.holo_rows import Entry, OtherRows, main_entries, other_tables
from farspan.evals.tasks.holo_schemas import SCHEMAS, Schema, invert, load_holo_language
from farspan.evals.tasks.holo_sql import Row, run_query
from farspan.evals.tasks.holobench_knobs import DEFAULT_INFO, HoloKnobs

OFFICIAL_TOKENS, BASE_TOKENS = 1024, 256
QUESTION_TOKENS = 160
REDRAWS = 12
FEWEST = 4
"""Rows of each table below which hardly any question is clear."""


class HoloBench(Family[HoloKnobs]):
    """Five kinds of queries, each easy, medium and hard."""

    name = "holobench"
    tasks: ClassVar[Sequence[str]] = tuple(QUERIES)
    lengths = (4096, 8192, 16384, 32768, 65536)
    samples = 20
    knobs_model = HoloKnobs
    skills: ClassVar[Mapping[str, str]] = dict.fromkeys(QUERIES, "aggregation")

    def make(self, task: str, length: int | LengthTarget, context: int, seed: int, knobs: HoloKnobs) -> Made:
        """One context of rows with questions of one kind.

        Raises
        ------
        KnobError : no clear question of the kind is found on so few rows, or not as many different ones as asked for.
        LengthTargetError : more information than fits.
        """
        query, seeds = QUERIES[task], self.seeds(task, seed, context)
        schema = SCHEMAS[knobs.database or list(SCHEMAS)[Random(seeds["question"]).randrange(len(SCHEMAS))]]
        target = self.target(length, 0)
        answer_room = knobs.new_tokens or (OFFICIAL_TOKENS if self.chat else BASE_TOKENS)
        budget = _budget(knobs.info, target, answer_room + QUESTION_TOKENS)
        main = [getattr(schema, part) for part in query.parts]
        entries, used, instances = self._drawn(task, query, schema, main, seeds["needle"], budget, knobs)
        words = load_holo_language(knobs.language)
        answers = [rows_as_text(instance.gold, knobs.language) for instance in instances]
        room = knobs.new_tokens or self.room([", ".join(rows) + "]" for rows in answers], OFFICIAL_TOKENS)
        target = self.target(length, room)
        questions = [_question(task, schema, instance, query, knobs) for instance in instances]
        prefix = words.wording["answer"] + "[" if knobs.answer_format == "json" else words.wording["answer"].rstrip()
        haystack = OtherRows(schema, other_tables(schema, main, knobs.hard_aux), knobs.language)

        def place(n: int, rng: Random) -> list[tuple[int, Needle]]:
            order = merge_order(len(entries), n, knobs.position)
            placed, others = [], 0
            for matters, number in order:
                if matters:
                    placed.append((others, Needle(entries[number].text, fact_id=entries[number].key)))
                others += not matters
            return placed

        header = words.wording["header_former" if knobs.hard_aux else "header"] + "\n"
        built = build_context(
            haystack,
            place,
            target,
            self.counter,
            seed=self.seeds("others", seed, context)["haystack"],
            frame=self.frame(preamble=header, closing="\n", tails=[question + prefix for question in questions]),
        )
        spans = built.spans
        built = replace(built, spans=_evidence(spans, instances), depths=())
        shared = {
            "language": knobs.language,
            "database": schema.name,
            "type": query.kind,
            "difficulty": query.difficulty,
            "position": knobs.position,
            "info": used,
            "info_asked": knobs.info or "default",
            "n_main": len(entries),
            "n_aux": built.units_kept,
            "ordered": query.ordered,
        }
        asks = tuple(
            Ask(
                question,
                prefix,
                tuple(rows),
                None,
                "ordered" if query.ordered else "set",
                {**shared, **_facts(instance, knobs, words.wording)},
            )
            for question, rows, instance in zip(questions, answers, instances, strict=True)
        )
        return Made(target, built, asks, room)

    def _drawn(
        self, task: str, query: Query, schema: Schema, main: Sequence[str], seed: int, budget: int, knobs: HoloKnobs
    ) -> tuple[list[Entry], int, list[Instance]]:
        """Rows and clear questions on them; other rows are drawn where the first have none."""
        entries: list[Entry] = []
        for attempt in range(REDRAWS):
            drawn = derive_seed(seed, attempt)
            entries, used = main_entries(schema, main, knobs.language, drawn, budget, self.counter)
            if len(entries) < FEWEST * len(main):
                raise LengthTargetError(
                    f"{budget} tokens of information hold {len(entries)} rows, a question on {len(main)} tables needs "
                    f"{FEWEST * len(main)}; raise info or the length"
                )
            instances = draw_instances(
                query,
                schema,
                entries,
                derive_seed(drawn, "questions"),
                knobs.questions_per_context,
                knobs.empty_share,
                knobs.engine,
            )
            if len(instances) == knobs.questions_per_context:
                return entries, used, instances
        raise KnobError(
            f"task '{task}' has no {knobs.questions_per_context} clear question(s) on {len(entries)} rows; change info "
            "or ask fewer questions a context"
        )

    def solve(self, sample: LongSample) -> list[str]:
        """The rows of the query on what the lines of the text say."""
        language, schema = str(sample.metadata["language"]), SCHEMAS[str(sample.metadata["database"])]
        read = (invert(line, schema, language) for line in sample.text.splitlines())
        entries = [Entry(table, row, "") for table, row in filter(None, read)]
        columns = {table: schema.columns(table) for table in schema.tables}
        gold = run_query(str(sample.metadata["query"]), tables_of(entries, schema.tables), "sqlite", columns)
        return rows_as_text(gold, language)

    @classmethod
    def default_tasks(cls, data: str = "") -> Sequence[str]:
        """All kinds of queries."""
        return cls.tasks

    @classmethod
    def read_published(cls, data: str, task: str) -> Iterable[LongSample]:
        """Contexts built from published tables and queries; see `holo_official.read_holobench`."""
        return read_holobench(data, task)

    @classmethod
    def scores(cls, sample: LongSample, output: str) -> dict[str, float]:
        """`score`: mean over the right rows of 1 for an exact, 0.5 for a partial match; see `score_rows`."""
        found = score_rows(
            final_part(sample, output), gold_rows(sample), _columns(sample), bool(sample.metadata["ordered"])
        )
        return {**found, "no_answer": float(not output.strip())}

    @classmethod
    async def judged(cls, sample: LongSample, output: str, ask: Callable[[str], Awaitable[str]]) -> dict[str, float]:
        """The published rubric in two steps, asked of a judge; see `holo_judge.judge_rows`."""
        return await judge_rows(sample.question, output, gold_rows(sample), ask)


def rows_as_text(rows: Sequence[Row], language: str) -> list[str]:
    """Rows as JSON objects on one line each; what is said where there are none."""
    if not rows:
        return [NO_ANSWER[language]]
    return [json.dumps(row, ensure_ascii=False) for row in rows]


NO_ANSWER = {"en": "No answer.", "de": "Keine Antwort.", "es": "No hay respuesta.", "zh": "没有答案。"}


def gold_rows(sample: LongSample) -> list[dict[str, str | int | float | None]]:
    """The right rows of a sample."""
    rows = sample.metadata["gold_rows"]
    assert isinstance(rows, Sequence)
    return [dict(row) for row in rows]


def final_part(sample: LongSample, output: str) -> str:
    """What follows the last mark of an answer, or the whole output."""
    mark = str(sample.metadata.get("answer_mark", ""))
    return output.rsplit(mark, 1)[-1] if mark and mark in output else output


def _columns(sample: LongSample) -> list[str]:
    columns = sample.metadata["columns"]
    assert isinstance(columns, Sequence)
    return [str(column) for column in columns]


def _budget(info: str | None, target: LengthTarget, beside: int) -> int:
    """Tokens of the rows that matter; shares are of what is left beside question and answer."""
    whole = target.value if target.unit == "tokens" else DEFAULT_INFO * 4
    if info is None:
        return min(DEFAULT_INFO, whole // 2)
    if info.endswith("%"):
        return int((whole - beside) * float(info[:-1]) / 100)
    budget, _ = parse_size(info)
    if budget > whole:
        raise LengthTargetError(f"info of {budget} tokens is more than the context of {whole}; lower info")
    return budget


def _question(task: str, schema: Schema, instance: Instance, query: Query, knobs: HoloKnobs) -> str:
    words = load_holo_language(knobs.language)
    labels = {
        "parent": words.table(schema.parent),
        "child": words.table(schema.child),
        "event": words.table(schema.event),
        "place": words.label(schema.place),
        "kind": words.label(schema.kind),
        "size": words.label(schema.size.name),
        "count": words.label(schema.count.name),
        "first": words.label(schema.first.name),
        "second": words.label(schema.second.name),
    }
    name = f"{task}_{instance.variant}" if instance.variant else task
    text = words.wording["question"] + words.wording[name].format(**labels, **instance.parameters)
    if knobs.answer_format == "json":
        keys = ", ".join(f'"{column}"' for column in _keys(query, schema, instance))
        text += words.wording["json"].format(keys=keys)
    return text + words.wording["partial"] + "\n"


def _keys(query: Query, schema: Schema, instance: Instance) -> Sequence[str]:
    """The columns of the answer, also where it has no rows."""
    if instance.columns:
        return instance.columns
    return [getattr(schema, part) for part in ("event", "child", "parent") if _selects(query, part)]


def _selects(query: Query, part: str) -> bool:
    return f"AS {{{part}}}" in query.text(query.variants[0])


def _facts(instance: Instance, knobs: HoloKnobs, wording: Mapping[str, str]) -> dict[str, object]:
    instruction = wording["cot"] if knobs.reasoning else wording["plain"]
    return {
        "query": instance.sql,
        "columns": list(instance.columns),
        "gold_rows": list(instance.gold),
        "empty": not instance.gold,
        "witness": sorted(instance.witness),
        "verified": sorted(instance.verified),
        "sensitivity": instance.sensitivity,
        "answer_mark": wording["answer"].rstrip(),
        "instruction": instruction,
    }


def _evidence(spans: Sequence[EvidenceSpan], instances: Sequence[Instance]) -> tuple[EvidenceSpan, ...]:
    """Spans of the rows answers are made of (needles) and of those that must only be looked at."""
    witness = frozenset().union(*(instance.witness for instance in instances))
    verified = frozenset().union(*(instance.verified for instance in instances))
    return tuple(
        span if span.fact_id in witness else span.model_copy(update={"role": "distractor"})
        for span in spans
        if span.fact_id in verified
    )


__all__ = [
    "HoloBench",
    "HoloContext",
    "HoloKnobs",
    "char_token_estimate",
    "load_context",
    "merge_contexts",
    "score_labels",
    "score_rows",
]
