"""The one sample schema of all benchmark families.

A `LongSample` is one question on one context, with everything a scorer and an aggregation need. It is data: it knows
nothing of prompts' rendering, of models or of Inspect. Contexts can be lazy (`ContextRef`), so that a data set of
million-token samples stays small in memory and in logs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, islice
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from farspan.errors import FarspanError

AnswerKind = Literal["alternatives", "ordered", "set", "all_required", "mapping", "free"]
Role = Literal["needle", "distractor", "chain"]

PREVIEW_CHARACTERS = 512


class SampleError(FarspanError):
    """A stored sample that cannot be read, or whose context no longer is what it was."""


class EvidenceSpan(BaseModel):
    """Where one piece of evidence stands in a context.

    `start_char`, `end_char` slice the context string; `start_token`, `end_token` are half-open token indices of the
    context alone (no special tokens), None where no tokenizer was given; `unit_index` is the number of haystack units
    before it.
    """

    model_config = ConfigDict(frozen=True)

    fact_id: str
    start_char: int
    end_char: int
    start_token: int | None = None
    end_token: int | None = None
    unit_index: int = 0
    role: Role = "needle"

    def shifted(self, characters: int, tokens: int = 0) -> EvidenceSpan:
        """The same span after text of that many characters and tokens was put before it."""
        return self.model_copy(
            update={
                "start_char": self.start_char + characters,
                "end_char": self.end_char + characters,
                "start_token": None if self.start_token is None else self.start_token + tokens,
                "end_token": None if self.end_token is None else self.end_token + tokens,
            }
        )


class ContextRef(BaseModel):
    """A context that is built or read only when needed.

    kind "generated": `spec` is the sample specification that rebuilds it; kind "file": `path`, `offset` and `size`
    give the bytes. `sha256` is of the UTF-8 text and is checked by `load`.
    """

    model_config = ConfigDict(frozen=True)

    kind: Literal["generated", "file"]
    sha256: str
    n_chars: int
    preview: str = ""
    spec: Mapping[str, object] | None = None
    path: str | None = None
    offset: int = 0
    size: int | None = None

    def load(self) -> str:
        """Build or read the text.

        Raises
        ------
        SampleError : the text's hash differs from the stored one, or the file is gone.
        """
        if self.kind == "generated":
            from farspan.evals.generate.many import rebuild_context

            text = rebuild_context(self.spec or {})
        else:
            try:
                with Path(self.path or "").open("rb") as stream:
                    stream.seek(self.offset)
                    text = stream.read(-1 if self.size is None else self.size).decode("utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise SampleError(f"cannot read the context at {self.path}: {error}") from error
        if text_sha256(text) != self.sha256:
            raise SampleError(
                f"the {self.kind} context changed since it was stored (sha256 {self.sha256[:12]} expected)"
            )
        return text


class LongSample(BaseModel):
    """One question on one long context.

    The prompt is `context` + `question` + `answer_prefix`, in this order and without separators of its own; a base
    model continues it. `answers` are alternatives unless `answer_kind` says otherwise. `metadata` always holds
    `length`, `depth` (percent or None), `task`, `shared_context_key` and `evidence_spans` for generated families.
    """

    model_config = ConfigDict(frozen=True)

    id: str
    benchmark: str
    task: str
    subset: str = ""
    language: str = "en"
    context: str | ContextRef
    question: str
    answers: list[str]
    answer_kind: AnswerKind = "alternatives"
    answer_prefix: str = ""
    choices: list[str] | None = None
    answer_keywords: str | None = None
    all_classes: list[str] | None = None
    n_ref_words: int | None = None
    max_new_tokens: int | None = None
    metadata: dict[str, object] = Field(default_factory=dict)

    @property
    def text(self) -> str:
        """The context as a string; a lazy one is built or read now."""
        return self.context if isinstance(self.context, str) else self.context.load()

    @property
    def length(self) -> int:
        """The length the sample was made for, in the unit of `metadata["length_unit"]`."""
        value = self.metadata.get("length", 0)
        return value if isinstance(value, int) else 0

    @property
    def depth(self) -> float | None:
        """Relative depth of the (single) evidence in percent, None where there is no single one."""
        value = self.metadata.get("depth")
        return float(value) if isinstance(value, int | float) else None

    @property
    def shared_context_key(self) -> str:
        """Samples with equal, non-empty keys have the identical context string."""
        return str(self.metadata.get("shared_context_key", ""))

    @property
    def evidence_spans(self) -> tuple[EvidenceSpan, ...]:
        """The evidence, as spans of the context."""
        spans = self.metadata.get("evidence_spans", ())
        return tuple(EvidenceSpan.model_validate(span) for span in spans) if isinstance(spans, list | tuple) else ()

    def lazy(self, spec: Mapping[str, object]) -> LongSample:
        """The same sample with its context replaced by a reference that `spec` can rebuild."""
        text = self.text
        reference = ContextRef(
            kind="generated",
            sha256=text_sha256(text),
            n_chars=len(text),
            preview=text[:PREVIEW_CHARACTERS],
            spec=dict(spec),
        )
        return self.model_copy(update={"context": reference})


def text_sha256(text: str) -> str:
    """Hex SHA-256 of the UTF-8 bytes."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def read_samples(path: str | Path) -> Iterator[LongSample]:
    """Read the samples of a jsonl file one by one.

    Raises
    ------
    SampleError : the file cannot be read, or a line is not a sample (the line number is named).
    """
    try:
        with Path(path).open(encoding="utf-8") as stream:
            for number, line in enumerate(stream, 1):
                if not line.strip():
                    continue
                try:
                    yield LongSample.model_validate_json(line)
                except ValidationError as error:
                    raise SampleError(f"{path}, line {number} is not a sample: {error.errors()[0]['msg']}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise SampleError(f"cannot read samples from {path}: {error}") from error


def write_samples(path: str | Path, samples: Iterable[LongSample], *, append: bool = False) -> int:
    """Write samples as jsonl, one a line as soon as it is there; returns how many were written.

    The file is opened when the first sample is there, so samples that cannot be made leave no empty file.
    """
    path = Path(path)
    count = 0
    remaining = iter(samples)
    first = list(islice(remaining, 1))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a" if append else "w", encoding="utf-8", newline="\n") as stream:
            for sample in chain(first, remaining):
                stream.write(sample.model_dump_json() + "\n")
                count += 1
    except OSError as error:
        raise SampleError(f"cannot write samples to {path}: {error.strerror or error}") from error
    return count
