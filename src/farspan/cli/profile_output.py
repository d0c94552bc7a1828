"""Progress, tables of methods and mixers, one a length and narrow enough for 80 columns, and files of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from farspan.report import units

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from farspan.profiling import AttentionCost, MixerCost, Profile


class Passes:
    """A progress bar on the error stream, gone when the work is done."""

    def __init__(self, label: str) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("passes"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task(label, total=None)
        self._done = 0

    def __enter__(self) -> Passes:
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def step(self, total: int) -> None:
        """One more pass is done."""
        self._done += 1
        self.at(self._done, total)

    def at(self, done: int, total: int) -> None:
        """Show how far the work is."""
        self._bar.update(self._task, completed=done, total=total)


def print_attention(console: Console, costs: Sequence[AttentionCost]) -> None:
    """Attention of single layers by method, all at one length, the dense side first."""
    if not costs:
        return
    dense = costs[0]
    console.print(
        f"[bold]{units.count(dense.length)} tokens[/bold]: attention of {dense.layers} layers alone, medians of "
        f"{dense.rounds} runs; dense by {dense.executors[0]}",
        soft_wrap=True,
    )
    table = _table("method", ("read", "mass", "error", "choosing", "computing", "gain", "memory"))
    for cost in costs:
        table.add_row(
            cost.method,
            *(_share(value) for value in (cost.density, cost.coverage, cost.relative_error)),
            units.seconds(cost.choosing_seconds),
            units.seconds(cost.computing_seconds),
            units.MISSING if cost.times_faster is None else units.ratio(cost.times_faster),
            units.size(cost.peak_bytes),
        )
    console.print(table)
    for cost in costs[1:]:
        said = cost.note or f"computed by {' and '.join(cost.executors)}"
        console.print(f"{cost.method}: {said}", soft_wrap=True)


def print_models(
    console: Console,
    profiles: Sequence[Profile],
    scores: Mapping[tuple[str, int], Mapping[str, float]],
    length: int,
    methods: Sequence[str],
    n: int,
) -> None:
    """The whole model by method at one length: its profile, named by `recipe`, and its scores by method and length."""
    points = {profile.recipe: point for profile in profiles for point in profile.points if point.length == length}
    tasks = sorted({name for found in scores.values() for name in found})
    runs = f", medians of {profiles[0].repeats} runs" if profiles else ""
    asked = f", n={n} questions a task" if tasks else ""
    console.print(f"[bold]{units.count(length)} tokens[/bold]: the whole model{runs}{asked}", soft_wrap=True)
    table = _table("method", (*(("first token", "a token", "memory", "KV") if profiles else ()), *tasks))
    for method in methods:
        cells = []
        if profiles:
            point = points[method]
            memory = point.memory
            cells = [
                point.status if point.ttft is None else units.seconds(point.ttft.median),
                units.seconds(point.tpot.median if point.tpot else None),
                units.size(memory.allocated_peak if memory else None),
                units.size(memory.kv_cache if memory else None),
            ]
        found = scores.get((method, length), {})
        table.add_row(method, *cells, *(_share(found.get(name)) for name in tasks))
    console.print(table)
    for method, point in points.items():
        if point.note:
            console.print(f"{method}: {point.status}: {point.note}", soft_wrap=True)


def print_mixers(console: Console, costs: Sequence[MixerCost]) -> None:
    """Mixers, a table a length."""
    for length in dict.fromkeys(cost.length for cost in costs):
        some = [cost for cost in costs if cost.length == length]
        console.print(f"[bold]{units.count(length)} tokens[/bold]: medians of {some[0].rounds} runs", soft_wrap=True)
        table = _table("mixer", ("operations", "state", "sequence", "one more", "memory"))
        for cost in some:
            table.add_row(
                cost.mixer if cost.causal else f"{cost.mixer} (not causal)",
                units.quantity(cost.flops / 1e9) + units.SPACE + "GFLOP",
                units.size(cost.state_bytes),
                units.seconds(cost.seconds),
                units.seconds(cost.step_seconds),
                units.size(cost.peak_bytes),
            )
        console.print(table)


def write(console: Console, folder: Path, files: Mapping[str, str]) -> None:
    """Write files and say so."""
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    if files:
        console.print(f"written: {', '.join(str(folder / name) for name in files)}", soft_wrap=True)


def _table(first: str, others: Sequence[str]) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column(first, overflow="fold", min_width=12)
    for heading in others:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def _share(value: float | None) -> str:
    return units.MISSING if value is None else f"{value:.1%}"
