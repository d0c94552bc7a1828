"""Measuring a recipe and judging it against the baseline on the same samples.

A trial is measured at the short lengths first; one that loses what the model could do there is pruned. Effective
lengths are compared in pairs, and a lever is kept only if its gain clears its interval.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from farspan.attention import attention_report
from farspan.evals import evaluate
from farspan.evals.effective import EffectiveLengthComparison, compare_effective_lengths
from farspan.evals.evaluation import Evaluation, TaskResult
from farspan.profiling import Profile, run_profile
from farspan.recipe import Recipe

HEADLINE = "single_lines"
PRUNE_SHARE = 0.5
PROFILE_TOKENS = 8
GUARDED_POSITIONS = 64
MOST_MOVED = 0.25
"""Share of next-token probability that an attention lever may move, on average over the last tokens of a text."""


class Pruned(Exception):
    """A recipe that was given up after its short lengths; carries what was measured, if anything."""

    def __init__(self, result: TaskResult | None, reason: str) -> None:
        super().__init__(reason)
        self.result = result
        self.reason = reason


def measure_headline(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    lengths: Sequence[int],
    *,
    n: int,
    seed: int,
    threshold: float,
    baseline: TaskResult | None = None,
    native_length: int = 0,
) -> TaskResult:
    """The headline task over all lengths, short ones first.

    Raises
    ------
    Pruned : inside the native window the score fell below half of the baseline's.
    """
    short = [length for length in lengths if length <= native_length] if baseline is not None else []
    result: TaskResult | None = None
    for part in (short, [length for length in lengths if length not in short]):
        if not part:
            continue
        found = evaluate(model, tokenizer, HEADLINE, part, n=n, seed=seed, threshold=threshold).headline
        result = found if result is None else joined(result, found)
        if part is short and baseline is not None:
            before = {cell.length: cell.mean for cell in baseline.by_length()}
            for cell in found.by_length():
                if cell.mean < PRUNE_SHARE * before.get(cell.length, 0.0):
                    raise Pruned(
                        found,
                        f"pruned: {cell.mean:.0%} at {cell.length:,} tokens, the baseline has "
                        f"{before[cell.length]:.0%} (n = {cell.n})",
                    )
    assert result is not None
    return result


def moved_probability(model: PreTrainedModel, ids: Tensor, dense: Recipe, sparse: Recipe) -> float:
    """How far a recipe's next-token distributions are from another's: total variation, 0 for equal, 1 for disjoint.

    ids : Tensor int64 [length]; the mean is over its last 64 positions
    """
    shares = []
    for recipe in (dense, sparse):
        with recipe(model), torch.no_grad():
            logits = model(
                input_ids=ids[None].to(model.device), logits_to_keep=GUARDED_POSITIONS, use_cache=False
            ).logits[0]
        shares.append(logits[-GUARDED_POSITIONS:].float().softmax(-1))
    return float((shares[0] - shares[1]).abs().sum(-1).mean() / 2)


def guard_attention(model: PreTrainedModel, ids: Tensor, dense: Recipe, sparse: Recipe) -> float:
    """`moved_probability` of a recipe with an attention lever.

    Raises
    ------
    Pruned : more is moved than `MOST_MOVED`, or attention stays dense, so that the lever would change nothing.
    """
    with sparse(model), torch.no_grad():
        model(input_ids=ids[None].to(model.device), logits_to_keep=1, use_cache=False)
        reports = attention_report(model)
    if not any(layer.sparse for layer in reports):
        reasons = Counter(reason for layer in reports for reason in layer.fallbacks.elements())
        why = reasons.most_common(1)[0][0] if reasons else "it selects nothing to leave out"
        raise Pruned(None, f"pruned: attention stays dense at {len(ids):,} tokens: {why}")
    moved = moved_probability(model, ids, dense, sparse)
    if moved > MOST_MOVED:
        raise Pruned(
            None,
            f"pruned: attention moved {moved:.0%} of next-token probability at {len(ids):,} tokens, more than "
            f"{MOST_MOVED:.0%}",
        )
    return moved


def joined(first: TaskResult, second: TaskResult) -> TaskResult:
    """The answers of both; lengths measured twice would count twice, so callers keep them apart."""
    return first.model_copy(update={"answers": (*first.answers, *second.answers)})


def paired(baseline: TaskResult, result: TaskResult) -> EffectiveLengthComparison:
    """Ratio of effective lengths, result over baseline, on shared samples, with its 95 % interval."""
    return compare_effective_lengths(baseline.records, result.records, baseline.threshold, cluster=True)


def paired_score(baseline: TaskResult, result: TaskResult) -> float:
    """Mean difference of scores on shared samples, all lengths with equal weight."""
    before = {(a.length, a.id): a.score for a in baseline.answers}
    differences: dict[int, list[float]] = {}
    for answer in result.answers:
        if (answer.length, answer.id) in before:
            differences.setdefault(answer.length, []).append(answer.score - before[answer.length, answer.id])
    return float(np.mean([np.mean(row) for row in differences.values()])) if differences else 0.0


def pays(before: TaskResult, after: TaskResult) -> bool:
    """Whether `after` reads farther, or scores better on average, by more than its 95 % interval.

    The interval of the score is that of a mean over contexts, whose questions are not independent.
    """
    if paired(before, after).lo > 1.0:
        return True
    own = {(a.length, a.id): a.score for a in before.answers}
    contexts: dict[tuple[int, str], list[float]] = {}
    for answer in after.answers:
        if (answer.length, answer.id) in own:
            difference = answer.score - own[answer.length, answer.id]
            contexts.setdefault((answer.length, answer.cluster), []).append(difference)
    means = np.array([np.mean(row) for row in contexts.values()])
    if len(means) < 2:
        return False
    return bool(means.mean() - 1.96 * means.std(ddof=1) / np.sqrt(len(means)) > 0)


def measure_all(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    lengths: Sequence[int],
    headline: TaskResult,
    *,
    n: int,
    texts: int,
    seed: int,
    threshold: float,
    recipe: str,
) -> Evaluation:
    """The core suite with a headline that is measured already."""
    rest = evaluate(
        model,
        tokenizer,
        ["multi_key", "variable_tracking", "two_hop_threads", "text_loss"],
        lengths,
        n=n,
        seed=seed,
        threshold=threshold,
        texts=texts,
        recipe=recipe,
    )
    return rest.model_copy(update={"tasks": (headline, *rest.tasks)})


def measure_cost(model: PreTrainedModel, lengths: Sequence[int], *, repeats: int, seed: int, recipe: str) -> Profile:
    """Time to first token, time per token and memory on the same lengths."""
    return run_profile(
        model, lengths, new_tokens=PROFILE_TOKENS, repeats=repeats, warmup=1, memory=True, seed=seed, recipe=recipe
    )
