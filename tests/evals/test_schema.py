from __future__ import annotations

from pathlib import Path

import pytest

from farspan.evals.schema import (
    ContextRef,
    EvidenceSpan,
    LongSample,
    SampleError,
    read_samples,
    text_sha256,
    write_samples,
)


def sample(**more: object) -> LongSample:
    """A minimal sample."""
    fields = {"id": "a/1", "benchmark": "a", "task": "t", "context": "long text", "question": "why?", "answers": ["so"]}
    return LongSample.model_validate({**fields, **more})


def test_metadata_is_read_through_properties() -> None:
    span = EvidenceSpan(fact_id="f", start_char=0, end_char=4, start_token=0, end_token=1)
    made = sample(
        metadata={
            "length": 128,
            "depth": 40,
            "shared_context_key": "k",
            "evidence_spans": [span.model_dump()],
        }
    )
    assert (made.length, made.depth, made.shared_context_key) == (128, 40.0, "k")
    assert made.evidence_spans == (span,)
    bare = sample()
    assert (bare.length, bare.depth, bare.shared_context_key, bare.evidence_spans) == (0, None, "", ())


def test_spans_move_with_text_put_before_them() -> None:
    span = EvidenceSpan(fact_id="f", start_char=1, end_char=4, start_token=0, end_token=2).shifted(10, 3)
    assert (span.start_char, span.end_char, span.start_token, span.end_token) == (11, 14, 3, 5)
    assert EvidenceSpan(fact_id="f", start_char=1, end_char=4).shifted(1, 1).start_token is None


def test_samples_survive_the_file(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "x.jsonl"
    samples = [sample(id=str(i), context="zwölf\u2028日本") for i in range(3)]
    assert write_samples(path, samples) == 3
    assert write_samples(path, [sample(id="more")], append=True) == 1
    assert [s.id for s in read_samples(path)] == ["0", "1", "2", "more"]
    assert next(read_samples(path)) == samples[0]


def test_samples_that_cannot_be_made_leave_no_file(tmp_path: Path) -> None:
    def failing() -> object:
        raise SampleError("none")
        yield

    with pytest.raises(SampleError, match="none"):
        write_samples(tmp_path / "x.jsonl", failing())  # type: ignore[arg-type]
    assert not (tmp_path / "x.jsonl").exists()


def test_broken_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(sample().model_dump_json() + "\n\n{}\n", encoding="utf-8")
    with pytest.raises(SampleError, match="line 3 is not a sample"):
        list(read_samples(path))
    with pytest.raises(SampleError, match="cannot read samples"):
        list(read_samples(tmp_path / "none.jsonl"))
    with pytest.raises(SampleError, match="cannot write samples"):
        write_samples(tmp_path, [sample()])


def test_contexts_are_read_from_files_by_bytes(tmp_path: Path) -> None:
    path = tmp_path / "book.txt"
    path.write_text("één twee drie", encoding="utf-8")
    data = b"twee"
    reference = ContextRef(kind="file", path=str(path), offset=6, size=len(data), sha256=text_sha256("twee"), n_chars=4)
    assert sample(context=reference).text == "twee"
    with pytest.raises(SampleError, match="changed since it was stored"):
        reference.model_copy(update={"offset": 0}).load()
    with pytest.raises(SampleError, match="cannot read the context"):
        reference.model_copy(update={"path": str(tmp_path / "none")}).load()
