"""Running probes on a model in this process: samples, prompts, the engine, scores.

Levers are switched on by the caller. Questions on one context go to the engine together, which reads the context once.
The same families and scores run under `inspect eval`; this is the fast path for one local model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from itertools import chain, islice, takewhile

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from farspan.engine import Engine, Request
from farspan.errors import FarspanError
from farspan.evals.core import Probe, resolve
from farspan.evals.evaluation import Answer, Evaluation, LossBin, TaskResult, loss_bins
from farspan.evals.generate.count import TokenCounter
from farspan.evals.generate.length import LengthTargetError
from farspan.evals.prompt import PrefixMode, render_prompt, stop_strings
from farspan.evals.schema import LongSample
from farspan.evals.tasks.family import Family, Knobs, family_class
from farspan.training.data.text import TextFiles

DEFAULT_THRESHOLD = 0.75
ANSWER_TOKENS = 32


def evaluate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    tasks: str | Sequence[str] = "core",
    lengths: Sequence[int] = (512, 1024, 2048, 4096),
    *,
    n: int = 40,
    seed: int = 0,
    threshold: float = DEFAULT_THRESHOLD,
    prefix_mode: PrefixMode = "continue",
    texts: int = 16,
    recipe: str = "",
    engine: Engine | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Evaluate a model as it stands, with whatever levers are on.

    Parameters
    ----------
    tasks : names as `farspan.evals.core.resolve` takes them; the first is the headline
    lengths : total tokens a prompt, room for the answer included
    n : questions a task and length, rounded up to whole contexts
    seed : equal seeds give equal samples at every length and for every recipe, so results can be paired
    threshold : score that an effective length must keep
    texts : texts for the loss by position
    recipe : what to call the levers that are on, for the record
    engine : one to use instead of a new one; it must not enforce the model's window
    progress : called with questions done and questions in all

    Raises
    ------
    FarspanError : unknown tasks, no length, or a length no sample fits in.
    """
    probes, with_loss = resolve(tasks)
    lengths = sorted(set(lengths))
    if not lengths or n < 1:
        raise FarspanError("an evaluation needs at least one length and one question")
    total = sum(len(lengths) * _rounded(n, probe) for probe in probes)
    done = 0

    def tick(answers: int) -> None:
        nonlocal done
        done += answers
        if progress is not None:
            progress(done, total)

    with ExitStack() as stack:
        if engine is None:
            engine = stack.enter_context(Engine(model, tokenizer, enforce_context_length=False))
        chat = bool(getattr(tokenizer, "chat_template", None))
        counter = TokenCounter(tokenizer)
        results = []
        for probe in probes:
            family = family_class(probe.family)(counter, chat=chat)
            answers: list[Answer] = []
            for length in lengths:
                found = run_probe(probe, family, engine, length, n=_rounded(n, probe), seed=seed, mode=prefix_mode)
                answers += found
                tick(len(found))
            results.append(TaskResult(name=probe.name, title=probe.title, threshold=threshold, answers=tuple(answers)))
        loss = text_loss(engine, tokenizer, lengths, texts) if with_loss else ()
    return Evaluation(
        tasks=tuple(results),
        text_loss=loss,
        lengths=tuple(lengths),
        seed=seed,
        model=str(model.config.name_or_path or type(model).__name__),
        recipe=recipe,
        prefix_mode=prefix_mode,
        tokenizer=counter.tokenizer_id,
    )


def run_probe(
    probe: Probe,
    family: Family[Knobs],
    engine: Engine,
    length: int,
    *,
    n: int,
    seed: int,
    mode: PrefixMode = "continue",
    first: int = 0,
) -> list[Answer]:
    """Ask `n` questions of a probe at one length, from question number `first` on.

    Raises
    ------
    LengthTargetError : no sample fits into the length.
    """
    samples, shared = _samples(probe, family, length, range(first, first + n), seed)
    companions = [family.companions(sample) for sample in samples]
    asked = [*samples, *chain.from_iterable(companions)]
    requests = requests_of(asked, engine.tokenizer, mode)
    results = engine.generate_batch(requests)
    rest = (result.text for result in results[n:])
    others = [list(islice(rest, len(mine))) for mine in companions]
    return [
        Answer(
            id=f"{probe.name}/{seed}/{first + index}",
            length=length,
            depth=sample.depth,
            cluster=f"{length}/{(first + index) // shared}",
            score=family.joint_scores(sample, result.text, heard)["score"],
            output=result.text,
            expected=tuple(sample.answers),
            question=sample.question + sample.answer_prefix,
            preview=sample.text[:200],
            input_tokens=len(request.ids),
            output_tokens=result.usage.output_tokens,
            truncated=result.stop_reason == "max_tokens",
        )
        for index, (sample, request, result, heard) in enumerate(zip(samples, requests, results, others, strict=False))
    ]


def _samples(
    probe: Probe, family: Family[Knobs], length: int, indices: range, seed: int
) -> tuple[list[LongSample], int]:
    """Samples, and how many questions share a context: fewer than the probe wishes where a context is too short."""
    shared = probe.questions_per_context
    while True:
        knobs = {**probe.knobs, "questions_per_context": shared}
        try:
            return [family.sample(probe.task, length, index, seed, **knobs) for index in indices], shared
        except LengthTargetError:
            if shared == 1:
                raise
            shared //= 2


def requests_of(
    samples: Sequence[LongSample], tokenizer: PreTrainedTokenizerBase, mode: PrefixMode = "continue"
) -> list[Request]:
    """Engine requests of samples; those on one context share what their token ids have in common."""
    ids = [_prompt_ids(sample, tokenizer, mode) for sample in samples]
    groups: dict[str, list[int]] = {}
    for index, sample in enumerate(samples):
        groups.setdefault(sample.shared_context_key or str(index), []).append(index)
    shared = [0] * len(samples)
    for members in groups.values():
        if len(members) > 1:
            rows = zip(*(ids[index] for index in members), strict=False)
            common = sum(1 for _ in takewhile(lambda row: len(set(row)) == 1, rows))
            for index in members:
                shared[index] = min(common, len(ids[index]) - 1)
    return [
        Request(
            ids=row,
            max_new_tokens=sample.max_new_tokens or ANSWER_TOKENS,
            stop=stop_strings(sample, mode),
            prefix_length=prefix,
        )
        for row, sample, prefix in zip(ids, samples, shared, strict=True)
    ]


def _prompt_ids(sample: LongSample, tokenizer: PreTrainedTokenizerBase, mode: PrefixMode) -> list[int]:
    prompt = render_prompt(sample, mode)
    if not getattr(tokenizer, "chat_template", None):
        return [int(token) for token in tokenizer(prompt.text, verbose=False)["input_ids"]]
    messages = [{"role": "user", "content": prompt.user}]
    if prompt.answer_prefix:
        messages.append({"role": "assistant", "content": prompt.answer_prefix})
    continued = bool(prompt.answer_prefix)
    text = tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=not continued, continue_final_message=continued
    )
    return [int(token) for token in tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]]


def text_loss(
    engine: Engine, tokenizer: PreTrainedTokenizerBase, lengths: Sequence[int], texts: int
) -> tuple[LossBin, ...]:
    """Loss of held-out sources of the standard library by position, in bins that halve each octave."""
    longest = max(lengths)
    stream = [token for file in TextFiles(tokenizer, split="held_out").token_ids() for token in file]
    rows = [stream[start : start + longest] for start in range(0, len(stream) - longest + 1, longest)][:texts]
    if not rows:
        rows = [stream]
    return loss_bins(engine.score(rows), position_edges(longest))


def position_edges(longest: int) -> list[int]:
    """Bin edges from 0 to `longest`: powers of two from 64 on, each octave in halves."""
    edges = [0]
    step = 64
    while step < longest:
        edges += [step, step + step // 2]
        step *= 2
    return sorted({edge for edge in edges if edge < longest} | {longest})


def _rounded(n: int, probe: Probe) -> int:
    wanted = max(1, round(n * probe.share))
    return -(-wanted // probe.questions_per_context) * probe.questions_per_context


__all__ = ["DEFAULT_THRESHOLD", "evaluate", "position_edges", "requests_of", "run_probe", "text_loss"]
