"""Predictions that were made elsewhere, in the form of a benchmark's own repository, scored without any document."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from farspan.evals.documents.base import BenchmarkError, Dataset, DocumentBenchmark, Reading, suggestion
from farspan.evals.documents.run import DocumentRun
from farspan.evals.documents.scored import Scored
from farspan.evals.sources import DataFileError, file_sha256, iter_json_array, iter_jsonl

ENDINGS = (".jsonl", ".json")


def score_files(
    benchmark: DocumentBenchmark, path: str | Path, reading: Reading = "official", *, dataset: str = ""
) -> DocumentRun:
    """Score a file of predictions, or every file of a folder.

    Parameters
    ----------
    path : files are named by their sets, `hotpotqa.jsonl`; one object a line, or one array
    dataset : the set of a file that has another name

    Raises
    ------
    BenchmarkError : no file, a file that belongs to no set, or rows of another form.
    DataFileError : a file that is no JSON.
    """
    path = Path(path)
    scored: list[Scored] = []
    files = []
    for file, chosen in _files(benchmark, path, dataset):
        seen: set[str] = set()
        try:
            for number, (sample, prediction) in enumerate(benchmark.predictions(chosen, _rows(file))):
                if sample.id in seen:
                    # published rows often have no id; each is a question of its own all the same
                    own = f"{sample.id}/{number}"
                    metadata = {**sample.metadata, "shared_context_key": own}
                    sample = sample.model_copy(update={"id": own, "metadata": metadata})
                seen.add(sample.id)
                scored.append(benchmark.scored(sample, prediction, reading))
        except (KeyError, TypeError, AttributeError) as error:
            raise BenchmarkError(
                f"{file} is no file of predictions of {benchmark.title}, set {chosen.name}: {error}"
            ) from error
        files.append({"name": file.name, "dataset": chosen.name, "sha256": file_sha256(file)})
    settings = {"benchmark": benchmark.name, "options": benchmark.switches, "reading": reading}
    return DocumentRun(benchmark, reading, tuple(scored), settings=settings, files=tuple(files))


def _files(benchmark: DocumentBenchmark, path: Path, dataset: str) -> list[tuple[Path, Dataset]]:
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix in ENDINGS)
        found = [(file, benchmark.datasets[file.stem]) for file in files if file.stem in benchmark.datasets]
        if not found:
            names = ", ".join(file.name for file in files[:5]) or "no file"
            raise BenchmarkError(
                f"{path} has no predictions of {benchmark.title}: its files are named by sets, such as "
                f"{next(iter(benchmark.datasets))}.jsonl; it has {names}"
            )
        return found
    if not path.is_file():
        raise BenchmarkError(f"there is no file or folder {path}")
    name = dataset or (next(iter(benchmark.datasets)) if len(benchmark.datasets) == 1 else path.stem)
    if name not in benchmark.datasets:
        close = suggestion(name, list(benchmark.datasets))
        raise BenchmarkError(f"{path} is named by no set of {benchmark.title}; say --dataset ({close})")
    return [(path, benchmark.datasets[name])]


def _rows(path: Path) -> Iterator[Mapping[str, object]]:
    with path.open("rb") as stream:
        start = stream.read(64).lstrip()
    if not start:
        raise DataFileError(f"{path} is empty")
    return iter_json_array(path) if start.startswith(b"[") else iter_jsonl(path)
