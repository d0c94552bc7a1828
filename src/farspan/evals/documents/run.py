"""A run of a document benchmark: questions asked block by block, answers kept as they come, tables at the end.

Every answer is a line of a file in the run's folder as soon as it is there; the same run goes on behind the last one.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from importlib.metadata import version
from itertools import islice
from pathlib import Path

from farspan.errors import FarspanError
from farspan.evals.asking import Heard
from farspan.evals.documents.asking import Asked, Fitter, Voice
from farspan.evals.documents.base import Dataset, DocumentBenchmark, Reading, Row, Scored, Table, grouped, mean_row
from farspan.evals.documents.scored import Judgement, judge_row
from farspan.evals.schema import LongSample
from farspan.evals.sources import MissingDataError, file_sha256, hub_commit, known_sha256, resolve_file

BLOCK = 16
LARGEST_BLOCK = 64

Key = tuple[str, str, int]


@dataclass(frozen=True)
class DocumentRun:
    """What a run found: every scored answer, and the tables over them.

    skipped : questions that were not asked, since their prompts did not fit
    unanswered : questions that got no answer
    files : the data read, with revision and hash
    judge, judgements : who read the open answers, and what it said
    judge_trouble : why the first of its replies that did not come is missing
    """

    benchmark: DocumentBenchmark
    reading: Reading
    scored: tuple[Scored, ...]
    skipped: int = 0
    unanswered: int = 0
    settings: Mapping[str, object] = field(default_factory=dict)
    files: tuple[Mapping[str, object], ...] = ()
    judge: str = ""
    judgements: tuple[Judgement, ...] = ()
    judge_trouble: str = ""

    @cached_property
    def table(self) -> Table:
        """The published averages, then what must be read beside them: cut documents, languages, lengths, trouble."""
        table = self.benchmark.table(self.scored, self.reading)
        judged, said = self._judged()
        return Table([*table.rows, *judged, *self._beside()], [*table.notes, *said, *self._trouble()])

    def _judged(self) -> tuple[list[Row], list[str]]:
        """A judge's means by set, and how many of its replies are in none of them."""
        if not self.judge:
            return [], []
        by_set: dict[str, list[Judgement]] = {}
        for one in self.judgements:
            by_set.setdefault(one.sample.task, []).append(one)
        rows = [judge_row(name, part) for name, part in by_set.items()]
        if self.benchmark.judge_pools and len(by_set) > 1:
            rows.append(judge_row("all sets", self.judgements))
        n = len(self.judgements)
        notes = [f"judge {self.judge}: {self.benchmark.judge_says}"]
        for figure, label in (
            ("judge_silent", "got no reply"),
            ("judge_unreadable", "got a reply without a readable verdict"),
        ):
            if count := sum(bool(one.figures.get(figure)) for one in self.judgements):
                why = f": {self.judge_trouble}" if figure == "judge_silent" and self.judge_trouble else ""
                notes.append(f"judge: {count} of {n} answers {label}{why}")
        if without := sum(not one.verdicts for one in self.judgements):
            notes.append(f"judge: {without} of {n} answers have no verdict and are in no average of the judge")
        return rows, notes

    def _beside(self) -> list[Row]:
        whole = [one for one in self.scored if not one.truncated]
        rows = [mean_row("all", "every question", self.scored)]
        if len(whole) < len(self.scored):
            rows.append(mean_row("all", "documents not cut", whole))
        for label, groups in (
            ("task", grouped(self.scored, "task")),
            ("language", _by_language(self.scored)),
            ("length", grouped(self.scored, "length_level")),
        ):
            if len(groups) > 1:
                rows += [mean_row(label, name, part) for name, part in groups.items()]
        return rows

    def _trouble(self) -> list[str]:
        n = len(self.scored)
        notes = []
        cut = sum(one.truncated for one in self.scored)
        if cut:
            notes.append(f"{cut} of {n} documents were cut to the window")
        counts = Counter(problem for one in self.scored for problem in one.problems)
        notes += [f"{count} of {n} answers: {problem.replace('_', ' ')}" for problem, count in counts.most_common()]
        if self.skipped:
            notes.append(f"{self.skipped} questions do not fit the window and were not asked; they are in no average")
        if self.unanswered:
            notes.append(f"{self.unanswered} questions got no answer and are in no average")
        return notes

    @property
    def data_notes(self) -> list[str]:
        """Files read that are not the published ones."""
        return [
            f"{file['name']} is not the published file: its sha256 begins {str(file['sha256'])[:12]}"
            for file in self.files
            if file.get("published") is False
        ]

    def record(self) -> dict[str, object]:
        """Tables, notes, counts and settings, as JSON takes them."""
        table = self.table
        return {
            "benchmark": self.benchmark.name,
            "reading": self.reading,
            "n": len(self.scored),
            "truncated": sum(one.truncated for one in self.scored),
            "skipped": self.skipped,
            "unanswered": self.unanswered,
            "problems": dict(Counter(problem for one in self.scored for problem in one.problems)),
            **self._judge_record(),
            "rows": [asdict(row) for row in table.rows],
            "notes": table.notes,
            "settings": dict(self.settings),
            "files": [dict(file) for file in self.files],
            "versions": {package: version(package) for package in ("farspan", "jieba", "rouge-score")},
        }

    def _judge_record(self) -> dict[str, object]:
        if not self.judge:
            return {}
        counts = {
            name: int(sum(one.figures.get(name, 0.0) for one in self.judgements))
            for name in ("verdicts", "judge_unreadable", "judge_silent")
        }
        return {"judge": {"name": self.judge, "n": len(self.judgements), **counts, **self.benchmark.judge_identity()}}

    def save(self, path: Path) -> None:
        """Write the record."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self.record(), ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def run_documents(
    fitter: Fitter,
    voice: Voice,
    datasets: Sequence[Dataset],
    *,
    data_dir: str | Path | None = None,
    limit: int | None = None,
    runs: int | None = None,
    out: str | Path | None = None,
    label: str = "",
    progress: Callable[[str, int], None] | None = None,
) -> DocumentRun:
    """Ask and score.

    Parameters
    ----------
    limit : questions of each set, the first ones
    runs : answers a question; the benchmark's own where left out
    out : folder for `predictions.jsonl`, from which an earlier run goes on
    label : what to call the model, for the record
    progress : told the set's name and the questions done in it

    Raises
    ------
    MissingDataError, DataFileError : of the data.
    TruncationError : the window is too short for a set's answers alone.
    FarspanError : the folder holds another run.
    """
    made = fitter.benchmark
    fitter.check(datasets)
    settings: dict[str, object] = {
        "benchmark": made.name,
        "options": {k: v for k, v in made.switches.items() if k not in made.judge_options},
        "model": label,
        "reading": fitter.reading,
        "window": fitter.window,
        "truncate": fitter.truncate,
        "template": fitter.template,
        "prompts": None if fitter.prompts is None else file_sha256(fitter.prompts.path),
    }
    kept = Predictions(None if out is None else Path(out) / "predictions.jsonl", settings)
    scored: list[Scored] = []
    skipped = unanswered = 0
    for run in range(1, (runs or made.runs) + 1):
        for dataset in datasets:
            done = 0
            for block in blocks(islice(made.load(dataset, data_dir), limit)):
                open_ones = [sample for sample in block if (dataset.name, sample.id, run) not in kept]
                too_long = set()
                for asked, reply in _answers(fitter, voice, open_ones):
                    if asked.too_long:
                        too_long.add(asked.sample.id)
                    elif reply is not None:
                        cut = {**asked.cut, "hit_length_limit": True} if reply.truncated else asked.cut
                        kept.add((dataset.name, asked.sample.id, run), reply.text, cut)
                for sample in block:
                    found = kept.get((dataset.name, sample.id, run))
                    skipped += sample.id in too_long
                    unanswered += found is None and sample.id not in too_long
                    if found is not None:
                        one = with_cut(made.scored(sample, found[0], fitter.reading, run=run), found[1])
                        # the document is not needed any more, and there may be very many
                        scored.append(replace(one, sample=sample.model_copy(update={"context": ""})))
                done += len(block)
                if progress is not None:
                    progress(dataset.name, done)
    return DocumentRun(
        made,
        fitter.reading,
        tuple(scored),
        skipped,
        unanswered,
        {**settings, "temperature": getattr(voice, "temperature", 0.0)},
        files_of(made, datasets, data_dir),
    )


def with_cut(one: Scored, cut: Mapping[str, object]) -> Scored:
    """A scored answer with what was recorded when its prompt was cut and its reply came."""
    span, full, kept = cut.get("cut_span"), cut.get("n_tokens_full"), cut.get("n_tokens_kept")
    ended = bool(cut.get("hit_length_limit"))
    return replace(
        one,
        problems=(*one.problems, "hit_length_limit") if ended else one.problems,
        truncated=bool(cut.get("truncated")),
        n_full=full if isinstance(full, int) else None,
        n_kept=kept if isinstance(kept, int) else None,
        cut_span=(int(span[0]), int(span[1])) if isinstance(span, list | tuple) else None,
    )


def files_of(
    made: DocumentBenchmark, datasets: Sequence[Dataset], data_dir: str | Path | None
) -> tuple[Mapping[str, object], ...]:
    """The files of sets that are on this machine, with the hash of what was really read.

    `published` says whether that is the published hash, None where it is not known.
    """
    found = []
    for choice in dict.fromkeys(made.files(dataset) for dataset in datasets):
        for file in choice:
            try:
                path = resolve_file(replace(file, strict=False), data_dir)
            except MissingDataError:
                # the rows were read from another layout
                continue
            digest = known_sha256(path)
            found.append(
                {
                    "repo": file.repo,
                    "name": file.name,
                    "revision": hub_commit(path) or file.revision,
                    "sha256": digest,
                    "published": None if file.sha256 is None else digest == file.sha256,
                }
            )
            break
    return tuple({str(file["name"]): file for file in found}.values())


def blocks(samples: Iterator[LongSample]) -> Iterator[list[LongSample]]:
    """Samples in blocks that end where a document ends, so that questions on one document stay together."""
    block: list[LongSample] = []
    for sample in samples:
        fresh = not block or sample.shared_context_key != block[-1].shared_context_key
        if block and ((fresh and len(block) >= BLOCK) or len(block) >= LARGEST_BLOCK):
            yield block
            block = []
        block.append(sample)
    if block:
        yield block


def _answers(fitter: Fitter, voice: Voice, samples: Sequence[LongSample]) -> Iterator[tuple[Asked, Heard | None]]:
    """What was asked for each sample, and the reply that is its prediction, None where there is none."""
    asked = fitter.block(samples)
    heard = voice.ask(asked) if asked else []
    second = [
        fitter.asked(one.sample, follow)
        for one, reply in zip(asked, heard, strict=True)
        if not reply.error
        and (follow := fitter.benchmark.followed_by(one.sample, reply.text, fitter.reading)) is not None
    ]
    later: dict[str, Heard] = {}
    if second:
        later = {one.sample.id: reply for one, reply in zip(second, voice.ask(second), strict=True)}
    for one, reply in zip(asked, heard, strict=True):
        yield one, _prediction(fitter, one, reply, later.get(one.sample.id))


def _prediction(fitter: Fitter, asked: Asked, first: Heard, second: Heard | None) -> Heard | None:
    if first.error or (second is not None and second.error):
        return None
    if second is None:
        return first
    text = fitter.benchmark.joined(asked.sample, first.text, second.text)
    return second.model_copy(update={"text": text})


class Predictions:
    """Answers by set, question and run, kept in a file.

    Parameters
    ----------
    path : None keeps them in memory alone
    settings : what decides what is asked and how; a file with other settings is another run's

    Raises
    ------
    FarspanError : another run's file, or one that is damaged before its last line.
    """

    def __init__(self, path: Path | None, settings: Mapping[str, object]) -> None:
        self.path = path
        self.head = json.loads(json.dumps(settings))
        self._found: dict[Key, tuple[str, Mapping[str, object]]] = {}
        if path is not None and path.is_file():
            self._read(path)

    def __contains__(self, key: Key) -> bool:
        return key in self._found

    def __len__(self) -> int:
        return len(self._found)

    @property
    def runs(self) -> int:
        """The highest number of an answer to one question."""
        return max((run for _, _, run in self._found), default=0)

    def get(self, key: Key) -> tuple[str, Mapping[str, object]] | None:
        """A prediction and how its prompt was cut."""
        return self._found.get(key)

    def add(self, key: Key, prediction: str, cut: Mapping[str, object]) -> None:
        """Keep a prediction; it is on the disk when this returns."""
        self._found[key] = (prediction, cut)
        if self.path is None:
            return
        lines = [] if self.path.is_file() else [json.dumps(self.head)]
        row = {"dataset": key[0], "id": key[1], "run": key[2], "prediction": prediction, "cut": dict(cut)}
        # Models write halves of surrogate pairs, which no file can hold as they are.
        lines.append(json.dumps(row, ensure_ascii=True))
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8", newline="\n") as stream:
            stream.write("\n".join(lines) + "\n")

    def _read(self, path: Path) -> None:
        data = path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if not whole:
            path.unlink()
            return
        if len(whole) < len(data):
            # The line that a killed run was writing.
            path.write_bytes(whole)
        try:
            head, *rows = [json.loads(line) for line in whole.splitlines()]
            for row in rows:
                self._found[row["dataset"], row["id"], row["run"]] = (row["prediction"], row["cut"])
        except (ValueError, KeyError, TypeError) as error:
            raise FarspanError(f"{path} is no file of predictions; use another --out folder") from error
        other = [name for name in self.head if head.get(name) != self.head[name]]
        if other:
            raise FarspanError(
                f"{path} belongs to a run with {other[0]}={head.get(other[0])!r}, not {self.head[other[0]]!r}; use "
                "another --out folder"
            )


def _by_language(scored: Sequence[Scored]) -> dict[str, list[Scored]]:
    groups: dict[str, list[Scored]] = {}
    for one in scored:
        groups.setdefault(one.sample.language, []).append(one)
    return groups
