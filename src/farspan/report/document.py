"""What every page of this room is made of: the frame, sections, and figures with the script that draws them.

A page carries its style, its script and its figures, and loads nothing. What stands in it is the business of the pages.
"""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Sequence
from functools import cache
from html import escape
from importlib.resources import files

from plotly.offline import get_plotlyjs

from farspan.report import units
from farspan.report.reading import Panel
from farspan.report.theme import DARK, LIGHT


def swatch(width: int, inner: str) -> str:
    """A small drawing for a legend, 12 pixels high."""
    return f'<svg width="{width}" height="12" aria-hidden="true" fill="none" stroke-width="2">{inner}</svg>'


KEY_MARKS = {
    "before": swatch(
        26,
        '<path d="M0 6h26" stroke="var(--before)" stroke-dasharray="4 3"/>'
        '<circle cx="13" cy="6" r="4" fill="var(--paper)" stroke="var(--before)"/>',
    ),
    "after": swatch(26, '<path d="M0 6h26" stroke="var(--after)"/><circle cx="13" cy="6" r="5" fill="var(--after)"/>'),
    "threshold": swatch(20, '<path d="M0 6h20" stroke="currentColor"/>'),
    "missing": swatch(16, '<path d="M-2 10 8 0M2 14 16 0M9 14 19 4" stroke="var(--hatch)" stroke-width="1.5"/>'),
}
_FALLBACK = (
    "This figure is drawn by a script that did not run here; its numbers are in the table below and in the CSV files."
)


def document(title: str, description: str, body: str, drawn: dict[str, Panel]) -> str:
    """A whole page as HTML text.

    Parameters
    ----------
    title, description : plain text, of the window and for search
    body : HTML of header, main part and footer
    drawn : the figures that `figures` has placed in the body
    """
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<title>{escape(title)}</title>\n<link rel="icon" href="data:,">\n'
        f'<meta name="description" content="{escape(description)}">\n'
        f"<style>\n{_asset('report.css')}</style>\n</head>\n<body>\n{body}\n{_scripts(drawn)}</body>\n</html>\n"
    )


def _scripts(drawn: dict[str, Panel]) -> str:
    if not drawn:
        return f"<script>\n{_asset('report.js')}</script>\n"
    figures = {key: panel.plot.to_plotly_json() for key, panel in drawn.items()}
    night = {LIGHT[name]: DARK[name] for name in LIGHT}
    return (
        f'<script type="application/json" id="figures">{_json(figures)}</script>\n'
        f'<script type="application/json" id="night">{_json(night)}</script>\n'
        f'<script type="application/octet-stream" id="plotly-packed">{_plotly_packed()}</script>\n'
        f"<script>\n{_asset('report.js')}</script>\n"
    )


def _json(value: object) -> str:
    return json.dumps(value, allow_nan=False, separators=(",", ":"), ensure_ascii=False).replace("</", "<\\/")


@cache
def _plotly_packed() -> str:
    # Packed, the library takes two fifths of its size, and the page stays light enough to mail.
    return base64.b64encode(gzip.compress(get_plotlyjs().encode(), compresslevel=9, mtime=0)).decode("ascii")


@cache
def _asset(name: str) -> str:
    return files("farspan.report").joinpath("assets", name).read_text(encoding="utf-8")


def section(key: str, heading: str, lead: str, *parts: str) -> str:
    """A section under a heading; nothing if it would hold nothing. `lead` is HTML."""
    inner = "".join(parts)
    if not inner:
        return ""
    # A percent sign must not start a line.
    said = f'<p class="lead">{lead.replace(" %", units.SPACE + "%")}</p>' if lead else ""
    return f'<section id="{key}"><h2>{escape(heading)}</h2>{said}{inner}</section>'


def figures(panels: Sequence[Panel], drawn: dict[str, Panel], *, two: bool = False, level: int = 3) -> str:
    """Places for figures, noted in `drawn` so that `document` draws them."""
    if not panels:
        return ""
    drawn.update((panel.key, panel) for panel in panels)
    return f'<div class="panels{" two" if two else ""}">' + "".join(_panel(p, level) for p in panels) + "</div>"


def _panel(panel: Panel, level: int) -> str:
    title = f"<h{level}>{escape(panel.title[:1].upper() + panel.title[1:])}</h{level}>" if panel.title else ""
    height = panel.plot.layout.height
    return (
        f'<div class="panel">{title}<div class="plot" style="height:{height:g}px" data-figure="{escape(panel.key)}" '
        f'role="img" aria-label="{escape(panel.description)}"><p class="fallback">{_FALLBACK}</p></div></div>'
    )
