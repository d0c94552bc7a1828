"""Whether an evaluation may be reported at all.

Scores of prompts that were cut on their way, of models that said nothing, or of a run that lost many of its answers
mean nothing, yet look like scores. Such runs are refused with the reason; what a reader must merely know stands in
`Evaluation.problems`.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from farspan.errors import FarspanError
from farspan.evals.evaluation import Answer, Evaluation, TaskResult

CUT_SHARE = 0.97
"""A prompt of fewer tokens than this part of what it should have was cut."""
TEMPLATE_TOKENS = 64
"""Tokens by which a prompt may be shorter than counted: special ones a server does not count, a prefix left out."""
CUT_DENSITY = 1.5
"""Characters a token may rise by this factor from the shortest length on before prompts count as cut."""
LOST_SHARE = 0.1


class UntrustworthyError(FarspanError):
    """An evaluation whose scores mean nothing; says why and what to do."""


def require_trust(evaluation: Evaluation) -> None:
    """Refuse an evaluation whose scores mean nothing.

    Raises
    ------
    UntrustworthyError : with all reasons.
    """
    reasons = doubts(evaluation)
    if reasons:
        raise UntrustworthyError(f"{evaluation.model} is not reported: {'; '.join(reasons)}")


def doubts(evaluation: Evaluation) -> list[str]:
    """Why an evaluation's scores mean nothing; empty if they do not mean nothing."""
    answers = [answer for task in evaluation.tasks for answer in task.answers]
    found = [reason for task in evaluation.tasks for reason in _of_task(task)]
    lost = sum(answer.open for answer in answers)
    if answers and lost > LOST_SHARE * len(answers):
        last = next(answer.error for answer in reversed(answers) if answer.open)
        found.append(
            f"{lost} of {len(answers)} questions got no reply (the last: {last}); repeat the command to ask them again"
        )
    elif answers and all(answer.error for answer in answers):
        found.append(f"no question got a reply (the last: {answers[-1].error})")
    return found


def _of_task(task: TaskResult) -> list[str]:
    heard = task.heard
    if not heard:
        return []
    if all(answer.empty for answer in heard):
        if any(answer.reasoning_tokens or answer.truncated for answer in heard):
            return [
                f"{task.title}: all {len(heard)} answers are empty and end at the token limit, so the model was still "
                "reasoning; give it more with --thinking-tokens"
            ]
        return [f"{task.title}: all {len(heard)} answers are empty; check model, chat template and stop strings"]
    cut = cut_lengths(heard)
    if cut:
        length, sent, expected = cut[0]
        return [
            f"{task.title}: prompts of {length:,} tokens reached the model with {sent:,.0f} of about {expected:,.0f} "
            "tokens, so they were cut; raise the server's context length or test shorter ones"
        ]
    return []


def cut_lengths(answers: Sequence[Answer]) -> list[tuple[int, float, float]]:
    """Lengths whose prompts were cut: the length, tokens that arrived and tokens there should have been, medians.

    Where lengths are counted with the model's tokenizer, both are known; else characters a token must stay about what
    they are at the shortest length.
    """
    counted = [answer for answer in answers if answer.input_tokens > 0 and answer.prompt_chars > 0]
    if not counted:
        return []
    base = min(answer.length for answer in counted)
    density = median(answer.prompt_chars / answer.input_tokens for answer in counted if answer.length == base)
    found = []
    for length in sorted({answer.length for answer in counted}):
        mine = [answer for answer in counted if answer.length == length]
        sent = median(answer.input_tokens for answer in mine)
        known = [answer.expected_tokens for answer in mine if answer.expected_tokens]
        if known:
            expected = float(median(known))
            cut = sent < CUT_SHARE * expected - TEMPLATE_TOKENS
        else:
            expected = median(answer.prompt_chars for answer in mine) / density
            cut = sent * CUT_DENSITY < expected
        if cut:
            found.append((length, float(sent), expected))
    return found
