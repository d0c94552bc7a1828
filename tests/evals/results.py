"""Invented evaluations for tests of what is made of them."""

from __future__ import annotations

from random import Random

from farspan.evals.evaluation import Answer, Evaluation, TaskResult

LENGTHS = (1024, 4096, 16384)


def answer(index: int, length: int, score: float, **more: object) -> Answer:
    """One answer; four questions share a context."""
    fields: dict[str, object] = {
        "id": f"t/0/{index}",
        "length": length,
        "depth": float(index % 3) * 50,
        "cluster": f"{length}/{index // 4}",
        "score": score,
        "output": "7" if score else "8",
        "expected": ("7",),
        "question": "?",
        "input_tokens": length - 20,
        "output_tokens": 3,
        "prompt_chars": 4 * length,
        **more,
    }
    return Answer.model_validate(fields)


def task(
    rates: tuple[float, ...] = (1.0, 0.9, 0.2), *, name: str = "lines:single", n: int = 40, seed: int = 0
) -> TaskResult:
    """A task whose questions are right at these rates; equal seeds give models that fail on the same questions."""
    rng = Random(seed)
    difficulty = [rng.random() for _ in range(n)]
    answers = tuple(
        answer(index, length, float(difficulty[index] < rate))
        for length, rate in zip(LENGTHS, rates, strict=True)
        for index in range(n)
    )
    family, _, part = name.partition(":")
    skill = "tracing" if "thread" in part else "retrieval"
    return TaskResult(name=name, title=name, threshold=0.75, answers=answers, family=family, task=part, skill=skill)


def evaluation(*tasks: TaskResult, **more: object) -> Evaluation:
    """An evaluation of these tasks."""
    fields: dict[str, object] = {
        "tasks": tasks or (task(),),
        "lengths": LENGTHS,
        "seed": 0,
        "model": "some-model",
        "recipe": "",
        "prefix_mode": "continue",
        "tokenizer": "abc",
        **more,
    }
    return Evaluation.model_validate(fields)
