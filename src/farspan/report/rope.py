"""The page of a model's rotary pairs: what a method does to each, and what its angles say about that.

Everything drawn is given as plain numbers; nothing is planned or measured here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from farspan.report import listing, units
from farspan.report.document import KEY_MARKS, document, figures, section, swatch
from farspan.report.reading import Panel
from farspan.report.record import RecordError, write_atomically
from farspan.report.rope_figures import (
    FATES,
    circle_panel,
    disturbance_panel,
    divisor_panel,
    finite,
    wavelength_panel,
)
from farspan.report.tables import Table, Value

if TYPE_CHECKING:
    from farspan.positions.distribution import Distributions
    from farspan.positions.pairs import PairRow

PAGE_NAME = "rope.html"
TABLES_NAME = "tables"


@dataclass(frozen=True)
class RopeView:
    """What a page shows.

    model, architecture : names
    method : lever in its string form, empty for a model shown as it is
    native_length, target_length : tokens; equal without a method
    rows : every rotary pair
    distributions : what the angles say, None to leave that part out
    """

    model: str
    architecture: str
    method: str
    native_length: int
    target_length: int
    rows: Sequence[PairRow]
    distributions: Distributions | None = None


def build_rope_page(view: RopeView, out_dir: Path) -> Path:
    """Write `rope.html` and `tables/*.csv`, and return the page's path. Equal views give equal bytes.

    Raises
    ------
    RecordError : the folder cannot be written.
    """
    text = render_rope(view)
    try:
        folder = out_dir / TABLES_NAME
        folder.mkdir(parents=True, exist_ok=True)
        for table in rope_tables(view):
            write_atomically(folder / f"{table.name}.csv", table.to_csv())
        write_atomically(out_dir / PAGE_NAME, text)
    except OSError as error:
        raise RecordError(
            f"cannot write to {out_dir}: {error.strerror or error}; choose another --out folder"
        ) from error
    return out_dir / PAGE_NAME


def rope_tables(view: RopeView) -> list[Table]:
    """The numbers of every figure."""
    found = [pair_table(view)]
    if view.distributions is not None:
        found += [disturbance_table(view.distributions), angle_table(view.distributions)]
    return found


def pair_table(view: RopeView) -> Table:
    """Every pair before and after."""
    columns = (
        *("pair", "wavelength_tokens", "new_wavelength_tokens", "turns_in_native_window", "new_turns_in_target_window"),
        *("divisor", "fate"),
    )
    rows = [
        (
            *(row.index, finite(row.wavelength), finite(row.new_wavelength), row.turns, row.new_turns),
            *(finite(row.divisor), row.fate),
        )
        for row in view.rows
    ]
    return Table("rotary_pairs", columns, tuple(rows))


def disturbance_table(found: Distributions) -> Table:
    """Disturbance of every pair by candidate, and what was chosen."""
    names = list(found.disturbance)
    rows: list[tuple[Value, ...]] = [
        (index, finite(wavelength), *(found.disturbance[name][index] for name in names), found.choice[index])
        for index, wavelength in enumerate(found.wavelengths)
    ]
    columns = ("pair", "wavelength_tokens", *(f"{name}_nats" for name in names), "choice")
    return Table("disturbance", columns, tuple(rows))


def angle_table(found: Distributions) -> Table:
    """The distributions of the telling pairs, bin by bin."""
    rows: list[tuple[Value, ...]] = [
        (pair.index, index * 360 / found.bins, *shares)
        for pair in found.pairs
        for index, shares in enumerate(zip(pair.trained, pair.kept, pair.interpolated, strict=True))
    ]
    columns = ("pair", "bin_start_degrees", "trained_share", "kept_share", "interpolated_share")
    return Table("angles", columns, tuple(rows))


def verdict(view: RopeView) -> str:
    """What the page says, in one sentence."""
    n = len(view.rows)
    if not view.method:
        open_pairs = sum(row.turns < 1 for row in view.rows)
        return (
            f"{view.model} turns {n - open_pairs} of {n} rotary pairs fully within its window of "
            f"{units.count(view.native_length)} tokens"
        )
    counts: Counter[str] = Counter(row.fate for row in view.rows)
    said = ", ".join(f"{counts[fate]} {word}" for fate, word in FATES.items() if counts[fate])
    name = view.method.partition(":")[0]
    return (
        f"{name} takes {view.model} from {units.count(view.native_length)} to {units.count(view.target_length)} "
        f"tokens: of {n} rotary pairs {said}"
    )


def render_rope(view: RopeView) -> str:
    """The page as HTML text."""
    drawn: dict[str, Panel] = {}
    said = verdict(view)
    origin = [f"<b>{escape(view.model)}</b>", escape(view.architecture), "farspan rope"]
    delivered = (
        f'<p class="delivered"><span class="muted">Lever</span> {listing.recipe_code(view.method)}</p>'
        if view.method
        else ""
    )
    head = (
        f'<header><p class="origin">{"".join(f"<span>{part}</span>" for part in origin)}</p>'
        f"<h1>{escape(said)}</h1>{delivered}</header>"
    )
    main = _pairs_section(view, drawn) + _angles_section(view, drawn)
    foot = (
        "<footer><p>Made by <code>farspan rope</code>. Every figure's numbers are in <code>tables/</code>.</p></footer>"
    )
    title = f"{view.model} \N{MIDDLE DOT} rotary pairs"
    return document(title, said, f"{head}<main>{main}</main>{foot}", drawn)


def _pairs_section(view: RopeView, drawn: dict[str, Panel]) -> str:
    lead = (
        f"A pair of channels turns by its frequency from one token to the next; its wavelength is a full turn. "
        f"A pair whose wavelength is longer than the native window of {units.count(view.native_length)} tokens has "
        "shown the model only part of its circle."
    )
    stretched = bool(view.method)
    panels = [wavelength_panel(view.rows, view.native_length, view.target_length, stretched)]
    keys = [f"{KEY_MARKS['before']}as trained"]
    if stretched:
        panels.append(divisor_panel(view.rows, view.target_length / view.native_length))
        keys.append(f"{KEY_MARKS['after']}stretched")
    numbers = listing.numbers(pair_table(view))
    return section("pairs", "Rotary pairs", lead, _keys(keys), figures(panels, drawn, two=len(panels) > 1), numbers)


def _angles_section(view: RopeView, drawn: dict[str, Panel]) -> str:
    found = view.distributions
    if found is None:
        return ""
    totals = ", ".join(f"{escape(name)} {units.significant(1000 * value)}" for name, value in found.totals.items())
    rule = (
        ""
        if found.threshold is None
        else f" A pair is changed where that gains more than {units.significant(1000 * found.threshold)} thousandths."
    )
    lead = (
        "Disturbance is the divergence, in nats, of the angles a pair meets in the target window from those it met in "
        f"training, over {found.bins} parts of the circle.{rule} Mean over all pairs, in thousandths of a nat: "
        f"{totals}."
    )
    marks = [f"{swatch(20, _DASHED)}kept", f"{swatch(20, _QUIET)}changed", f"{swatch(12, _DOT)}chosen"]
    panels = figures([disturbance_panel(found)], drawn)
    pairs = figures([circle_panel(pair, found) for pair in found.pairs], drawn, two=True)
    words = [
        f"{swatch(20, _DASHED)}in training",
        f"{swatch(20, _QUIET)}kept, in the target window",
        f"{swatch(20, _FULL)}interpolated, in the target window",
    ]
    return section(
        "angles",
        "Angles met",
        lead,
        _keys(marks),
        panels,
        listing.numbers(disturbance_table(found)),
        "<h3>Distribution of the angles of single pairs</h3>",
        _keys(words),
        pairs,
        listing.numbers(angle_table(found)),
    )


_QUIET = '<path d="M0 6h20" stroke="var(--hatch)"/>'
_DASHED = '<path d="M0 6h20" stroke="var(--before)" stroke-dasharray="4 3"/>'
_DOT = '<circle cx="6" cy="6" r="4" fill="var(--after)"/>'
_FULL = '<path d="M0 6h20" stroke="var(--after)"/>'


def _keys(keys: Sequence[str]) -> str:
    return f'<p class="legend">{"".join(f"<span>{key}</span>" for key in keys)}</p>'
