"""Documents on the disk while a run lasts, so that thousands of samples of long documents fit in memory.

Samples keep a reference to where their document stands; questions on one document share it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from farspan.evals.documents.base import BenchmarkError, DocumentBenchmark
from farspan.evals.schema import PREVIEW_CHARACTERS, ContextRef, LongSample, text_sha256


class DocumentStore:
    """A file of documents that goes when this object goes."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="farspan-")
        self.path = Path(self._folder.name) / "documents"
        self._stream = self.path.open("wb")
        self._references: dict[str, ContextRef] = {}

    def kept(self, sample: LongSample) -> LongSample:
        """The sample with its document on the disk."""
        # Halves of surrogate pairs are no text in any encoding; published files hold none that matters.
        text = sample.text.encode("utf-8", errors="replace").decode("utf-8")
        digest = text_sha256(text)
        if digest not in self._references:
            data = text.encode("utf-8")
            offset = self._stream.tell()
            self._stream.write(data)
            self._stream.flush()
            self._references[digest] = ContextRef(
                kind="file",
                sha256=digest,
                n_chars=len(text),
                preview=text[:PREVIEW_CHARACTERS],
                path=str(self.path),
                offset=offset,
                size=len(data),
            )
        return sample.model_copy(update={"context": self._references[digest]})


class DocumentSource:
    """Samples of a benchmark by set and id; each set is read once, when it is first asked for.

    Parameters
    ----------
    limit : questions of each set, the first ones
    """

    def __init__(self, benchmark: DocumentBenchmark, data_dir: str = "", limit: int | None = None) -> None:
        self.benchmark = benchmark
        self.data_dir = data_dir or None
        self.limit = limit
        self._store = DocumentStore()
        self._sets: dict[str, dict[str, LongSample]] = {}

    def samples(self, name: str) -> Iterator[LongSample]:
        """The samples of a set in order."""
        if name not in self._sets:
            read = islice(self.benchmark.load(self.benchmark.datasets[name], self.data_dir), self.limit)
            self._sets[name] = {sample.id: self._store.kept(sample) for sample in read}
        yield from self._sets[name].values()

    def sample(self, name: str, sample_id: str) -> LongSample:
        """One sample.

        Raises
        ------
        BenchmarkError : the set has none of that id.
        """
        list(self.samples(name))
        if sample_id not in self._sets[name]:
            raise BenchmarkError(f"{self.benchmark.name}, set {name}, has no question '{sample_id}' any more")
        return self._sets[name][sample_id]
