"""The numbers behind every figure, as plain tables: written as CSV beside the report and folded under each figure.

A table holds raw values with the unit in the column's name; wording for people is the page's business. An unknown
number is an empty field.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from farspan.report.record import Measurement, RunRecord, TrialRecord, write_atomically

Value = str | int | float | bool | None


@dataclass(frozen=True)
class Table:
    """Rows under named columns; `name` is the file's name without its ending."""

    name: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Value, ...], ...]

    def to_csv(self) -> str:
        """The table as CSV text (RFC 4180 quoting, `\\n` line ends, header first)."""
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(self.columns)
        writer.writerows(self.rows)
        return stream.getvalue()


@dataclass(frozen=True)
class LeverTried:
    """What all trials together say about one lever: how often tried, how often kept, and its best trial."""

    lever: str
    trials: int
    kept: int
    best: TrialRecord | None


def sides(record: RunRecord) -> Iterator[tuple[str, Measurement]]:
    """The measurements of a run by name: `before`, and `after` where there is one."""
    yield "before", record.baseline
    if record.best is not None:
        yield "after", record.best


def effective_lengths(record: RunRecord) -> Table:
    """Effective length of every task, before and after."""
    rows: list[tuple[Value, ...]] = []
    for side, measured in sides(record):
        for name, task in measured.tasks.items():
            if (found := task.effective) is not None:
                n = found.n_per_length.values()
                ends = (min(n, default=None), max(n, default=None))
                rows.append((side, name, found.value, found.lo, found.hi, found.censoring, found.threshold, *ends))
    columns = ("measured", "task", "effective_tokens", "lo_tokens", "hi_tokens", "censoring", "threshold")
    return Table("effective_lengths", (*columns, "n_per_length_min", "n_per_length_max"), tuple(rows))


def scores_by_length(record: RunRecord) -> Table:
    """Mean score of every task and length, all depths pooled."""
    rows = [
        (side, name, cell.length, cell.mean, cell.lo, cell.hi, cell.n)
        for side, measured in sides(record)
        for name, task in measured.tasks.items()
        for cell in task.by_length
    ]
    columns = ("measured", "task", "length_tokens", "mean_score", "lo", "hi", "n")
    return Table("scores_by_length", columns, tuple(rows))


def scores_by_depth(record: RunRecord) -> Table:
    """Mean score of every task, length and depth."""
    rows = [
        (side, name, cell.length, cell.depth, cell.mean, cell.lo, cell.hi, cell.n)
        for side, measured in sides(record)
        for name, task in measured.tasks.items()
        for cell in task.cells
        if cell.depth is not None
    ]
    columns = ("measured", "task", "length_tokens", "depth_percent", "mean_score", "lo", "hi", "n")
    return Table("scores_by_depth", columns, tuple(rows))


def text_loss(record: RunRecord) -> Table:
    """Loss of ordinary text by position."""
    rows = [
        (side, point.position_start, point.position_end, point.loss, point.lo, point.hi, point.n)
        for side, measured in sides(record)
        for point in measured.text_loss
    ]
    columns = ("measured", "position_start", "position_end", "loss_nats_per_token", "lo", "hi", "n")
    return Table("text_loss", columns, tuple(rows))


def profile(record: RunRecord) -> Table:
    """Time and memory by length."""
    rows = [
        (side, *(getattr(row, name) for name in _PROFILE_FIELDS))
        for side, measured in sides(record)
        for row in measured.profile
    ]
    return Table("profile", ("measured", "length_tokens", *_PROFILE_FIELDS[1:]), tuple(rows))


_PROFILE_FIELDS = (
    *("length", "ttft_s", "ttft_lo", "ttft_hi", "tpot_s", "tpot_lo", "tpot_hi"),
    *("peak_memory_bytes", "kv_bytes", "n"),
)


def trials(record: RunRecord) -> Table:
    """Every recipe tried."""
    rows = [
        (
            *(trial.number, trial.recipe, " ".join(trial.levers), trial.state, trial.kept),
            *(trial.effective_length, trial.lo, trial.hi, trial.censoring),
            *(trial.ratio_to_baseline, trial.ratio_lo, trial.ratio_hi, trial.n),
            *(trial.length, trial.ttft_s, trial.peak_memory_bytes, trial.seconds, trial.reason),
        )
        for trial in record.trials
    ]
    columns = (
        *("number", "recipe", "levers", "state", "kept", "effective_tokens", "lo_tokens", "hi_tokens", "censoring"),
        *("ratio_to_baseline", "ratio_lo", "ratio_hi", "n", "length_tokens", "ttft_s", "peak_memory_bytes"),
        *("seconds", "reason"),
    )
    return Table("trials", columns, tuple(rows))


def ablation(record: RunRecord) -> Table:
    """What each lever of the winner bought and cost."""
    rows = [
        (
            *(row.lever, row.perspective, row.bought, row.bought_lo, row.bought_hi, row.n),
            *(row.ttft_ratio, row.memory_ratio, row.fit_seconds, row.note),
        )
        for row in record.ablation
    ]
    columns = (
        *("lever", "perspective", "bought_ratio", "bought_lo", "bought_hi", "n"),
        *("ttft_ratio", "memory_ratio", "fit_seconds", "note"),
    )
    return Table("ablation", columns, tuple(rows))


def levers(record: RunRecord) -> Table:
    """Every lever tried, over all trials."""
    rows = [
        (
            *(row.lever, row.trials, row.kept, row.best.number if row.best else None),
            *((row.best.ratio_to_baseline, row.best.ratio_lo, row.best.ratio_hi) if row.best else (None, None, None)),
        )
        for row in levers_tried(record)
    ]
    columns = ("lever", "trials", "kept", "best_trial", "best_ratio_to_baseline", "best_ratio_lo", "best_ratio_hi")
    return Table("levers", columns, tuple(rows))


def levers_tried(record: RunRecord) -> list[LeverTried]:
    """Trials summed up by lever, the lever with the best trial first.

    The best trial is the one with the largest ratio to the baseline among those that ran to the end.
    """
    names = dict.fromkeys(name for trial in record.trials for name in trial.levers)
    found = []
    for name in names:
        with_it = [trial for trial in record.trials if name in trial.levers and trial.state != "baseline"]
        ended = [trial for trial in with_it if trial.state == "complete" and trial.ratio_to_baseline is not None]
        best = max(ended, key=lambda trial: trial.ratio_to_baseline or 0.0, default=None)
        found.append(LeverTried(name, len(with_it), sum(trial.kept for trial in with_it), best))
    return sorted(found, key=lambda row: -((row.best.ratio_to_baseline if row.best else None) or 0.0))


def all_tables(record: RunRecord) -> list[Table]:
    """Every table that has rows."""
    makers = (effective_lengths, scores_by_length, scores_by_depth, text_loss, profile, trials, ablation, levers)
    return [table for make in makers if (table := make(record)).rows]


def write_tables(record: RunRecord, folder: Path) -> list[Path]:
    """Write every table as `folder/<name>.csv` and return the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for table in all_tables(record):
        path = folder / f"{table.name}.csv"
        write_atomically(path, table.to_csv())
        paths.append(path)
    return paths
