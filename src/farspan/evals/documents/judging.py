"""Judges of open answers: a model behind an address or one that Inspect knows, asked after a run or for a file.

What is asked and how a reply is read is the benchmarks' business. A reply that does not come is counted and never
taken for a verdict; it is asked again by the next run in the same folder.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from pydantic import SecretStr, ValidationError

from farspan.errors import FarspanError
from farspan.evals.documents.base import Ask, Dataset, DocumentBenchmark, JudgeSilent, Reading
from farspan.evals.documents.run import DocumentRun
from farspan.evals.documents.scored import Judgement, Scored
from farspan.evals.endpoint import Endpoint, EndpointSettings
from farspan.evals.prompt import Prompt
from farspan.evals.schema import text_sha256

JUDGE_TOKENS = 2048
CONNECTIONS = 8
LOCAL_PROVIDER = "farspan"


class JudgeError(FarspanError):
    """A judge that cannot be asked at all, or a file of other judgements."""


class Judge(Protocol):
    """A model that reads answers; `asked` is open while it is used."""

    name: str

    def asked(self) -> AbstractAsyncContextManager[Ask]:
        """A function that sends a prompt; it raises JudgeSilent where no reply comes."""


class EndpointJudge:
    """A judge behind an OpenAI-compatible address."""

    def __init__(self, settings: EndpointSettings) -> None:
        self.settings = settings
        self.name = f"{settings.model}@{settings.url}"

    @asynccontextmanager
    async def asked(self) -> AsyncIterator[Ask]:
        async with Endpoint(self.settings) as endpoint:

            async def ask(prompt: str) -> str:
                heard = await endpoint.ask(Prompt(prompt, ""), JUDGE_TOKENS)
                if heard.error:
                    raise JudgeSilent(f"the judge {self.name} gave no reply: {heard.error}")
                return heard.text

            yield ask


class InspectJudge:
    """A judge by its name in Inspect, `openai/gpt-4o` or `farspan/DIR`.

    Raises
    ------
    JudgeError : Inspect has no such model, or the model lacks what it needs, such as a key.
    """

    def __init__(self, name: str) -> None:
        from inspect_ai._util.error import PrerequisiteError
        from inspect_ai.model import Model, get_model

        self.name = name
        try:
            self._model: Model = get_model(name)
        except (PrerequisiteError, ValueError, ImportError) as error:
            raise JudgeError(
                f"--judge '{name}': {' '.join(str(error).split())}; write provider/model as for Inspect, a folder, or "
                "NAME@http://HOST/v1"
            ) from error

    @asynccontextmanager
    async def asked(self) -> AsyncIterator[Ask]:
        from inspect_ai.model import GenerateConfig

        config = GenerateConfig(temperature=0.0, max_tokens=JUDGE_TOKENS)
        async with self._model as model:

            async def ask(prompt: str) -> str:
                try:
                    return (await model.generate(prompt, config=config)).completion
                except Exception as error:  # every provider has errors of its own
                    raise JudgeSilent(f"the judge {self.name} gave no reply: {error}") from error

            yield ask


def judge_of(text: str, *, key_env: str = "OPENAI_API_KEY") -> Judge:
    """The judge that a person names.

    Parameters
    ----------
    text : `NAME@http://HOST/v1` for a model behind an address, `provider/model` for one of Inspect's, a folder with a
        model or `reference` for one that runs here
    key_env : variable that holds the address's key; Inspect's providers know their own

    Raises
    ------
    JudgeError : nothing that can be asked.
    """
    name, mark, url = text.rpartition("@")
    if mark and url.startswith(("http://", "https://")):
        try:
            settings = EndpointSettings(
                url=url, model=name, key=SecretStr(os.environ.get(key_env, "")), connections=CONNECTIONS
            )
        except ValidationError as error:
            raise JudgeError(f"--judge: {error.errors()[0]['msg']}") from error
        return EndpointJudge(settings)
    if text.startswith(("http://", "https://")):
        raise JudgeError(f"--judge: an address needs the model's name before it, NAME@{text}")
    return InspectJudge(f"{LOCAL_PROVIDER}/{text}" if text == "reference" or Path(text).is_dir() else text)


def judged_run(
    found: DocumentRun,
    judge: Judge,
    *,
    keep: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> DocumentRun:
    """A run with a judge's verdicts on all its answers that are for a judge.

    Parameters
    ----------
    keep : file of verdicts, from which an interrupted run goes on
    progress : told how many answers are judged, and of how many

    Raises
    ------
    BenchmarkError : there is nothing for a judge, or nothing to compare with.
    JudgeError : the file holds other verdicts.
    EndpointError : the address cannot be asked at all.
    """
    made = found.benchmark
    answers = [one for one in found.scored if made.judges(made.datasets[one.sample.task])]
    made.check_judge(_sets(made, found.scored))
    kept = Verdicts(
        keep,
        {
            "benchmark": made.name,
            "judge": judge.name,
            "reading": found.reading,
            **made.judge_identity(),
        },
    )
    reasons: list[str] = []
    judgements = asyncio.run(_judged_all(made, answers, judge, found.reading, kept, progress, reasons))
    return replace(found, judge=judge.name, judgements=tuple(judgements), judge_trouble=reasons[0] if reasons else "")


async def _judged_all(
    made: DocumentBenchmark,
    answers: Sequence[Scored],
    judge: Judge,
    reading: Reading,
    kept: Verdicts,
    progress: Callable[[int, int], None] | None,
    reasons: list[str],
) -> list[Judgement]:
    """The judgements in order; why replies did not come is added to `reasons`."""
    found: list[Judgement | None] = [None] * len(answers)
    places = iter(range(len(answers)))
    done = 0
    async with judge.asked() as unheard:

        async def ask(prompt: str) -> str:
            try:
                return await unheard(prompt)
            except JudgeSilent as error:
                reasons.append(" ".join(str(error).split())[:300])
                raise

        async def reader() -> None:
            nonlocal done
            for place in places:
                one = answers[place]
                key = (one.sample.task, one.sample.id, str(one.run), text_sha256(one.prediction)[:16])
                figures = kept.get(key)
                if figures is None:
                    figures = await made.judged(one.sample, one.prediction, ask, reading)
                    if not figures.get("judge_silent"):
                        kept.add(key, figures)
                found[place] = Judgement(one.sample, figures, run=one.run)
                done += 1
                if progress is not None:
                    progress(done, len(answers))

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(CONNECTIONS):
                    group.create_task(reader())
        except ExceptionGroup as errors:
            # One reader's failure ends all; it is the one worth telling.
            raise errors.exceptions[0] from None
    return [one for one in found if one is not None]


def _sets(made: DocumentBenchmark, scored: Sequence[Scored]) -> list[Dataset]:
    return [made.datasets[name] for name in dict.fromkeys(one.sample.task for one in scored)]


Key = tuple[str, ...]


class Verdicts:
    """Figures by set, question, run and answer, kept in a file; its first line says whose they are.

    Raises
    ------
    JudgeError : a file that is none, or holds another judge's verdicts.
    """

    def __init__(self, path: Path | None, head: Mapping[str, str]) -> None:
        self.path = path
        self.head = dict(head)
        self._found: dict[Key, dict[str, float]] = {}
        if path is None or not path.is_file():
            return
        data = path.read_bytes()
        # The line that a killed run was writing is asked for again.
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) < len(data):
            path.write_bytes(whole)
        if not whole:
            path.unlink()
            return
        try:
            first, *rows = [json.loads(line) for line in whole.splitlines()]
            self._found = {tuple(row["key"]): dict(row["figures"]) for row in rows}
        except (ValueError, KeyError, TypeError) as error:
            raise JudgeError(f"{path} is no file of verdicts; move it away") from error
        if first != self.head:
            other = first.get("judge", "another judge") if isinstance(first, dict) else "another judge"
            raise JudgeError(
                f"{path} holds the verdicts of {other} under other settings than {self.head['judge']} has now; move it "
                "away"
            )

    def get(self, key: Key) -> dict[str, float] | None:
        """The figures of an answer."""
        return self._found.get(key)

    def add(self, key: Key, figures: Mapping[str, float]) -> None:
        """Keep figures; they are on the disk when this returns."""
        self._found[key] = dict(figures)
        if self.path is None:
            return
        lines = [] if self.path.is_file() else [json.dumps(self.head)]
        lines.append(json.dumps({"key": list(key), "figures": dict(figures)}))
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8", newline="\n") as stream:
            stream.write("\n".join(lines) + "\n")


__all__ = [
    "EndpointJudge",
    "InspectJudge",
    "Judge",
    "JudgeError",
    "Verdicts",
    "judge_of",
    "judged_run",
]
