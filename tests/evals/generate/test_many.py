from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from farspan.evals.generate import LengthTargetError, SampleSpec, TokenCounter, build_many
from farspan.evals.generate.many import SpecError
from farspan.evals.schema import ContextRef, LongSample, SampleError

FAMILY = "tests.evals.generate.passkey:Passkey"
ROOT = Path(__file__).parents[3]


def specs(count: int, **more: object) -> list[SampleSpec]:
    """Specifications of the test family."""
    fields = {"family": FAMILY, "task": "hidden", "length": 600, "seed": 4, **more}
    return [SampleSpec.model_validate({**fields, "index": index}) for index in range(count)]


def digest(samples: list[LongSample]) -> str:
    """One hash of all bytes."""
    return hashlib.sha256("\n".join(sample.model_dump_json() for sample in samples).encode()).hexdigest()


@pytest.fixture
def tokenizer_file(tmp_path: Path, tokenizers_by_kind: dict[str, Tokenizer]) -> str:
    """The byte-level tokenizer as a file."""
    path = tmp_path / "tokenizer.json"
    tokenizers_by_kind["byte_level"].save(str(path))
    return str(path)


def test_samples_come_in_order(counter: TokenCounter) -> None:
    samples = list(build_many(specs(5), counter))
    assert [sample.metadata["index"] for sample in samples] == list(range(5))


@pytest.mark.slow
def test_bytes_do_not_depend_on_workers(counter: TokenCounter) -> None:
    alone = digest(list(build_many(specs(30), counter)))
    assert digest(list(build_many(specs(30), counter, workers=4, batch=3))) == alone


@pytest.mark.slow
def test_bytes_do_not_depend_on_the_hash_seed(tokenizer_file: str, tmp_path: Path) -> None:
    code = (
        "import sys; from tests.evals.generate.test_many import *; "
        "print(digest(list(build_many(specs(6, tokenizer=sys.argv[1])))))"
    )
    found = set()
    for hash_seed in ("0", "1"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "FARSPAN_CACHE": str(tmp_path / hash_seed)}
        run = subprocess.run(
            [sys.executable, "-c", code, tokenizer_file],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        found.add(run.stdout.strip())
    assert found == {digest(list(build_many(specs(6, tokenizer=tokenizer_file))))}


def test_lazy_samples_rebuild_their_context(tokenizer_file: str) -> None:
    whole = list(build_many(specs(3, tokenizer=tokenizer_file)))
    lazy = list(build_many(specs(3, tokenizer=tokenizer_file), lazy=True))
    for one, other in zip(whole, lazy, strict=True):
        stored = LongSample.model_validate_json(other.model_dump_json())
        assert isinstance(stored.context, ContextRef)
        assert len(stored.model_dump_json()) < len(one.model_dump_json())
        assert stored.context.preview == one.text[:512]
        assert stored.text == one.text


def test_a_changed_context_is_noticed(tokenizer_file: str) -> None:
    (sample,) = build_many(specs(1, tokenizer=tokenizer_file), lazy=True)
    assert isinstance(sample.context, ContextRef)
    assert sample.context.spec is not None
    changed = sample.context.model_copy(update={"spec": {**sample.context.spec, "seed": 5}})
    with pytest.raises(SampleError, match="changed since it was stored"):
        changed.load()


def test_specifications_without_what_they_need_are_refused(counter: TokenCounter) -> None:
    with pytest.raises(SpecError, match="names no tokenizer"):
        list(build_many(specs(1)))
    with pytest.raises(SpecError, match="must name its tokenizer"):
        list(build_many(specs(1), counter, lazy=True))
    with pytest.raises(SpecError, match="at least one worker"):
        list(build_many(specs(1), counter, workers=0))
    with pytest.raises(SpecError, match="not a sample specification"):
        ContextRef(kind="generated", sha256="", n_chars=0, spec={"family": "x"}).load()
    with pytest.raises(LengthTargetError):
        list(build_many(specs(1, length=20), counter))


def test_specifications_are_read_only_as_far_as_needed(counter: TokenCounter) -> None:
    read = []

    def endless() -> object:
        for spec in specs(1) * 1000:
            read.append(spec)
            yield spec

    samples = build_many(endless(), counter)  # type: ignore[arg-type]
    next(samples)
    assert len(read) == 1
