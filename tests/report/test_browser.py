"""The page in a browser: nothing loaded, no errors, every figure drawn, nothing wider than the screen, dark and print.

Needs Chromium. The page under test is the real one with a recorder put in front of it, in a frame of the width to be
tried; what it saw is written into the outer document, which Chromium prints.
"""

from __future__ import annotations

import json
import re
import shutil
import struct
import subprocess
from html import unescape
from pathlib import Path

import pytest

from farspan.report.rope import render_rope
from farspan.report.theme import DARK, LIGHT
from tests.report.conftest import EXAMPLES
from tests.report.test_rope import view_of

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium, chromium-browser or google-chrome on the path"),
]

RECORDER = """<script>
const seen = [];
addEventListener("error", (event) => seen.push(String(event.message)));
addEventListener("unhandledrejection", (event) => seen.push(String(event.reason)));
for (const level of ["error", "warn"]) {
  const say = console[level];
  console[level] = (...words) => { seen.push(words.join(" ")); say.apply(console, words); };
}
const color = (element, name) => element && getComputedStyle(element)[name];
const wide = () => [...document.querySelectorAll("body *")].filter((element) => {
  if (element.closest("svg, .scroll, .plot")) return false;
  const box = element.getBoundingClientRect();
  return box.width && (box.right > innerWidth + 0.5 || box.left < -0.5);
}).map((element) => element.outerHTML.slice(0, 120));
const clipped = () => [...document.querySelectorAll(".plot")].flatMap((plot) => {
  const room = plot.getBoundingClientRect();
  return [...plot.querySelectorAll("svg text")].filter((text) => {
    const box = text.getBoundingClientRect();
    return box.width && (box.right > room.right + 1 || box.left < room.left - 1);
  }).map((text) => `${plot.dataset.figure}: ${text.textContent}`);
});
setTimeout(() => {
  const found = {
    errors: seen,
    width: innerWidth,
    drawn: Number(document.documentElement.dataset.drawn || 0),
    places: document.querySelectorAll(".plot").length,
    figures: [...document.querySelectorAll(".plot")].filter((plot) => plot.querySelector("svg.main-svg")).length,
    loaded: performance.getEntriesByType("resource").map((entry) => entry.name),
    scroll: document.documentElement.scrollWidth,
    wide: wide(),
    clipped: clipped(),
    page: color(document.body, "backgroundColor"),
    plot: color(document.querySelector(".plot .main-svg"), "backgroundColor"),
  };
  document.querySelectorAll("details").forEach((part) => (part.open = true));
  found.opened = document.documentElement.scrollWidth;
  document.querySelectorAll("details").forEach((part) => (part.open = false));
  dispatchEvent(new Event("beforeprint"));
  found.printed = color(document.querySelector(".plot .main-svg"), "backgroundColor");
  found.unfolded = document.querySelectorAll("details.more:not([open])").length === 0;
  dispatchEvent(new Event("afterprint"));
  found.after = color(document.querySelector(".plot .main-svg"), "backgroundColor");
  parent.postMessage(JSON.stringify(found), "*");
}, 3000);
</script>"""
# A browser window is at least 500 pixels wide; a frame can be as narrow as a phone.
FRAME = """<!doctype html><body style="margin:0"><script>
addEventListener("message", (event) => (document.body.dataset.found = event.data));
</script><iframe src="report.html" width="{width}" height="1000" style="border:0"></iframe></body>"""


def browse(page: Path, profile: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    assert CHROMIUM is not None
    command = [
        *(CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
        *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars"),
        *("--enable-logging=stderr", "--v=0", "--virtual-time-budget=6000", f"--user-data-dir={profile}"),
        *(*flags, page.as_uri()),
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=110, check=True)


def rgb(color: str) -> str:
    return f"rgb({', '.join(str(int(color[i : i + 2], 16)) for i in (1, 3, 5))})"


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1400])
@pytest.mark.parametrize("name", EXAMPLES)
def test_page_in_the_browser(name: str, width: int, theme: str, built: dict[str, Path], tmp_path: Path) -> None:
    look(built[name].read_text(encoding="utf-8"), width, theme, tmp_path)


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1400])
def test_rotary_page_in_the_browser(width: int, theme: str, tmp_path: Path) -> None:
    look(render_rope(view_of("dprope", with_angles=True)), width, theme, tmp_path)


def look(text: str, width: int, theme: str, tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text(text.replace("<head>", "<head>" + RECORDER, 1), encoding="utf-8")
    page = tmp_path / "frame.html"
    page.write_text(FRAME.format(width=width), encoding="utf-8")
    scheme = f"--blink-settings=preferredColorScheme={0 if theme == 'dark' else 1}"
    run = browse(page, tmp_path / "profile", "--dump-dom", "--window-size=1500,1000", scheme)
    match = re.search(r'data-found="([^"]*)"', run.stdout)
    assert match, run.stderr[-2000:]
    found = json.loads(unescape(match[1]))
    palette = DARK if theme == "dark" else LIGHT
    assert found["errors"] == []
    assert "CONSOLE" not in run.stderr
    assert found["loaded"] == []
    assert found["width"] == width
    assert found["drawn"] == found["figures"] == found["places"] > 0
    assert found["scroll"] <= width
    assert found["wide"] == []
    assert found["clipped"] == []
    assert found["opened"] <= width
    assert found["page"] == found["plot"] == found["after"] == rgb(palette["paper"])
    assert found["printed"] == rgb(LIGHT["paper"])
    assert found["unfolded"]


@pytest.mark.parametrize("width", [400, 1400])
def test_screenshot(width: int, built: dict[str, Path], tmp_path: Path) -> None:
    picture = tmp_path / "report.png"
    run = browse(built["winner"], tmp_path / "profile", f"--screenshot={picture}", f"--window-size={width},3000")
    assert "CONSOLE" not in run.stderr
    data = picture.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", data[16:24]) == (width, 3000)
    # A page without its figures compresses to a fraction of this.
    assert len(data) > 150_000


def test_page_prints(built: dict[str, Path], tmp_path: Path) -> None:
    paper = tmp_path / "report.pdf"
    browse(built["winner"], tmp_path / "profile", f"--print-to-pdf={paper}", "--no-pdf-header-footer")
    data = paper.read_bytes()
    assert data[:5] == b"%PDF-"
    pages = len(re.findall(rb"/Type\s*/Page\b", data))
    assert 6 <= pages <= 14
