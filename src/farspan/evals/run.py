"""Running probes on a model in this process: samples, prompts, the engine, scores.

Levers are switched on by the caller. Questions on one context go to the engine together, which reads the context once.
The same families and scores run under `inspect eval`; this is the fast path for one local model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from itertools import chain, islice, takewhile

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from farspan.engine import Engine, Request, Result
from farspan.errors import FarspanError
from farspan.evals.asking import Cell, Heard, answer_id, answer_of, cells_of, in_blocks, samples_of, without_reasoning
from farspan.evals.core import Probe, resolve
from farspan.evals.evaluation import Answer, Evaluation, LossBin, loss_bins, result_of
from farspan.evals.generate.count import TokenCounter
from farspan.evals.journal import Journal
from farspan.evals.prompt import PrefixMode, render_prompt, stop_strings
from farspan.evals.schema import LongSample
from farspan.evals.search import searched
from farspan.evals.tasks.family import Family, Knobs, family_class
from farspan.training.data.text import TextFiles

DEFAULT_THRESHOLD = 0.75
ANSWER_TOKENS = 32
JOURNAL_BLOCK = 16


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
    thinking_tokens: int = 0,
    knobs: Mapping[str, object] = {},
    limit: int | None = None,
    adaptive: bool = False,
    token_budget: int | None = None,
    texts: int = 16,
    recipe: str = "",
    engine: Engine | None = None,
    journal: Journal | None = None,
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
    thinking_tokens : for models that reason before they answer: tokens a reply may have beside its answer's
    knobs : of the families named in `tasks`
    limit : questions in all, taken from all tasks and lengths in turn; None for no limit
    adaptive : ask where the score falls, with `lengths` as the coarse grid and `n` questions a length at most
    token_budget : tokens of prompts an adaptive search may take
    texts : texts for the loss by position
    recipe : what to call the levers that are on, for the record
    engine : one to use instead of a new one; it must not enforce the model's window
    journal : keeps every answer as soon as it is there, and those of an earlier run are not asked again
    progress : called with questions done and questions in all

    Raises
    ------
    FarspanError : unknown tasks, no length, or a length no sample fits in.
    """
    probes, with_loss = resolve(tasks, knobs)
    cells = cells_of(probes, lengths, n, limit)
    lengths = sorted(set(lengths))
    if thinking_tokens and prefix_mode == "continue":
        raise FarspanError("a started answer leaves no room for reasoning; use prefix_mode='user_tail' or 'none'")
    total = sum(cell.n for cell in cells)
    done = 0

    def tick(answers: int) -> None:
        nonlocal done
        done += answers
        if progress is not None:
            progress(done, max(total, done))

    with ExitStack() as stack:
        if engine is None:
            engine = stack.enter_context(Engine(model, tokenizer, enforce_context_length=False))
        chat = bool(getattr(tokenizer, "chat_template", None))
        counter = TokenCounter(tokenizer)
        families = {probe.family: family_class(probe.family)(counter, chat=chat) for probe in probes}

        def ask(cell: Cell) -> list[Answer]:
            answers: list[Answer] = []
            family = families[cell.probe.family]
            for block in in_blocks(cell.indices, _block(cell, journal)):
                answers += _answered(journal, cell, block, seed) or _asked(
                    journal, cell, family, engine, block, seed, prefix_mode, thinking_tokens
                )
                tick(len(block))
            return answers

        if adaptive:
            found = searched(probes, lengths, threshold, ask, full=n, token_budget=token_budget, seed=seed)
        else:
            found = {probe.name: [] for probe in probes}
            for cell in cells:
                found[cell.probe.name] += ask(cell)
        results = [result_of(probe, threshold, found[probe.name]) for probe in probes if found[probe.name]]
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


def _block(cell: Cell, journal: Journal | None) -> int:
    """Questions that go to the engine together: all, or what a run that keeps a journal can bear to lose."""
    shared = cell.probe.questions_per_context
    return cell.n if journal is None else max(shared, JOURNAL_BLOCK // shared * shared)


def _answered(journal: Journal | None, cell: Cell, block: Sequence[int], seed: int) -> list[Answer]:
    """The answers of a block if the journal has all of them."""
    if journal is None:
        return []
    kept = [journal.answer(cell.probe.name, cell.length, answer_id(cell.probe, seed, index)) for index in block]
    return [answer for answer in kept if answer is not None] if all(kept) else []


def _asked(
    journal: Journal | None,
    cell: Cell,
    family: Family[Knobs],
    engine: Engine,
    block: Sequence[int],
    seed: int,
    mode: PrefixMode,
    thinking_tokens: int,
) -> list[Answer]:
    """Ask a block and note its answers."""
    found = run_probe(
        cell.probe,
        family,
        engine,
        cell.length,
        n=len(block),
        seed=seed,
        mode=mode,
        first=block[0],
        thinking_tokens=thinking_tokens,
    )
    if journal is not None:
        for answer in found:
            journal.add(cell.probe.name, answer)
    return found


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
    thinking_tokens: int = 0,
) -> list[Answer]:
    """Ask `n` questions of a probe at one length, from question number `first` on.

    Raises
    ------
    LengthTargetError : no sample fits into the length.
    """
    indices = range(first, first + n)
    samples, shared = samples_of(probe, family, length, indices, seed)
    companions = [family.companions(sample) for sample in samples]
    asked = [*samples, *chain.from_iterable(companions)]
    requests = requests_of(asked, engine.tokenizer, mode, thinking_tokens=thinking_tokens)
    results = engine.generate_batch(requests)
    heard = [_heard(request, result, thinking_tokens) for request, result in zip(requests, results, strict=True)]
    rest = iter(heard[n:])
    return [
        answer_of(
            probe,
            family,
            sample,
            render_prompt(sample, mode),
            reply,
            list(islice(rest, len(mine))),
            index=index,
            seed=seed,
            shared=shared,
        )
        for index, sample, reply, mine in zip(indices, samples, heard, companions, strict=False)
    ]


def _heard(request: Request, result: Result, thinking_tokens: int) -> Heard:
    if result.stop_reason == "model_length" and not result.ids:
        return Heard(error="the prompt is longer than the model's window", too_long=True)
    truncated = result.stop_reason != "stop"
    text, reasoning = without_reasoning(result.text, truncated) if thinking_tokens else (result.text, "")
    return Heard(
        text=text,
        truncated=truncated,
        input_tokens=len(request.ids),
        output_tokens=result.usage.output_tokens,
        reasoning_tokens=round(result.usage.output_tokens * len(reasoning) / max(len(result.text), 1)),
    )


def requests_of(
    samples: Sequence[LongSample],
    tokenizer: PreTrainedTokenizerBase,
    mode: PrefixMode = "continue",
    *,
    thinking_tokens: int = 0,
) -> list[Request]:
    """Engine requests of samples; those on one context share what their token ids have in common.

    thinking_tokens : beside those an answer may have; a model that reasons must be free to, so nothing stops it
    """
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
            max_new_tokens=(sample.max_new_tokens or ANSWER_TOKENS) + thinking_tokens,
            stop=() if thinking_tokens else stop_strings(sample, mode),
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


__all__ = ["DEFAULT_THRESHOLD", "evaluate", "position_edges", "requests_of", "run_probe", "text_loss"]
